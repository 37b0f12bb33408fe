//! `leveret declare` and `leveret delete`: queues, exchanges and bindings.

use serde_json::{Map, Value, json};

use super::{Context, Failure, Task, api::path, table::value_at};

/// Declare a queue, an exchange or a binding.
///
/// Declaring what is there already changes nothing; with other arguments the broker refuses it.
#[derive(clap::Args)]
pub struct Declare {
    #[command(subcommand)]
    what: Declared,
}

#[derive(clap::Subcommand)]
enum Declared {
    /// Declare a queue
    Queue {
        name: String,
        /// classic or quorum
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// Gone after a restart
        #[arg(long)]
        transient: bool,
        /// Deleted with its last consumer
        #[arg(long)]
        auto_delete: bool,
        /// Milliseconds after which messages expire
        #[arg(long, value_name = "MS")]
        message_ttl: Option<u64>,
        /// Ready messages that it holds
        #[arg(long, value_name = "N")]
        max_length: Option<u64>,
        /// Exchange for what is rejected or expires
        #[arg(long, value_name = "EXCHANGE")]
        dead_letter_exchange: Option<String>,
        #[command(flatten)]
        arguments: Arguments,
    },
    /// Declare an exchange
    Exchange {
        name: String,
        /// direct, fanout, topic, headers, x-consistent-hash, x-delayed-message, ...
        #[arg(long = "type", value_name = "TYPE", default_value = "direct")]
        kind: String,
        /// Gone after a restart
        #[arg(long)]
        transient: bool,
        /// Deleted with its last binding
        #[arg(long)]
        auto_delete: bool,
        /// Only other exchanges may publish to it
        #[arg(long)]
        internal: bool,
        #[command(flatten)]
        arguments: Arguments,
    },
    /// Bind a queue, or an exchange, to an exchange
    Binding {
        /// Exchange that messages come from
        source: String,
        /// Queue that they go to
        destination: String,
        /// The destination is an exchange
        #[arg(long)]
        to_exchange: bool,
        /// Routing key, or a pattern for a topic exchange
        #[arg(short = 'k', long, value_name = "KEY", default_value = "")]
        key: String,
        #[command(flatten)]
        arguments: Arguments,
    },
}

/// Arguments of what is declared.
#[derive(Default, clap::Args)]
struct Arguments {
    /// An argument such as x-max-priority=10: the value is JSON, or else text. May be repeated
    #[arg(short, long = "argument", value_name = "NAME=VALUE", value_parser = argument)]
    argument: Vec<(String, Value)>,
}

/// Delete a queue, an exchange or a binding.
#[derive(clap::Args)]
pub struct Delete {
    #[command(subcommand)]
    what: Deleted,
}

#[derive(clap::Subcommand)]
enum Deleted {
    /// Delete a queue and its messages
    Queue {
        name: String,
        /// Only if it has no messages
        #[arg(long)]
        if_empty: bool,
        /// Only if it has no consumers
        #[arg(long)]
        if_unused: bool,
    },
    /// Delete an exchange and its bindings
    Exchange {
        name: String,
        /// Only if it has no bindings
        #[arg(long)]
        if_unused: bool,
    },
    /// Delete a binding
    Binding {
        source: String,
        destination: String,
        /// The destination is an exchange
        #[arg(long)]
        to_exchange: bool,
        /// Routing key
        #[arg(short = 'k', long, value_name = "KEY", default_value = "")]
        key: String,
        #[command(flatten)]
        arguments: Arguments,
    },
}

/// `name=value`, where the value is JSON or else text.
pub(super) fn argument(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("an argument is NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

impl Task for Declare {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vhost = context.vhost();
        match self.what {
            Declared::Queue {
                name,
                kind,
                transient,
                auto_delete,
                message_ttl,
                max_length,
                dead_letter_exchange,
                arguments,
            } => {
                let mut arguments = arguments.table();
                let own = [
                    ("x-queue-type", kind.map(Value::from)),
                    ("x-message-ttl", message_ttl.map(Value::from)),
                    ("x-max-length", max_length.map(Value::from)),
                    ("x-dead-letter-exchange", dead_letter_exchange.map(Value::from)),
                ];
                let given = own.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
                arguments.extend(given);
                let body = json!({"durable": !transient, "auto_delete": auto_delete, "arguments": arguments});
                context.api.put(&path(&["queues", vhost, &name]), &body).map_err(|e| in_vhost(e, vhost))?;
                context.say(format!("queue '{name}' is declared"))
            }
            Declared::Exchange { name, kind, transient, auto_delete, internal, arguments } => {
                let body = json!({
                    "type": kind,
                    "durable": !transient,
                    "auto_delete": auto_delete,
                    "internal": internal,
                    "arguments": arguments.table(),
                });
                context
                    .api
                    .put(&path(&["exchanges", vhost, &name]), &body)
                    .map_err(|e| in_vhost(e, vhost))?;
                context.say(format!("exchange '{name}' is declared"))
            }
            Declared::Binding { source, destination, to_exchange, key, arguments } => {
                let body = json!({"routing_key": key, "arguments": arguments.table()});
                let path = binding_path(vhost, &source, &destination, to_exchange);
                let what = || {
                    format!("exchange '{source}' or destination '{destination}' in virtual host '{vhost}'")
                };
                context.api.post(&path, &body).map_err(|failure| failure.missing(what()))?;
                context.say(format!("'{destination}' is bound to '{source}'"))
            }
        }
    }
}

impl Task for Delete {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vhost = context.vhost();
        match self.what {
            Deleted::Queue { name, if_empty, if_unused } => {
                let query = match (if_empty, if_unused) {
                    (false, false) => "",
                    (true, false) => "?if-empty=true",
                    (false, true) => "?if-unused=true",
                    (true, true) => "?if-empty=true&if-unused=true",
                };
                let path = path(&["queues", vhost, &name]) + query;
                context.api.delete(&path).map_err(|failure| failure.missing(queue(&name, vhost)))?;
                context.say(format!("queue '{name}' is deleted"))
            }
            Deleted::Exchange { name, if_unused } => {
                let path =
                    path(&["exchanges", vhost, &name]) + if if_unused { "?if-unused=true" } else { "" };
                let what = || format!("exchange '{name}' in virtual host '{vhost}'");
                context.api.delete(&path).map_err(|failure| failure.missing(what()))?;
                context.say(format!("exchange '{name}' is deleted"))
            }
            Deleted::Binding { source, destination, to_exchange, key, arguments } => {
                let all = binding_path(vhost, &source, &destination, to_exchange);
                let arguments = Value::Object(arguments.table());
                let bindings = context.api.list(&all)?;
                let is_meant = |binding: &&Value| {
                    value_at(binding, "routing_key") == key.as_str()
                        && value_at(binding, "arguments") == &arguments
                };
                let found =
                    bindings.iter().find(is_meant).and_then(|binding| binding["properties_key"].as_str());
                let Some(properties) = found else {
                    let what =
                        format!("binding of '{destination}' to '{source}' with that key and those arguments");
                    return Err(Failure::Missing(format!("there is no {what}")));
                };
                // It is encoded already: it is a segment of a path.
                context.api.delete(&format!("{all}/{}", properties.replace('/', "%2F")))?;
                context.say(format!("'{destination}' is no longer bound to '{source}'"))
            }
        }
    }
}

impl Arguments {
    fn table(&self) -> Map<String, Value> {
        self.argument.iter().cloned().collect()
    }
}

fn binding_path(vhost: &str, source: &str, destination: &str, to_exchange: bool) -> String {
    path(&["bindings", vhost, "e", source, if to_exchange { "e" } else { "q" }, destination])
}

/// What a queue is called in a message.
pub(super) fn queue(name: &str, vhost: &str) -> String {
    format!("queue '{name}' in virtual host '{vhost}'")
}

/// What the API does not find when something is to be made.
pub(super) fn in_vhost(failure: Failure, vhost: &str) -> Failure {
    failure.missing(format!("virtual host '{vhost}'"))
}
