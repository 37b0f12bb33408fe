//! The command line: what an operator asks of a running broker over its management API, RabbitMQ's commands, and the
//! conversion of RabbitMQ's configuration.
//!
//! `leveret list`, `publish`, `user add` and so on are in one file for each subject; [`Options`] says which broker they
//! ask. They work with RabbitMQ's management API as well. [`rabbitmq`] answers as `rabbitmqctl` does.

mod access;
mod api;
mod completions;
mod definitions;
mod failure;
mod file;
pub mod import_config;
mod limits;
mod list;
mod messages;
mod node;
mod options;
mod policies;
pub mod rabbitmq;
mod shovels;
mod table;
mod topology;

use std::process::ExitCode;

pub use completions::completions;
pub use options::{Format, Options};

use self::{failure::Failure, options::Context};
use crate::config::Environment;

/// A command to a running broker.
#[derive(clap::Subcommand)]
#[expect(missing_docs, reason = "each says in its own file what it is")]
pub enum Command {
    Status(Remote<node::Status>),
    Health(Remote<node::Health>),
    List(Remote<list::List>),
    Declare(Remote<topology::Declare>),
    Delete(Remote<topology::Delete>),
    Publish(Remote<messages::Publish>),
    Get(Remote<messages::Get>),
    Purge(Remote<messages::Purge>),
    Move(Remote<shovels::Move>),
    Shovel(Remote<shovels::Shovel>),
    Close(Remote<node::Close>),
    User(Remote<access::User>),
    Permission(Remote<access::Permission>),
    Vhost(Remote<access::Vhost>),
    Limit(Remote<limits::Limit>),
    Policy(Remote<policies::Policy>),
    Parameter(Remote<policies::Parameter>),
    Definitions(Remote<definitions::Definitions>),
    MemoryLimit(Remote<node::MemoryLimit>),
    Api(Remote<node::Request>),
}

// A command with the options that say which broker it is for. A docstring would be taken for the command's.
#[derive(clap::Args)]
#[expect(missing_docs, reason = "see above")]
pub struct Remote<T: clap::Args> {
    #[command(flatten)]
    task: T,
    #[command(flatten)]
    options: Options,
}

/// Something that a broker is asked to do.
trait Task {
    /// Asks for it, and prints what comes of it.
    fn run(self, context: &Context) -> Result<(), Failure>;
}

impl Command {
    /// Does it, and says in one line on standard error if that fails.
    pub fn run(self, environment: &Environment) -> ExitCode {
        let outcome = match self {
            Self::Status(remote) => run(remote, environment),
            Self::Health(remote) => run(remote, environment),
            Self::List(remote) => run(remote, environment),
            Self::Declare(remote) => run(remote, environment),
            Self::Delete(remote) => run(remote, environment),
            Self::Publish(remote) => run(remote, environment),
            Self::Get(remote) => run(remote, environment),
            Self::Purge(remote) => run(remote, environment),
            Self::Move(remote) => run(remote, environment),
            Self::Shovel(remote) => run(remote, environment),
            Self::Close(remote) => run(remote, environment),
            Self::User(remote) => run(remote, environment),
            Self::Permission(remote) => run(remote, environment),
            Self::Vhost(remote) => run(remote, environment),
            Self::Limit(remote) => run(remote, environment),
            Self::Policy(remote) => run(remote, environment),
            Self::Parameter(remote) => run(remote, environment),
            Self::Definitions(remote) => run(remote, environment),
            Self::MemoryLimit(remote) => run(remote, environment),
            Self::Api(remote) => run(remote, environment),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        }
    }
}

fn run<T: clap::Args + Task>(remote: Remote<T>, environment: &Environment) -> Result<(), Failure> {
    let context = remote.options.context(environment)?;
    remote.task.run(&context)
}
