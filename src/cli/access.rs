//! `leveret user`, `permission` and `vhost`: who may do what, and where.

use serde_json::{Map, Value, json};

use super::{Context, Failure, Task, api::path, options::first_line, topology::in_vhost};

/// Add, change and delete users.
#[derive(clap::Args)]
pub struct User {
    #[command(subcommand)]
    action: UserAction,
}

#[derive(clap::Subcommand)]
enum UserAction {
    /// Add a user that is not there yet. Without permissions, which `leveret permission set` gives, it can do nothing
    Add {
        name: String,
        #[command(flatten)]
        password: NewPassword,
        /// administrator, monitoring, policymaker, management, impersonator, or your own; separated by commas
        #[arg(long, value_name = "TAGS", value_delimiter = ',')]
        tags: Vec<String>,
        /// Also give every permission in the virtual host
        #[arg(long)]
        full_access: bool,
    },
    /// Give a user another password
    Password {
        name: String,
        #[command(flatten)]
        password: NewPassword,
    },
    /// Give a user these tags, and no others
    Tags { name: String, tags: Vec<String> },
    /// Delete a user, and close its connections
    Delete { name: String },
}

/// The password of a user that is made or changed.
#[derive(clap::Args)]
struct NewPassword {
    /// The user's password. Others on this machine can see what is given here
    #[arg(long = "new-password", value_name = "TEXT", required_unless_present_any = ["hash", "file"])]
    text: Option<String>,
    /// File whose first line is the user's password; - reads it from standard input
    #[arg(long = "new-password-file", value_name = "FILE", conflicts_with_all = ["text", "hash"])]
    file: Option<String>,
    /// RabbitMQ's password_hash, with SHA-256
    #[arg(long = "password-hash", value_name = "BASE64", conflicts_with = "text")]
    hash: Option<String>,
}

/// Say what users may do in a virtual host.
#[derive(clap::Args)]
pub struct Permission {
    #[command(subcommand)]
    action: PermissionAction,
}

#[derive(clap::Subcommand)]
enum PermissionAction {
    /// Let a user do what these regular expressions match, and nothing else, with queues and exchanges
    Set {
        #[arg(value_name = "USER")]
        name: String,
        /// Names that it may declare and delete
        #[arg(default_value = ".*")]
        configure: String,
        /// Names that it may publish and bind to
        #[arg(default_value = ".*")]
        write: String,
        /// Names that it may consume and bind from
        #[arg(default_value = ".*")]
        read: String,
    },
    /// Let a user no longer into the virtual host
    Clear {
        #[arg(value_name = "USER")]
        name: String,
    },
    /// Let a user publish to and bind from a topic exchange with matching routing keys only
    SetTopic {
        #[arg(value_name = "USER")]
        name: String,
        exchange: String,
        write: String,
        read: String,
    },
    /// Let a user use all routing keys again, of all topic exchanges
    ClearTopic {
        #[arg(value_name = "USER")]
        name: String,
    },
}

/// Add, change and delete virtual hosts.
#[derive(clap::Args)]
pub struct Vhost {
    #[command(subcommand)]
    action: VhostAction,
}

#[derive(clap::Subcommand)]
enum VhostAction {
    /// Add a virtual host. Users need permissions to use it
    Add {
        name: String,
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Tags, separated by commas
        #[arg(long, value_name = "TAGS")]
        tags: Option<String>,
    },
    /// Tell amq.rabbitmq.trace of every message there, or no longer
    Tracing {
        name: String,
        #[arg(value_enum)]
        state: Switch,
    },
    /// Delete a virtual host and all that is in it
    Delete { name: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

impl Task for User {
    fn run(self, context: &Context) -> Result<(), Failure> {
        match self.action {
            UserAction::Add { name, password, tags, full_access } => {
                let mut body = password.body()?;
                body.insert("tags".into(), Value::from(tags.join(",")));
                // The API would replace its password and its tags.
                if is_there(context, &["users", &name])? {
                    return Err(Failure::Refused(format!(
                        "user '{name}' is there already; `leveret user password` and `leveret user tags` change it"
                    )));
                }
                context.api.put(&path(&["users", &name]), &Value::Object(body))?;
                if full_access {
                    let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
                    let vhost = context.vhost();
                    let permission = path(&["permissions", vhost, &name]);
                    context.api.put(&permission, &all).map_err(|failure| in_vhost(failure, vhost))?;
                }
                context.say(format!("user '{name}' is there"))
            }
            UserAction::Password { name, password } => {
                let tags = tags(&user(context, &name)?);
                let mut body = password.body()?;
                body.insert("tags".into(), Value::from(tags));
                context.api.put(&path(&["users", &name]), &Value::Object(body))?;
                context.say(format!("user '{name}' has another password"))
            }
            UserAction::Tags { name, tags } => {
                put_tags(context, &name, &tags.join(","))?;
                context.say(format!("user '{name}' has the tags [{}]", tags.join(", ")))
            }
            UserAction::Delete { name } => {
                let deleted = context.api.delete(&path(&["users", &name]));
                deleted.map_err(|failure| failure.missing(format!("user '{name}'")))?;
                context.say(format!("user '{name}' is deleted"))
            }
        }
    }
}

impl NewPassword {
    /// As the API takes it.
    fn body(self) -> Result<Map<String, Value>, Failure> {
        let (key, value) = match (self.text, self.file, self.hash) {
            (_, _, Some(hash)) => ("password_hash", hash),
            (_, Some(file), _) => ("password", first_line(&file)?.expose().to_owned()),
            (text, _, _) => ("password", text.unwrap_or_default()),
        };
        if value.is_empty() {
            return Err(Failure::Usage("the password is empty, which nobody could log in with".into()));
        }
        Ok(Map::from_iter([(key.to_owned(), Value::from(value))]))
    }
}

/// Whether there is such a thing.
fn is_there(context: &Context, segments: &[&str]) -> Result<bool, Failure> {
    match context.api.get(&path(segments)) {
        Ok(_) => Ok(true),
        Err(Failure::Missing(_)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn user(context: &Context, name: &str) -> Result<Value, Failure> {
    let user = context.api.get(&path(&["users", name]));
    user.map_err(|failure| failure.missing(format!("user '{name}'")))
}

/// The tags of a user as RabbitMQ takes them; before 3.9 it also answers so.
pub(super) fn tags(user: &Value) -> String {
    match &user["tags"] {
        Value::Array(tags) => tags.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        tags => tags.as_str().unwrap_or_default().to_owned(),
    }
}

/// Gives a user other tags, and leaves its password.
pub(super) fn put_tags(context: &Context, name: &str, tags: &str) -> Result<(), Failure> {
    let user = user(context, name)?;
    let body = json!({
        "password_hash": user["password_hash"],
        "hashing_algorithm": user["hashing_algorithm"],
        "tags": tags,
    });
    context.api.put(&path(&["users", name]), &body).map(drop)
}

impl Task for Permission {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vhost = context.vhost();
        let missing = |failure: Failure, user: &str| {
            failure.missing(format!("user '{user}', or no virtual host '{vhost}'"))
        };
        match self.action {
            PermissionAction::Set { name: user, configure, write, read } => {
                let body = json!({"configure": configure, "write": write, "read": read});
                let done = context.api.put(&path(&["permissions", vhost, &user]), &body);
                done.map_err(|failure| missing(failure, &user))?;
                context.say(format!("user '{user}' has permissions in virtual host '{vhost}'"))
            }
            PermissionAction::Clear { name: user } => {
                let done = context.api.delete(&path(&["permissions", vhost, &user]));
                done.map_err(|failure| {
                    failure.missing(format!("permission of user '{user}' in virtual host '{vhost}'"))
                })?;
                context.say(format!("user '{user}' has no permissions in virtual host '{vhost}'"))
            }
            PermissionAction::SetTopic { name: user, exchange, write, read } => {
                let body = json!({"exchange": exchange, "write": write, "read": read});
                let done = context.api.put(&path(&["topic-permissions", vhost, &user]), &body);
                done.map_err(|failure| missing(failure, &user))?;
                context.say(format!("user '{user}' has topic permissions for '{exchange}' in '{vhost}'"))
            }
            PermissionAction::ClearTopic { name: user } => {
                let done = context.api.delete(&path(&["topic-permissions", vhost, &user]));
                done.map_err(|failure| missing(failure, &user))?;
                context.say(format!("user '{user}' has no topic permissions in '{vhost}'"))
            }
        }
    }
}

impl Task for Vhost {
    fn run(self, context: &Context) -> Result<(), Failure> {
        match self.action {
            VhostAction::Add { name, description, tags } => {
                let mut body = Map::new();
                body.extend(description.map(|text| ("description".to_owned(), Value::from(text))));
                body.extend(tags.map(|tags| ("tags".to_owned(), Value::from(tags))));
                let (was_there, is_changed) = (is_there(context, &["vhosts", &name])?, !body.is_empty());
                if !was_there || is_changed {
                    context.api.put(&path(&["vhosts", &name]), &Value::Object(body))?;
                }
                context.say(match (was_there, is_changed) {
                    (false, _) => format!("virtual host '{name}' is there"),
                    (true, false) => format!("virtual host '{name}' is there already"),
                    (true, true) => format!("virtual host '{name}' is there already, and is described anew"),
                })
            }
            VhostAction::Tracing { name, state } => {
                let path = path(&["vhosts", &name]);
                // The API would make it.
                context.api.get(&path).map_err(|failure| in_vhost(failure, &name))?;
                context.api.put(&path, &json!({"tracing": state == Switch::On}))?;
                let state = if state == Switch::On { "is traced" } else { "is not traced" };
                context.say(format!("virtual host '{name}' {state}"))
            }
            VhostAction::Delete { name } => {
                context.api.delete(&path(&["vhosts", &name])).map_err(|failure| in_vhost(failure, &name))?;
                context.say(format!("virtual host '{name}' is deleted"))
            }
        }
    }
}
