//! Every "no" of the broker: a reply code and the text that RabbitMQ gives with it.

use std::fmt;

use crate::amqp::{DecodeError, ReplyCode};

/// Why a method is refused. The scope of `code` decides whether the channel or the connection closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reply code on the wire.
    pub code: ReplyCode,
    /// The explanation, without the code's name in front.
    pub text: String,
    /// Class and method ids to report where they are not those of the method at hand.
    pub method: Option<(u16, u16)>,
}

/// A thing with a name in a virtual host, printed as RabbitMQ prints it: `queue 'q' in vhost '/'`.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// `queue` or `exchange`.
    pub kind: &'static str,
    /// Its name.
    pub name: &'a str,
    /// The virtual host it lives in.
    pub virtual_host: &'a str,
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, self.name, self.virtual_host)
    }
}

impl Refusal {
    /// A refusal with any code.
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), method: None }
    }

    /// 403 `ACCESS_REFUSED`.
    pub fn access_refused(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::AccessRefused, text)
    }

    /// 404 `NOT_FOUND`.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::NotFound, text)
    }

    /// 404 for a queue or an exchange: `no queue 'q' in vhost '/'`.
    pub fn no(resource: Resource<'_>) -> Self {
        Self::not_found(format!("no {resource}"))
    }

    /// 406 `PRECONDITION_FAILED`.
    pub fn precondition_failed(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::PreconditionFailed, text)
    }

    /// 530 `NOT_ALLOWED`: closes the connection.
    pub fn not_allowed(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::NotAllowed, text)
    }

    /// 540 `NOT_IMPLEMENTED`: closes the connection.
    pub fn not_implemented(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::NotImplemented, text)
    }

    /// 405 for a queue that belongs to another connection.
    pub fn locked(resource: Resource<'_>) -> Self {
        Self::new(
            ReplyCode::ResourceLocked,
            format!(
                "cannot obtain exclusive access to locked {resource}. It could be originally declared on \
                 another connection or the exclusive property value does not match that of the original \
                 declaration."
            ),
        )
    }

    /// The reply text on the wire: `NAME - explanation`, at most 255 octets. As in RabbitMQ, a longer one ends in
    /// dots.
    pub fn reply_text(&self) -> String {
        let mut text = format!("{} - {}", self.code.name(), self.text);
        if text.len() > 255 {
            text.truncate(text.floor_char_boundary(252));
            text.push_str("...");
        }
        text
    }

    /// The same refusal, reported for another method than the one at hand.
    #[must_use]
    pub fn for_method(mut self, class_id: u16, method_id: u16) -> Self {
        self.method = Some((class_id, method_id));
        self
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self { code: error.code, text: error.text, method: Some((error.class_id, error.method_id)) }
    }
}
