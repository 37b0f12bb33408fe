//! The `broker.toml` that is being made.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use toml::{Table, Value};

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Draft {
    sections: Table,
    /// The addresses of listeners, and the port that they all have.
    pub(super) listeners: Listeners,
    /// The user of `default_user` and the like.
    first: User,
    /// Those of `default_users`, by their names.
    others: BTreeMap<String, User>,
    /// `default_vhost`.
    pub(super) vhost: Option<String>,
    /// Who may connect from this machine only, or may again.
    pub(super) loopback: BTreeMap<String, bool>,
    /// Whether RabbitMQ would let guest in from anywhere.
    pub(super) no_loopback: bool,
}

#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) port: Option<u16>,
}

/// A user that is there from the start.
#[derive(Clone, Debug, Default)]
pub(super) struct User {
    pub(super) name: Option<String>,
    pub(super) password: Option<String>,
    pub(super) tags: Vec<String>,
    pub(super) configure: Option<String>,
    pub(super) write: Option<String>,
    pub(super) read: Option<String>,
    pub(super) vhost: Option<String>,
    /// Whether a key speaks of the user at all.
    pub(super) is_there: bool,
}

impl Draft {
    /// Sets a key of a section.
    pub(super) fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        let section = self.sections.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Some(section) = section.as_table_mut() {
            section.insert(key.to_owned(), value.into());
        }
    }

    /// The value of a key of a section.
    pub(super) fn get(&self, section: &str, key: &str) -> Option<&Value> {
        self.sections.get(section)?.get(key)
    }

    /// The first user.
    pub(super) fn first_user(&mut self) -> &mut User {
        self.first.is_there = true;
        &mut self.first
    }

    /// Another user.
    pub(super) fn user(&mut self, name: &str) -> &mut User {
        let user = self.others.entry(name.to_owned()).or_default();
        user.is_there = true;
        user.name = Some(name.to_owned());
        user
    }

    /// All of it.
    pub(super) fn text(mut self) -> String {
        let addresses: Vec<Value> =
            self.listeners.addresses.iter().map(|address| Value::String(address.to_string())).collect();
        if !addresses.is_empty() {
            self.set("listeners", "bind", addresses);
        }
        let mut text = "# From rabbitmq.conf, by leveret import-config. What is not here has its default: broker.toml of \
                        the\n# distribution shows every key.\n"
            .to_owned();
        for (name, section) in &self.sections {
            _ = writeln!(text, "\n[{name}]");
            for (key, value) in section.as_table().into_iter().flatten() {
                // Writing to a String does not fail.
                _ = writeln!(text, "{key} = {value}");
            }
        }
        self.write_users(&mut text);
        text
    }

    /// Virtual hosts and users, if the file speaks of any: naming some takes the place of the default ones.
    fn write_users(&self, text: &mut String) {
        let users = self.users();
        let default = self.vhost.as_deref().unwrap_or("/");
        let mut vhosts = vec![default];
        vhosts.extend(users.iter().filter_map(|user| user.vhost.as_deref()));
        vhosts.sort_unstable();
        vhosts.dedup();
        if vhosts != ["/"] {
            for vhost in vhosts {
                _ = write!(text, "\n[[vhosts]]\nname = {}\n", quoted(vhost));
            }
        }
        for user in users {
            let name = user.name.as_deref().unwrap_or("guest");
            let loopback = match self.loopback.get(name) {
                Some(loopback) => *loopback,
                None => name == "guest" && !self.no_loopback,
            };
            let tags: Vec<Value> = user.tags.iter().map(|tag| Value::String(tag.clone())).collect();
            let pattern = |pattern: &Option<String>| quoted(pattern.as_deref().unwrap_or(".*"));
            _ = write!(
                text,
                "\n[[users]]\nname = {}\npassword = {}\ntags = {}\nloopback_only = {loopback}\n\
                 permissions = [{{ vhost = {}, configure = {}, write = {}, read = {} }}]\n",
                quoted(name),
                quoted(user.password.as_deref().unwrap_or("guest")),
                Value::Array(tags),
                quoted(user.vhost.as_deref().unwrap_or(default)),
                pattern(&user.configure),
                pattern(&user.write),
                pattern(&user.read),
            );
        }
    }

    /// The users to write: none if all is as it is by default.
    fn users(&self) -> Vec<User> {
        let guest_stays = self.loopback.get("guest").copied().unwrap_or(!self.no_loopback);
        if !self.first.is_there && self.others.is_empty() && guest_stays && self.vhost.is_none() {
            return Vec::new();
        }
        let administrator = vec!["administrator".to_owned()];
        let tags = if self.first.tags.is_empty() { administrator } else { self.first.tags.clone() };
        let mut users = vec![User { tags, ..self.first.clone() }];
        users.extend(self.others.values().cloned());
        users
    }
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
