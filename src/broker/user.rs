//! Users, and whether someone who connects is one.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::Md5;
use serde::Deserialize;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

/// The users of a broker, by name. They may change while it runs.
#[derive(Debug)]
pub struct Users {
    by_name: RwLock<HashMap<Arc<str>, Arc<User>>>,
    generation: AtomicU64,
    /// What the password of an unknown user is compared with, so that the answer takes as long as for a known one.
    decoy: PasswordHash,
}

/// Someone who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, which is also what `user_id` of a message must say.
    pub name: Arc<str>,
    /// What the password is checked against.
    pub password: PasswordHash,
    /// Roles, such as `administrator` or `impersonator`.
    pub tags: Vec<String>,
    /// Whether the user may connect from this machine only.
    pub loopback_only: bool,
    /// How many connections the user may have; `None` for no limit.
    pub connections_max: Option<u32>,
    /// How many channels the user may have, over all connections; `None` for no limit.
    pub channels_max: Option<u32>,
}

/// A password as it is kept: a salt, and the hash of salt and password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    algorithm: HashingAlgorithm,
    salt: Salt,
    /// 16, 32 or 64 bytes by algorithm; empty for no password.
    digest: Vec<u8>,
}

/// The salt of a password, in RabbitMQ's length.
pub type Salt = [u8; 4];

/// The hash function of a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashingAlgorithm {
    /// SHA-256, as RabbitMQ uses unless told otherwise.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
    /// MD5, which RabbitMQ had before 3.6. Old hashes are still verified by it; no new ones should be made.
    Md5,
}

/// Why someone may not connect; the text is for the log. A client is told only that it was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthFailure {
    /// No such user, or another password.
    #[error("user '{0}' - invalid credentials")]
    InvalidCredentials(String),
    /// An empty password, which never matches.
    #[error("user '{0}' attempted to log in with a blank password, which is prohibited")]
    BlankPassword(String),
    /// Too many logins have failed: the password was not looked at.
    #[error("user '{0}' - too many failed logins from this address")]
    TooManyFailures(String),
    /// The right password from the wrong place.
    #[error("user '{0}' can only connect via localhost")]
    LoopbackOnly(String),
}

/// Why a text is no password hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a password hash is the base64 of {0} bytes: a salt of 4, and the hash of salt and password")]
pub struct HashError(usize);

impl Users {
    /// No users. `salt` is random; it serves names that don't exist.
    pub fn new(salt: Salt) -> Self {
        Self {
            by_name: RwLock::default(),
            generation: AtomicU64::new(0),
            decoy: PasswordHash::new(HashingAlgorithm::default(), salt, b"decoy"),
        }
    }

    /// The user of that name, if the password is right and the user may connect from there.
    ///
    /// # Errors
    /// Why not, for the log.
    pub fn authenticate(
        &self,
        name: &str,
        password: &[u8],
        peer_is_loopback: bool,
    ) -> Result<Arc<User>, AuthFailure> {
        if password.is_empty() {
            return Err(AuthFailure::BlankPassword(loggable(name)));
        }
        let user = self.get(name);
        let matches = user.as_ref().map_or(&self.decoy, |user| &user.password).verify(password);
        match user {
            Some(user) if matches && user.loopback_only && !peer_is_loopback => {
                Err(AuthFailure::LoopbackOnly(loggable(name)))
            }
            Some(user) if matches => Ok(user),
            _ => Err(AuthFailure::InvalidCredentials(loggable(name))),
        }
    }

    /// The user of that name, of whom something better than a password is known, if the user may connect from there.
    ///
    /// # Errors
    /// Why not, for the log.
    pub fn admit(&self, name: &str, peer_is_loopback: bool) -> Result<Arc<User>, AuthFailure> {
        match self.get(name) {
            Some(user) if user.loopback_only && !peer_is_loopback => {
                Err(AuthFailure::LoopbackOnly(loggable(name)))
            }
            Some(user) => Ok(user),
            None => Err(AuthFailure::InvalidCredentials(loggable(name))),
        }
    }

    /// The user of that name.
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// A number that grows with every change. A session looks its user up again when it has.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds a user, or replaces the one of that name.
    pub fn put(&self, user: impl Into<Arc<User>>) {
        let user = user.into();
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        by_name.insert(Arc::clone(&user.name), user);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Removes the user of that name; whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::Release);
        by_name.remove(name).is_some()
    }

    /// All users, in no order.
    pub fn list(&self) -> Vec<Arc<User>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl User {
    /// Whether the user has that tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

impl PasswordHash {
    /// The hash of a password. `salt` is random.
    pub fn new(algorithm: HashingAlgorithm, salt: Salt, password: &[u8]) -> Self {
        Self { algorithm, salt, digest: algorithm.digest(salt, password) }
    }

    /// No password: whatever is given is wrong. RabbitMQ's form of it is the empty text.
    pub fn none(algorithm: HashingAlgorithm) -> Self {
        Self { algorithm, salt: Salt::default(), digest: Vec::new() }
    }

    /// Whether no password is right.
    pub fn is_none(&self) -> bool {
        self.digest.is_empty()
    }

    /// Reads RabbitMQ's form, the base64 of salt and hash.
    ///
    /// # Errors
    /// If it is no base64, or not of the length that the algorithm gives.
    pub fn from_base64(algorithm: HashingAlgorithm, text: &str) -> Result<Self, HashError> {
        let error = HashError(size_of::<Salt>() + algorithm.len());
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| error)?;
        match bytes.split_first_chunk() {
            Some((salt, digest)) if digest.len() == algorithm.len() => {
                Ok(Self { algorithm, salt: *salt, digest: digest.to_vec() })
            }
            _ => Err(error),
        }
    }

    /// RabbitMQ's form, which [`PasswordHash::from_base64`] reads.
    pub fn to_base64(&self) -> String {
        if self.is_none() {
            return String::new();
        }
        BASE64_STANDARD.encode([&self.salt[..], &self.digest].concat())
    }

    /// The hash function.
    pub fn algorithm(&self) -> HashingAlgorithm {
        self.algorithm
    }

    /// Whether that is the password. Takes as long for any password of that length.
    pub fn verify(&self, password: &[u8]) -> bool {
        self.algorithm.digest(self.salt, password).ct_eq(&self.digest).into()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

impl HashingAlgorithm {
    /// Bytes of a hash.
    fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Md5 => 16,
        }
    }

    /// RabbitMQ's name for it in the API and in definitions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "rabbit_password_hashing_sha256",
            Self::Sha512 => "rabbit_password_hashing_sha512",
            Self::Md5 => "rabbit_password_hashing_md5",
        }
    }

    /// Reads RabbitMQ's name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha512, Self::Md5].into_iter().find(|known| known.name() == name)
    }

    fn digest(self, salt: Salt, password: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::new().chain_update(salt).chain_update(password).finalize().to_vec(),
            Self::Sha512 => Sha512::new().chain_update(salt).chain_update(password).finalize().to_vec(),
            Self::Md5 => Md5::new().chain_update(salt).chain_update(password).finalize().to_vec(),
        }
    }
}

/// A name that a stranger chose: as much of it as a name may have, and all on one line.
pub(super) fn loggable(name: &str) -> String {
    name.chars().take(255).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What RabbitMQ 3.10.8 made of the password `pw`.
    const RABBITMQ_SHA256: &str = "Fn3sHpdcoA9mi5OA2/79JHToPuQ66gphsMXbXux4HmDWwBJv";

    /// The password `pw` with another implementation of SHA-512.
    const SHA512: &str =
        "AQIDBFEKgg91QUjXOoEuIijrYjDJqmh1G3gQJEpEZS2FiDEOS23JGoN2eht5cR6qAC4KAE7kqph8wGA/9reOn6y+bcw=";

    const MD5: &str = "AQIDBJR91gt1SAWTmvD+VzA7MFU=";

    fn users() -> Users {
        let users = Users::new([9; 4]);
        for (name, loopback_only) in [("ann", false), ("guest", true)] {
            users.put(User {
                name: name.into(),
                password: PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], b"right"),
                tags: vec!["monitoring".into()],
                loopback_only,
                connections_max: None,
                channels_max: None,
            });
        }
        users
    }

    #[test]
    fn the_right_password_lets_a_user_in() {
        let user = users().authenticate("ann", b"right", false).unwrap();
        assert_eq!(&*user.name, "ann");
        assert!(user.has_tag("monitoring") && !user.has_tag("monitor"));
    }

    #[test]
    fn unknown_users_and_wrong_passwords_are_refused_alike() {
        for name in ["ann", "nobody"] {
            for password in [&b"wrong"[..], b"righ", b"right ", b"decoy"] {
                let failure = users().authenticate(name, password, true).unwrap_err();
                assert_eq!(failure.to_string(), format!("user '{name}' - invalid credentials"));
            }
        }
    }

    #[test]
    fn a_strangers_name_stays_on_one_line_of_the_log() {
        let name = format!("a\n{}", "b".repeat(1000));
        let text = users().authenticate(&name, b"x", true).unwrap_err().to_string();
        assert!(text.starts_with("user 'a\\nbb") && text.len() < 300, "{text}");
    }

    #[test]
    fn a_blank_password_is_refused_even_if_it_is_the_users() {
        let users = users();
        let password = PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], b"");
        let ann = users.get("ann").unwrap();
        users.put(User { password, ..User::clone(&ann) });
        let failure = users.authenticate("ann", b"", true).unwrap_err();
        assert_eq!(failure, AuthFailure::BlankPassword("ann".into()));
    }

    #[test]
    fn a_loopback_only_user_is_told_apart_only_with_the_right_password() {
        let users = users();
        assert!(users.authenticate("guest", b"right", true).is_ok());
        let failure = users.authenticate("guest", b"right", false).unwrap_err();
        assert_eq!(failure.to_string(), "user 'guest' can only connect via localhost");
        let failure = users.authenticate("guest", b"wrong", false).unwrap_err();
        assert_eq!(failure, AuthFailure::InvalidCredentials("guest".into()));
    }

    #[test]
    fn a_user_who_is_known_otherwise_needs_no_password() {
        let users = users();
        assert!(users.admit("ann", false).is_ok() && users.admit("guest", true).is_ok());
        assert_eq!(users.admit("guest", false), Err(AuthFailure::LoopbackOnly("guest".into())));
        assert_eq!(users.admit("nobody", true), Err(AuthFailure::InvalidCredentials("nobody".into())));
    }

    #[test]
    fn users_change_at_run_time() {
        let users = users();
        assert!(users.remove("ann") && !users.remove("ann"));
        assert!(users.authenticate("ann", b"right", true).is_err());
        assert_eq!(users.list().len(), 1);
    }

    #[test]
    fn rabbitmqs_hashes_are_read_and_written() {
        for (algorithm, text) in
            [(HashingAlgorithm::Sha256, RABBITMQ_SHA256), (HashingAlgorithm::Sha512, SHA512)]
        {
            let hash = PasswordHash::from_base64(algorithm, text).unwrap();
            assert!(hash.verify(b"pw") && !hash.verify(b"pW"));
            assert_eq!((hash.algorithm(), hash.to_base64().as_str()), (algorithm, text));
        }
    }

    #[test]
    fn a_hash_of_another_length_or_alphabet_is_refused() {
        for text in ["", "AQID", "not base64!", SHA512] {
            let error = PasswordHash::from_base64(HashingAlgorithm::Sha256, text).unwrap_err();
            assert!(error.to_string().contains("base64 of 36 bytes"), "{text}");
        }
    }

    /// What `md5sum` makes of the octets 1 2 3 4 and `pw`.
    #[test]
    fn md5_of_old_definitions_is_verified() {
        let hash = PasswordHash::from_base64(HashingAlgorithm::Md5, MD5).unwrap();
        assert!(hash.verify(b"pw") && !hash.verify(b"pW"));
        assert_eq!(hash.to_base64(), MD5);
    }

    #[test]
    fn without_a_password_none_is_right() {
        let hash = PasswordHash::none(HashingAlgorithm::Sha256);
        assert!(hash.is_none() && !hash.verify(b"") && !hash.verify(b"pw"));
        assert_eq!(hash.to_base64(), "");
    }

    #[test]
    fn debug_output_hides_the_hash() {
        let hash = PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], b"right");
        assert_eq!(format!("{hash:?}"), "<hidden>");
    }
}
