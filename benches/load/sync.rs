//! How long one message at a time waits until it is on the disk, beside the least that any program would wait.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

use super::broker::Broker;
use super::directory::Directory;
use super::options::Options;
use super::process::{Cpu, Process};
use super::run::{self, Shared, latencies};
use super::table::Row;
use super::topology::Topology;

/// The name of what the brokers are compared with.
pub(crate) const BARE: &str = "append of 4 KiB and fdatasync";
/// What is appended before each bare sync.
const BLOCK_BYTES: usize = 4096;
/// Turns that each side has in a run: a disk that others use is another one a second later.
const TURNS: u32 = 20;

/// Lets the bare file and the brokers take turns; returns the rows of each. `--seconds` is the time of one of them.
pub(crate) fn run(
    options: &Options,
    brokers: &[Broker],
    topologies: &mut [Topology],
) -> Result<Vec<Vec<Row>>> {
    let mut turn = options.clone();
    turn.seconds /= f64::from(TURNS);
    let directory = Directory::create(&options.directory)?;
    let mut file = File::create(directory.path().join("bare"))?;
    let mut bare = Waits::new();
    let mut confirms: Vec<Waits> = brokers.iter().map(|_| Waits::new()).collect();
    for _ in 0..TURNS {
        bare.append(&turn, &mut file)?;
        for ((broker, topology), waits) in brokers.iter().zip(&mut *topologies).zip(&mut confirms) {
            waits.publish(&turn, broker, topology).with_context(|| broker.name.clone())?;
        }
    }
    Ok(std::iter::once(bare).chain(confirms).map(Waits::rows).collect())
}

/// What one side waited for, over its turns.
struct Waits {
    latency: Histogram<u64>,
    seconds: f64,
    /// CPU seconds that it took; `None` if the broker's process is not known.
    cpu: Option<f64>,
}

impl Waits {
    fn new() -> Waits {
        Waits { latency: latencies(), seconds: 0.0, cpu: Some(0.0) }
    }

    /// Appends to the file and syncs it, over and over.
    fn append(&mut self, turn: &Options, file: &mut File) -> Result<()> {
        let block = [0x5A; BLOCK_BYTES];
        let cpu = Process::own().cpu()?;
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < turn.seconds {
            let written = Instant::now();
            file.write_all(&block)?;
            file.sync_data()?;
            self.latency.saturating_record(written.elapsed().as_nanos() as u64);
        }
        self.add(begun.elapsed().as_secs_f64(), Some(Process::own().cpu()?.since(cpu)));
        Ok(())
    }

    /// Publishes without a consumer, each message once the one before is confirmed.
    fn publish(&mut self, turn: &Options, broker: &Broker, topology: &mut Topology) -> Result<()> {
        let publishers = run::publishers(turn, broker, topology)?;
        let shared = Shared::new(turn);
        let outcome = run::conduct(turn, &shared, broker.process, publishers, Vec::new())?;
        self.add(outcome.to.at - outcome.from.at, outcome.to.broker_cpu(&outcome.from));
        let (sent, _) = outcome.close(turn)?;
        self.latency.add(sent.confirms)?;
        let (count, purged) = (sent.sequences.iter().flatten().sum::<u64>(), topology.purge()?);
        if count != purged {
            bail!("the queues held {purged} messages, {count} were confirmed");
        }
        Ok(())
    }

    fn add(&mut self, seconds: f64, cpu: Option<Cpu>) {
        self.seconds += seconds;
        self.cpu = self.cpu.zip(cpu).map(|(sum, cpu)| sum + cpu.total());
    }

    fn rows(self) -> Vec<Row> {
        let count = self.latency.len() as f64;
        let mut rows = run::quantiles("on disk", &self.latency, true);
        rows.push(Row::new("one after another/s", Some(count / self.seconds), 0));
        rows.push(Row::new("CPU, us each", self.cpu.map(|cpu| cpu * 1e6 / count), 1));
        rows
    }
}
