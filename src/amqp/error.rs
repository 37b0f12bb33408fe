//! What cannot be read from the wire, and how to say so.

use crate::amqp::ReplyCode;

/// Bytes that are not AMQP 0-9-1. Always closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} - {text}", code.name())]
pub struct DecodeError {
    /// The reply code of the `connection.close`.
    pub code: ReplyCode,
    /// The explanation, without the name of the reply code that goes in front of it.
    pub text: String,
    /// The class of the method at fault, 0 if there is none.
    pub class_id: u16,
    /// The method at fault, 0 if there is none.
    pub method_id: u16,
}

impl DecodeError {
    /// An error that no method is to blame for.
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), class_id: 0, method_id: 0 }
    }

    /// The same error, found while decoding this method.
    pub fn in_method(self, class_id: u16, method_id: u16) -> Self {
        Self { class_id, method_id, ..self }
    }

    /// A value that ends early, is too long or makes no sense.
    pub(crate) fn syntax(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::SyntaxError, text)
    }
}

/// Bytes as Erlang prints a binary of any kind: `<<0,60,255>>`. At most `max` of them.
pub(crate) fn octets(bytes: &[u8], max: usize) -> String {
    let octets: Vec<_> = bytes.iter().take(max).map(u8::to_string).collect();
    format!("<<{}>>", octets.join(","))
}
