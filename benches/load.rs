//! A load generator for AMQP 0-9-1 brokers: what a message costs the broker, and whether it arrived.
//!
//! ```text
//! cargo bench --bench load                                           # auto-ack, 16 bytes, 1/1/1
//! cargo bench --bench load -- --size 1024 --ack-every 100 --prefetch 1000 --confirm 1000
//! cargo bench --bench load -- --against 127.0.0.1:5672 --against-pid $(pgrep beam.smp) --runs 5
//! cargo bench --bench load -- --rate 5000                            # latency at a steady pace
//! cargo bench --bench load -- --topic 1000 --queues 10 --size 100
//! cargo bench --bench load -- --start                                # from exec to ready
//! cargo bench --bench load -- --idle 1000                            # memory of a connection
//! cargo bench --bench load -- --size 1024 --durable --persistent --confirm 1000 --ack-every 1 --prefetch 1000
//! cargo bench --bench load -- --backlog 1000000 --size 1024 --ack-every 100 --prefetch 1000
//! cargo bench --bench load -- --idle-queues 100000                   # memory and files of durable queues
//! cargo bench --bench load -- --sync --size 1024 --runs 5            # a durable message beside a bare fdatasync
//! ```
//!
//! It speaks raw frames over blocking sockets, one thread per connection. Publishes are encoded once and
//! written many at a time, deliveries are parsed no further than needed, so that a message costs the client
//! well under a microsecond and the broker is what is measured. The figure that holds on a shared machine is
//! the broker's CPU time per message, from `/proc`; throughput depends on what else runs. At full speed latencies
//! measure the queue that builds up (`--max-lag` bounds it); what a message needs shows at a `--rate`.
//!
//! A body of 16 bytes or more carries the time it was sent, its publisher and a sequence number. Every stream
//! (a publisher's messages in a queue) must arrive complete, once and in order; every publish must be
//! confirmed once; every ack must be taken. Otherwise the exit status is 1 (2 for wrong usage).
//!
//! A broker that is started here has its data in a directory of its own below `target/tmp` (`--directory` puts it on
//! another file system), which is removed afterwards. `--backlog` and `--idle-queues` end it with SIGTERM and start it
//! again, and then with SIGKILL: all times after `exec` count from the start of the new process, one step after the
//! other, and everything must still be there. A running broker (`--address`) is not restarted.

use std::process::ExitCode;

use load::options::Options;

mod load {
    pub(crate) mod backlog;
    pub(crate) mod broker;
    pub(crate) mod connection;
    pub(crate) mod consumer;
    pub(crate) mod directory;
    pub(crate) mod idle_queues;
    pub(crate) mod options;
    pub(crate) mod process;
    pub(crate) mod publisher;
    pub(crate) mod report;
    pub(crate) mod resources;
    pub(crate) mod restart;
    pub(crate) mod run;
    pub(crate) mod stream;
    pub(crate) mod sync;
    pub(crate) mod table;
    pub(crate) mod topology;
    pub(crate) mod wire;
}

fn main() -> ExitCode {
    let options = Options::parse();
    match load::report::measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}
