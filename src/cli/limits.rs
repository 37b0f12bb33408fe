//! `leveret limit`: how much a virtual host or a user may have.

use serde_json::json;

use super::{Context, Failure, Task, api::path};

/// Limit what a virtual host or a user may have.
#[derive(clap::Args)]
pub struct Limit {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Set a limit: max-connections or max-queues of a virtual host, max-connections or max-channels of a user. A
    /// negative value is no limit
    #[command(allow_negative_numbers = true)]
    Set {
        #[command(flatten)]
        owner: Owner,
        limit: String,
        value: i64,
    },
    /// Remove a limit
    Clear {
        #[command(flatten)]
        owner: Owner,
        limit: String,
    },
}

#[derive(clap::Args)]
struct Owner {
    /// The limit is that of this user, not of the virtual host
    #[arg(long, value_name = "NAME")]
    of_user: Option<String>,
}

impl Task for Limit {
    fn run(self, context: &Context) -> Result<(), Failure> {
        match self.action {
            Action::Set { owner, limit, value } => {
                let done = context.api.put(&owner.path(context, &limit), &json!({"value": value}));
                done.map_err(|failure| failure.missing(owner.name(context)))?;
                context.say(format!("{limit} of {} is {value}", owner.name(context)))
            }
            Action::Clear { owner, limit } => {
                let done = context.api.delete(&owner.path(context, &limit));
                done.map_err(|failure| failure.missing(owner.name(context)))?;
                context.say(format!("{} has no {limit}", owner.name(context)))
            }
        }
    }
}

impl Owner {
    fn path(&self, context: &Context, limit: &str) -> String {
        match &self.of_user {
            Some(user) => path(&["user-limits", user, limit]),
            None => path(&["vhost-limits", context.vhost(), limit]),
        }
    }

    fn name(&self, context: &Context) -> String {
        match &self.of_user {
            Some(user) => format!("user '{user}'"),
            None => format!("virtual host '{}'", context.vhost()),
        }
    }
}
