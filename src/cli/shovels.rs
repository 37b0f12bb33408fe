//! `leveret move` and `leveret shovel`: messages from one queue to another, here or on another broker.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{
    Context, Failure, Task,
    api::path,
    options::{Progress, pause},
    topology::queue,
};

/// How often a move is looked at.
const POLL: Duration = Duration::from_millis(250);
/// How long a shovel may take to be seen.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Move all messages of a queue to another queue, here or on another AMQP broker.
///
/// A shovel within the broker does it: each message is acknowledged once the other side has confirmed it. Waits until
/// the messages that were there are moved, unless --no-wait.
#[derive(clap::Args)]
pub struct Move {
    /// Queue to move from
    from: String,
    /// Queue to move to; with --to-exchange, the routing key
    to: String,
    /// Broker to move from [default: this one, in the virtual host]
    #[arg(long, value_name = "AMQP_URI")]
    from_uri: Option<String>,
    /// Broker to move to [default: this one, in the virtual host]
    #[arg(long, value_name = "AMQP_URI")]
    to_uri: Option<String>,
    /// Publish to this exchange, not to a queue
    #[arg(long, value_name = "NAME")]
    to_exchange: Option<String>,
    /// on-confirm, on-publish or no-ack: how sure it has to be that nothing is lost
    #[arg(long, value_name = "MODE", default_value = "on-confirm")]
    ack_mode: String,
    /// How many messages are on their way at a time
    #[arg(long, value_name = "N", default_value_t = 1000)]
    prefetch: u32,
    /// Go on with what comes later, until `leveret shovel delete`
    #[arg(long)]
    forever: bool,
    /// Start it, and do not wait
    #[arg(long)]
    no_wait: bool,
    /// Name of the shovel [default: made from the queue's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Restart and delete shovels: `leveret list shovels` shows them, `leveret move` makes them.
#[derive(clap::Args)]
pub struct Shovel {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Connect anew
    Restart { name: String },
    /// End it; messages that are not moved stay
    Delete { name: String },
}

impl Task for Move {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vhost = context.vhost();
        if self.from_uri.is_none() {
            let queue_path = path(&["queues", vhost, &self.from]);
            context.api.get(&queue_path).map_err(|failure| failure.missing(queue(&self.from, vhost)))?;
        }
        let name = self.name.clone().unwrap_or_else(|| format!("move {} to {}", self.from, self.to));
        let body = json!({"component": "shovel", "vhost": vhost, "name": name, "value": self.value(vhost)});
        context.api.put(&path(&["parameters", "shovel", vhost, &name]), &body)?;
        if self.no_wait || self.forever {
            return context.say(format!("shovel '{name}' has started"));
        }
        wait(context, &name, &mut context.progress())?;
        context.say(format!("the messages of '{}' are moved to '{}'", self.from, self.to))
    }
}

impl Move {
    /// The definition of the shovel.
    fn value(&self, vhost: &str) -> Value {
        let here = format!("amqp:///{}", path(&[vhost]));
        let text = |value: &Option<String>| Value::from(value.clone().unwrap_or_else(|| here.clone()));
        let mut value = Map::from_iter([
            ("src-protocol".to_owned(), Value::from("amqp091")),
            ("src-uri".to_owned(), text(&self.from_uri)),
            ("src-queue".to_owned(), Value::from(self.from.as_str())),
            ("src-prefetch-count".to_owned(), Value::from(self.prefetch)),
            ("dest-protocol".to_owned(), Value::from("amqp091")),
            ("dest-uri".to_owned(), text(&self.to_uri)),
            ("ack-mode".to_owned(), Value::from(self.ack_mode.as_str())),
        ]);
        if !self.forever {
            value.insert("src-delete-after".to_owned(), Value::from("queue-length"));
        }
        match &self.to_exchange {
            Some(exchange) => {
                value.insert("dest-exchange".to_owned(), Value::from(exchange.as_str()));
                value.insert("dest-exchange-key".to_owned(), Value::from(self.to.as_str()));
            }
            None => {
                value.insert("dest-queue".to_owned(), Value::from(self.to.as_str()));
            }
        }
        Value::Object(value)
    }
}

/// Until a shovel that ends by itself has done so.
fn wait(context: &Context, name: &str, progress: &mut Progress) -> Result<(), Failure> {
    let vhost = context.vhost();
    let parameter = path(&["parameters", "shovel", vhost, name]);
    let started = Instant::now();
    let mut seen = false;
    loop {
        // The parameter goes when its work is done; so its state is asked for first.
        let shovels = context.api.list(&path(&["shovels", vhost]))?;
        let status = shovels.iter().find(|shovel| shovel["name"] == name);
        match context.api.get(&parameter) {
            Err(Failure::Missing(_)) => return Ok(()),
            other => other?,
        };
        if let Some(status) = status {
            seen = true;
            let remaining = status["remaining"].as_u64();
            progress.show(&match remaining {
                Some(remaining) => format!("{remaining} messages remain"),
                None => format!("shovel '{name}' is {}", status["state"].as_str().unwrap_or("unknown")),
            });
            if status["state"] == "terminated" {
                let reason = &status["reason"];
                let reason = reason.as_str().map_or_else(|| reason.to_string(), str::to_owned);
                return Err(Failure::Failed(format!(
                    "shovel '{name}' has ended: {reason}; `leveret shovel delete` removes it"
                )));
            }
        } else if !seen && started.elapsed() > START_TIMEOUT {
            return Err(Failure::Failed(format!(
                "shovel '{name}' does not start; `leveret list shovels` tells more"
            )));
        }
        pause(POLL);
    }
}

impl Task for Shovel {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vhost = context.vhost();
        let missing = |failure: Failure, name: &str| {
            failure.missing(format!("shovel '{name}' in virtual host '{vhost}'"))
        };
        match self.action {
            Action::Restart { name } => {
                let path = path(&["shovels", "vhost", vhost, &name, "restart"]);
                context.api.delete(&path).map_err(|failure| missing(failure, &name))?;
                context.say(format!("shovel '{name}' is restarted"))
            }
            Action::Delete { name } => {
                let path = path(&["parameters", "shovel", vhost, &name]);
                context.api.delete(&path).map_err(|failure| missing(failure, &name))?;
                context.say(format!("shovel '{name}' is deleted"))
            }
        }
    }
}
