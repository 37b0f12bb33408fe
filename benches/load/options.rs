//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use clap::error::ErrorKind;

/// Publishes that a backlog may have unconfirmed, unless `--confirm` says otherwise.
const BACKLOG_WINDOW: u32 = 1000;

/// Measures what a message costs an AMQP 0-9-1 broker, and checks that it arrived once and in order.
#[derive(Parser, Clone, Debug)]
#[command(name = "load", bin_name = "cargo bench --bench load --")]
pub(crate) struct Options {
    /// HOST:PORT of a running broker, or the path of a leveret program to start [default: the one just built]
    #[arg(long, value_name = "BROKER", default_value = env!("CARGO_BIN_EXE_leveret"), hide_default_value = true)]
    pub(crate) address: Target,
    /// Process id of the broker at --address (for RabbitMQ that of beam.smp)
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// A second broker, as --address: the runs alternate and the report has the ratio
    #[arg(long, value_name = "BROKER")]
    pub(crate) against: Option<Target>,
    /// Process id of the broker at --against
    #[arg(long, value_name = "PID", requires = "against")]
    pub(crate) against_pid: Option<u32>,
    /// Who logs in
    #[arg(long, default_value = "guest")]
    pub(crate) user: String,
    /// The user's password
    #[arg(long, default_value = "guest")]
    pub(crate) password: String,
    /// The virtual host of all connections
    #[arg(long, default_value = "/")]
    pub(crate) vhost: String,

    /// Bytes in a body; 16 or more to check for loss, doubles and order
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=128 << 20))]
    pub(crate) size: u32,
    /// Publishing connections; the routing keys are dealt out to them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) publishers: u16,
    /// Queues
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) queues: u32,
    /// Consuming connections; the queues are dealt out to them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) consumers: u16,
    /// A fanout exchange with N queues, in place of the default exchange
    #[arg(long, value_name = "N", conflicts_with_all = ["topic", "queues"], value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) fanout: Option<u32>,
    /// A topic exchange with N bindings `load.I.*`, of which each message matches one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) topic: Option<u32>,

    /// Consume without acknowledgement (the default)
    #[arg(long, conflicts_with = "ack_every")]
    pub(crate) auto_ack: bool,
    /// Acknowledge every N deliveries (multiple, if N > 1)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) ack_every: Option<u64>,
    /// Unacknowledged deliveries a consumer may have; 0 is any number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) prefetch: u16,
    /// Publisher confirms, with at most N publishes unconfirmed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) confirm: Option<u32>,
    /// Publish with delivery mode 2
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Declare durable queues and exchanges
    #[arg(long)]
    pub(crate) durable: bool,

    /// Seconds that are measured in each run
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// Seconds before that
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    pub(crate) warmup: f64,
    /// Runs; the report has the median of each figure
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// Publish this many messages per second in all, evenly; without it, as many as the broker takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Messages in one write, at most
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) batch: u32,
    /// Messages that may be published and not yet delivered, so that no backlog grows; 0 is any number
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) max_lag: u64,

    /// Where the files of a broker started here go, in a directory that is removed at the end [default: target/tmp]
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"), hide_default_value = true)]
    pub(crate) directory: PathBuf,

    /// Measure the time from exec to the ready file instead, and memory when idle
    #[arg(long, group = "instead", conflicts_with = "against")]
    pub(crate) start: bool,
    /// Measure the memory of N idle connections instead, each with one channel
    #[arg(long, value_name = "N", group = "instead", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) idle: Option<u32>,
    /// Measure N durable queues without a message instead: memory, open files, restarts
    #[arg(long, value_name = "N", group = "instead", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) idle_queues: Option<u32>,
    /// Measure N persistent messages that wait for a consumer instead: memory, restarts, draining, purge, delete
    #[arg(long, value_name = "N", group = "instead", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) backlog: Option<u32>,
    /// Measure the confirm of one persistent message at a time instead, in turn with a bare append and fdatasync
    #[arg(long, group = "instead", conflicts_with_all = ["confirm", "rate"])]
    pub(crate) sync: bool,

    /// Given by `cargo bench`; without effect
    #[arg(long, hide = true)]
    bench: bool,
    /// Given by `cargo test --benches`: one run of a tenth of a second
    #[arg(long, hide = true)]
    test: bool,
}

/// A broker to measure.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// One that runs already, at this `HOST:PORT`.
    Running(String),
    /// A leveret program, started for the measurement.
    Program(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        if text.contains('/') {
            return Ok(Target::Program(text.into()));
        }
        let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(_)) => Ok(Target::Running(text.into())),
            _ => Err("expected HOST:PORT, or a path with a `/` in it".into()),
        }
    }
}

impl Options {
    /// The options of this process; ends it with status 2 if they make no sense.
    pub(crate) fn parse() -> Options {
        let mut options = <Options as Parser>::parse();
        if let Err(text) = options.check() {
            <Options as clap::CommandFactory>::command().error(ErrorKind::ValueValidation, text).exit();
        }
        options.imply();
        if options.test {
            (options.warmup, options.seconds, options.runs) = (0.0, 0.1, 1);
        }
        options
    }

    fn check(&self) -> Result<(), &'static str> {
        let running = |target: &Target| matches!(target, Target::Running(_));
        if self.pid.is_some() && !running(&self.address) {
            return Err("--pid needs --address HOST:PORT: a program started here is known");
        }
        let copies = self.fanout.is_some() || self.topic.is_some();
        if copies && (self.sync || self.backlog.is_some() || self.idle_queues.is_some()) {
            return Err(
                "--sync, --backlog and --idle-queues use the default exchange: no --fanout, no --topic",
            );
        }
        if self.start && running(&self.address) {
            return Err("--start needs a program to start, not an address");
        }
        if !(self.seconds > 0.0 && self.seconds <= 3600.0 && (0.0..=3600.0).contains(&self.warmup)) {
            return Err("--seconds and --warmup: at most 3600");
        }
        match self.ack_every {
            None if self.prefetch > 0 => Err("--prefetch needs --ack-every: auto-ack knows no prefetch"),
            Some(n) if self.prefetch > 0 && n > u64::from(self.prefetch) => {
                Err("--ack-every above --prefetch never acknowledges anything")
            }
            _ => Ok(()),
        }
    }

    /// Sets what follows from other options.
    fn imply(&mut self) {
        self.queues = self.fanout.or(self.idle_queues).unwrap_or(self.queues);
        self.durable |= self.idle_queues.is_some();
        if self.backlog.is_some() || self.sync {
            (self.durable, self.persistent, self.max_lag) = (true, true, 0);
            self.confirm = if self.sync { Some(1) } else { self.confirm.or(Some(BACKLOG_WINDOW)) };
            self.warmup = 0.0;
        }
    }

    /// How many messages a publisher has to publish, if it is not a matter of time.
    pub(crate) fn quota(&self, publisher: u16) -> u64 {
        let (publisher, publishers) = (u32::from(publisher), u32::from(self.publishers));
        self.backlog
            .map_or(u64::MAX, |all| (all / publishers + u32::from(publisher < all % publishers)).into())
    }

    /// How many queues get a copy of each message.
    pub(crate) fn copies(&self) -> u64 {
        u64::from(self.fanout.unwrap_or(1))
    }

    /// The queues that a consumer reads.
    pub(crate) fn queues_of(&self, consumer: u16) -> Vec<u32> {
        let (consumer, consumers) = (u32::from(consumer), u32::from(self.consumers));
        if consumers >= self.queues {
            vec![consumer % self.queues]
        } else {
            (consumer..self.queues).step_by(consumers as usize).collect()
        }
    }

    /// Whether a queue has one consumer only, which then sees every message of it.
    pub(crate) fn one_consumer(&self, queue: u32) -> bool {
        queue + self.queues >= u32::from(self.consumers)
    }

    /// The scenario in words.
    pub(crate) fn describe(&self) -> String {
        let exchange = match (self.fanout, self.topic) {
            (Some(_), _) => "fanout".into(),
            (_, Some(n)) => format!("topic with {n} bindings"),
            _ => "default exchange".into(),
        };
        let acks = match self.ack_every {
            None => "auto-ack".into(),
            Some(n) => format!("ack every {n}, prefetch {}", self.prefetch),
        };
        let confirms = self.confirm.map(|n| format!(", confirm window {n}")).unwrap_or_default();
        let kind = format!(
            "{} on {} queues",
            if self.persistent { "persistent" } else { "transient" },
            if self.durable { "durable" } else { "transient" }
        );
        let pace = self.rate.map(|n| format!(", {n} msg/s")).unwrap_or_default();
        format!(
            "{} bytes, {} publishers, {} queues, {} consumers, {exchange}, {acks}{confirms}, {kind}{pace}",
            self.size, self.publishers, self.queues, self.consumers
        )
    }
}
