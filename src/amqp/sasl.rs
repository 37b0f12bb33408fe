//! Responses of the two SASL mechanisms that every client knows: PLAIN (RFC 4616) and AMQPLAIN.

use crate::amqp::{
    DecodeError,
    table::{find_raw, validate_table},
};

/// What a client says who it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password, any bytes.
    pub password: Vec<u8>,
}

impl Credentials {
    /// A name that is not UTF-8 gets replacement characters: no such user exists, and the login is refused as such.
    fn new(user: &[u8], password: &[u8]) -> Self {
        Self { user: String::from_utf8_lossy(user).into_owned(), password: password.to_vec() }
    }
}

/// Without the password: credentials end up in logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Reads a PLAIN response: `NUL user NUL password`.
///
/// # Errors
/// Anything else, an authorisation identity in front of the first NUL and a NUL in the password included (RabbitMQ
/// refuses both).
pub fn plain(response: &[u8]) -> Result<Credentials, DecodeError> {
    let mut parts = response.split(|&byte| byte == 0);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(b""), Some(user), Some(password), None) => Ok(Credentials::new(user, password)),
        _ => Err(DecodeError::syntax("malformed response of mechanism PLAIN")),
    }
}

/// Reads an AMQPLAIN response: a field table without its length, with the strings LOGIN and PASSWORD.
///
/// # Errors
/// A response that is no such table.
pub fn amqplain(response: &[u8]) -> Result<Credentials, DecodeError> {
    validate_table(response)?;
    let text = |name| find_raw(response, name).filter(|value| matches!(value.kind, b'S' | b'x'));
    match (text("LOGIN"), text("PASSWORD")) {
        (Some(login), Some(password)) => Ok(Credentials::new(login.bytes, password.bytes)),
        _ => Err(DecodeError::syntax("AMQPLAIN auth info is missing LOGIN or PASSWORD field")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(credentials: Credentials) -> (String, Vec<u8>) {
        (credentials.user, credentials.password)
    }

    #[test]
    fn plain_is_read() {
        assert_eq!(pair(plain(b"\0guest\0p\xffw").unwrap()), ("guest".into(), b"p\xffw".to_vec()));
        assert_eq!(pair(plain(b"\0\0").unwrap()), (String::new(), vec![]));
    }

    #[test]
    fn plain_with_too_few_or_too_many_parts_is_refused() {
        for response in [&b""[..], b"guest", b"\0guest", b"guest\0guest\0guest", b"\0guest\0guest\0x"] {
            assert!(plain(response).is_err(), "{response:?}");
        }
    }

    #[test]
    fn amqplain_is_read() {
        let response = b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x02pw";
        assert_eq!(pair(amqplain(response).unwrap()), ("guest".into(), b"pw".to_vec()));
    }

    #[test]
    fn amqplain_without_both_strings_is_refused() {
        for response in [
            &b""[..],
            b"\x05LOGINS\0\0\0\x05guest",
            b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDI\0\0\0\x02",
            b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x09pw",
        ] {
            assert!(amqplain(response).is_err(), "{response:?}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let credentials = plain(b"\0guest\0secret").unwrap();
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
