//! What users may do in a virtual host.
//!
//! A permission is three regular expressions over the names of queues and exchanges, and a topic permission two more
//! over routing keys, searched for as RabbitMQ does: found anywhere in a name unless anchored, and empty for the
//! empty name only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use regex::{Regex, RegexBuilder};

/// The longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 4096;

/// What a compiled pattern may take, in bytes: a short one can ask for much.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// The name by which permissions know the default exchange.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// The permissions of all users in all virtual hosts. They may change while the broker runs.
#[derive(Debug, Default)]
pub struct Permissions {
    /// By user, then by virtual host, so that a look-up needs no key made for it.
    grants: RwLock<HashMap<String, HashMap<String, Grants>>>,
    generation: AtomicU64,
}

/// What someone wants to do with a queue or an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Declare or delete it.
    Configure,
    /// Put messages in: publish, bind as destination.
    Write,
    /// Take messages out: consume, get, purge, bind as source.
    Read,
}

/// What a user may do in a virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

/// Which routing keys a user may use with a topic exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPermission {
    write: Pattern,
    read: Pattern,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than [`PATTERN_BYTES_MAX`].
    #[error("a pattern has at most {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// No regular expression, or one that needs look-around or back-references.
    #[error("'{pattern}' is not a regular expression that is supported: {reason}")]
    Syntax {
        /// The text.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A regular expression.
///
/// Deviation: RabbitMQ takes PCRE. Look-around and back-references are refused here, for matching them can take time
/// exponential in the length of a name that a client chooses.
#[derive(Clone, Debug)]
struct Pattern {
    /// As it was given, before names were put in.
    text: Box<str>,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.regex.as_str()) == (&other.text, other.regex.as_str())
    }
}
impl Eq for Pattern {}

/// What one user has in one virtual host.
#[derive(Debug, Default)]
struct Grants {
    permission: Option<Permission>,
    /// By exchange.
    topics: HashMap<String, TopicPermission>,
}

impl Permissions {
    /// No permissions.
    pub fn new() -> Self {
        Self::default()
    }

    /// A number that grows with every change. A session may keep a decision as long as this stays the same, if it
    /// read the number before it asked.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether `user` may enter `vhost`: whether there is a permission, even one that allows nothing.
    pub fn vhost_access(&self, user: &str, vhost: &str) -> bool {
        self.with(user, vhost, |grants| grants.permission.is_some()).unwrap_or(false)
    }

    /// Whether `user` may do that with the queue or exchange named `resource` in `vhost`. The default exchange is
    /// the empty name.
    pub fn check(&self, user: &str, vhost: &str, resource: &str, access: Access) -> bool {
        let resource = if resource.is_empty() { DEFAULT_EXCHANGE } else { resource };
        let allowed =
            |grants: &Grants| grants.permission.as_ref().is_some_and(|p| p.allows(resource, access));
        self.with(user, vhost, allowed).unwrap_or(false)
    }

    /// Whether `user` may publish to (write) or bind from (read) a topic exchange with that routing key. Without a
    /// topic permission for the exchange any key will do. Topic permissions come on top of [`Permissions::check`].
    pub fn check_topic(
        &self,
        user: &str,
        vhost: &str,
        exchange: &str,
        routing_key: &str,
        access: Access,
    ) -> bool {
        let allowed =
            |grants: &Grants| grants.topics.get(exchange).is_none_or(|p| p.allows(routing_key, access));
        self.with(user, vhost, allowed).unwrap_or(true)
    }

    /// What `user` may do in `vhost`; `None` if not even enter it.
    pub fn get(&self, user: &str, vhost: &str) -> Option<Permission> {
        self.with(user, vhost, |grants| grants.permission.clone())?
    }

    /// The topic permission of `user` for `exchange` in `vhost`, if there is one.
    pub fn get_topic(&self, user: &str, vhost: &str, exchange: &str) -> Option<TopicPermission> {
        self.with(user, vhost, |grants| grants.topics.get(exchange).cloned())?
    }

    /// All permissions: user, virtual host, and what the user may do there; in no order.
    pub fn list(&self) -> Vec<(String, String, Permission)> {
        self.all(|grants| grants.permission.clone().into_iter().collect())
    }

    /// All topic permissions: user, virtual host, and the exchange and what is allowed with it; in no order.
    pub fn list_topics(&self) -> Vec<(String, String, (String, TopicPermission))> {
        self.all(|grants| {
            grants
                .topics
                .iter()
                .map(|(exchange, permission)| (exchange.clone(), permission.clone()))
                .collect()
        })
    }

    fn all<T>(&self, pick: impl Fn(&Grants) -> Vec<T>) -> Vec<(String, String, T)> {
        let users = self.grants.read().unwrap_or_else(PoisonError::into_inner);
        let grants = users
            .iter()
            .flat_map(|(user, vhosts)| vhosts.iter().map(move |(vhost, grants)| (user, vhost, grants)));
        grants
            .flat_map(|(user, vhost, grants)| {
                pick(grants).into_iter().map(|picked| (user.clone(), vhost.clone(), picked))
            })
            .collect()
    }

    /// Gives `user` that permission in `vhost`, in place of the one there was.
    pub fn grant(&self, user: &str, vhost: &str, permission: Permission) {
        self.change(|users| grants(users, user, vhost).permission = Some(permission));
    }

    /// Takes the permission of `user` in `vhost` away. Topic permissions stay.
    pub fn revoke(&self, user: &str, vhost: &str) {
        self.change(|users| {
            if let Some(grants) = users.get_mut(user).and_then(|vhosts| vhosts.get_mut(vhost)) {
                grants.permission = None;
            }
        });
    }

    /// Gives `user` that topic permission for `exchange` in `vhost`, in place of the one there was.
    pub fn grant_topic(&self, user: &str, vhost: &str, exchange: &str, permission: TopicPermission) {
        self.change(|users| grants(users, user, vhost).topics.insert(exchange.to_owned(), permission));
    }

    /// Takes the topic permission of `user` for `exchange` in `vhost` away, so that any routing key will do again.
    pub fn revoke_topic(&self, user: &str, vhost: &str, exchange: &str) {
        self.change(|users| {
            users
                .get_mut(user)
                .and_then(|vhosts| vhosts.get_mut(vhost))
                .map(|grants| grants.topics.remove(exchange))
        });
    }

    /// Forgets a user who is deleted.
    pub fn remove_user(&self, user: &str) {
        self.change(|users| users.remove(user));
    }

    /// Forgets a virtual host that is deleted.
    pub fn remove_vhost(&self, vhost: &str) {
        self.change(|users| users.values_mut().for_each(|vhosts| drop(vhosts.remove(vhost))));
    }

    fn with<T>(&self, user: &str, vhost: &str, look: impl FnOnce(&Grants) -> T) -> Option<T> {
        let users = self.grants.read().unwrap_or_else(PoisonError::into_inner);
        users.get(user)?.get(vhost).map(look)
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<String, HashMap<String, Grants>>) -> T) {
        let mut users = self.grants.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut users);
        // Under the lock: whoever reads the new number waits for the new permissions.
        self.generation.fetch_add(1, Ordering::Release);
    }
}

fn grants<'a>(
    users: &'a mut HashMap<String, HashMap<String, Grants>>,
    user: &str,
    vhost: &str,
) -> &'a mut Grants {
    users.entry(user.to_owned()).or_default().entry(vhost.to_owned()).or_default()
}

impl Permission {
    /// From three patterns.
    ///
    /// # Errors
    /// The first that is none.
    pub fn new(configure: &str, write: &str, read: &str) -> Result<Self, PatternError> {
        Ok(Self {
            configure: Pattern::new(configure)?,
            write: Pattern::new(write)?,
            read: Pattern::new(read)?,
        })
    }

    /// The pattern of what the user may declare and delete.
    pub fn configure(&self) -> &str {
        &self.configure.text
    }

    /// The pattern of what the user may put messages into.
    pub fn write(&self) -> &str {
        &self.write.text
    }

    /// The pattern of what the user may take messages from.
    pub fn read(&self) -> &str {
        &self.read.text
    }

    fn allows(&self, resource: &str, access: Access) -> bool {
        match access {
            Access::Configure => self.configure.finds(resource),
            Access::Write => self.write.finds(resource),
            Access::Read => self.read.finds(resource),
        }
    }
}

impl TopicPermission {
    /// From two patterns, in which `{username}` and `{vhost}` stand for `user` and `vhost`.
    ///
    /// Deviation: RabbitMQ puts these names in as they are, so that in a name such as `a.b` the dot matches any
    /// character. Here they match themselves only.
    ///
    /// # Errors
    /// The first that is no pattern.
    pub fn new(user: &str, vhost: &str, write: &str, read: &str) -> Result<Self, PatternError> {
        let expand = |pattern: &str| {
            let pattern = pattern.replace("{username}", &regex::escape(user));
            let pattern = pattern.replace("{vhost}", &regex::escape(vhost));
            // Known to MQTT clients only: for others it stands for itself, as in RabbitMQ.
            pattern.replace("{client_id}", r"\{client_id\}")
        };
        Ok(Self {
            write: Pattern::meaning(write, &expand(write))?,
            read: Pattern::meaning(read, &expand(read))?,
        })
    }

    /// The pattern of the keys to publish with, as it was given.
    pub fn write(&self) -> &str {
        &self.write.text
    }

    /// The pattern of the keys to bind with, as it was given.
    pub fn read(&self) -> &str {
        &self.read.text
    }

    /// There is nothing to configure about a routing key.
    fn allows(&self, routing_key: &str, access: Access) -> bool {
        match access {
            Access::Configure => true,
            Access::Write => self.write.finds(routing_key),
            Access::Read => self.read.finds(routing_key),
        }
    }
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, PatternError> {
        Self::meaning(pattern, pattern)
    }

    /// What is given as `text` and means `pattern`.
    fn meaning(text: &str, pattern: &str) -> Result<Self, PatternError> {
        let source = if pattern.is_empty() { "^$" } else { pattern };
        compile(source).map(|regex| Self { text: text.into(), regex })
    }

    fn finds(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }
}

/// A regular expression that takes bounded memory, and whose matching takes time linear in what it is matched with.
pub(super) fn compile(pattern: &str) -> Result<Regex, PatternError> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(PatternError::TooLong);
    }
    let regex = RegexBuilder::new(pattern).size_limit(COMPILED_BYTES_MAX).build();
    regex.map_err(|error| PatternError::Syntax { pattern: pattern.into(), reason: reason(&error) })
}

/// The last line of what the library says, which is the reason; the others draw the place in the pattern.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or(&text);
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One user, `ann`, with these patterns in `/`.
    fn permissions(configure: &str, write: &str, read: &str) -> Permissions {
        let permissions = Permissions::new();
        permissions.grant("ann", "/", Permission::new(configure, write, read).unwrap());
        permissions
    }

    fn topic_permissions(write: &str, read: &str) -> Permissions {
        let permissions = permissions(".*", ".*", ".*");
        permissions.grant_topic(
            "ann",
            "/",
            "amq.topic",
            TopicPermission::new("ann", "/", write, read).unwrap(),
        );
        permissions
    }

    #[test]
    fn each_access_has_its_pattern() {
        let permissions = permissions("^c", "^w", "^r");
        for (access, name) in [(Access::Configure, "c"), (Access::Write, "w"), (Access::Read, "r")] {
            for resource in ["c", "w", "r"] {
                assert_eq!(permissions.check("ann", "/", resource, access), resource == name);
            }
        }
    }

    #[test]
    fn patterns_are_found_anywhere_unless_anchored() {
        let permissions = permissions("bc", "^bc$", "");
        assert!(permissions.check("ann", "/", "abcd", Access::Configure));
        assert!(!permissions.check("ann", "/", "abxd", Access::Configure));
        assert!(!permissions.check("ann", "/", "abcd", Access::Write));
    }

    #[test]
    fn the_empty_pattern_allows_no_name_but_entering() {
        let permissions = permissions("", "", "");
        assert!(permissions.vhost_access("ann", "/"));
        assert!(!permissions.check("ann", "/", "a", Access::Configure));
        assert!(!permissions.check("ann", "/", "", Access::Write));
    }

    #[test]
    fn the_default_exchange_is_checked_as_amq_default() {
        let permissions = permissions("", "^amq\\.default$", "");
        assert!(permissions.check("ann", "/", "", Access::Write));
        assert!(!permissions.check("ann", "/", "q", Access::Write));
    }

    #[test]
    fn without_an_entry_there_is_no_access() {
        let permissions = permissions(".*", ".*", ".*");
        for (user, vhost) in [("ann", "other"), ("bob", "/")] {
            assert!(!permissions.vhost_access(user, vhost));
            assert!(!permissions.check(user, vhost, "q", Access::Read));
        }
    }

    #[test]
    fn a_topic_permission_is_for_its_exchange_only() {
        let permissions = topic_permissions("^a\\.", "");
        assert!(permissions.check_topic("ann", "/", "amq.topic", "a.b", Access::Write));
        assert!(!permissions.check_topic("ann", "/", "amq.topic", "b.a", Access::Write));
        assert!(!permissions.check_topic("ann", "/", "amq.topic", "a.b", Access::Read));
        assert!(permissions.check_topic("ann", "/", "amq.topic", "", Access::Read));
        assert!(permissions.check_topic("ann", "/", "other", "b.a", Access::Write));
        assert!(permissions.check_topic("ann", "other", "amq.topic", "b.a", Access::Write));
        assert!(permissions.check_topic("bob", "/", "amq.topic", "b.a", Access::Write));
    }

    #[test]
    fn names_in_topic_patterns_stand_for_themselves() {
        let pattern = TopicPermission::new("a.b", "v", "^{username}@{vhost}$", "^{client_id}$").unwrap();
        assert!(pattern.allows("a.b@v", Access::Write));
        assert!(!pattern.allows("axb@v", Access::Write));
        assert!(pattern.allows("{client_id}", Access::Read));
    }

    #[test]
    fn patterns_are_told_as_they_were_given() {
        let permission = Permission::new("", "^w", ".*").unwrap();
        assert_eq!([permission.configure(), permission.write(), permission.read()], ["", "^w", ".*"]);
        let permission = TopicPermission::new("ann", "/", "^{username}-{client_id}", "{vhost}").unwrap();
        assert_eq!([permission.write(), permission.read()], ["^{username}-{client_id}", "{vhost}"]);
    }

    #[test]
    fn what_is_revoked_is_gone_and_the_rest_stays() {
        let permissions = topic_permissions("^a$", "^a$");
        permissions.revoke("ann", "/");
        assert!(!permissions.vhost_access("ann", "/"));
        assert!(!permissions.check_topic("ann", "/", "amq.topic", "b", Access::Write));
        permissions.revoke_topic("ann", "/", "amq.topic");
        assert!(permissions.check_topic("ann", "/", "amq.topic", "b", Access::Write));
    }

    #[test]
    fn deleted_users_and_virtual_hosts_leave_nothing() {
        let permissions = permissions(".*", ".*", ".*");
        permissions.grant("bob", "/", Permission::new("", "", "").unwrap());
        permissions.remove_user("ann");
        assert!(!permissions.vhost_access("ann", "/") && permissions.vhost_access("bob", "/"));
        permissions.remove_vhost("/");
        assert!(!permissions.vhost_access("bob", "/"));
    }

    #[test]
    fn every_change_makes_a_new_generation() {
        let permissions = Permissions::new();
        let mut last = permissions.generation();
        let mut changed = || {
            let now = permissions.generation();
            std::mem::replace(&mut last, now) < now
        };
        permissions.grant("ann", "/", Permission::new("", "", "").unwrap());
        assert!(changed());
        permissions.grant_topic("ann", "/", "x", TopicPermission::new("ann", "/", "", "").unwrap());
        assert!(changed());
        permissions.revoke_topic("ann", "/", "x");
        assert!(changed());
        permissions.revoke("ann", "/");
        assert!(changed());
        permissions.remove_vhost("/");
        assert!(changed());
        permissions.remove_user("ann");
        assert!(changed());
        permissions.check("ann", "/", "q", Access::Read);
        assert!(!changed());
    }

    #[test]
    fn patterns_that_cost_too_much_are_refused() {
        for (pattern, reason) in [
            ("(", "unclosed group"),
            ("(?!x)", "look-around"),
            (r"(a)\1", "backreferences are not supported"),
            ("((a{100}){100}){100}", "size limit"),
            (&"a".repeat(PATTERN_BYTES_MAX + 1), "at most 4096 bytes"),
        ] {
            let error = Permission::new("", "", pattern).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
