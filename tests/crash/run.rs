//! A run: cycles of load, crash, restart and check on one data directory.

use std::{
    fs,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    broker::{DEADLINE, Process, Site},
    client::{Client, Gone},
    crew::{Crew, NUMBERS},
    definer::Churn,
    history::{History, Record, Thing},
    ledger::{Certainty, End, Ledger},
    survey, topology,
};

/// After so many crashes comes a clean restart.
const CRASHES_TO_RESTART: u32 = 5;
/// Every so many cycles one is so long that what was settled at its beginning must not come back.
const CYCLES_TO_LONG: u32 = 5;

/// A long run tells how far it is.
const CYCLES_TO_REPORT: u32 = 100;

/// See the module.
pub(crate) struct Run {
    seed: u64,
    random: StdRng,
    site: Site,
    ledger: Ledger,
    /// The next number for a client.
    number: u32,
    slowest_start: Duration,
    starts: u32,
    /// What the clients of the last cycle did and saw, for whoever wants to know what went wrong.
    records: Vec<Record>,
}

impl Run {
    /// A run on an empty data directory. With `power`, a library, whatever is not synced is lost with each broker.
    pub(crate) fn new(seed: Option<u64>, power: Option<&Path>) -> Self {
        let seed = seed.unwrap_or_else(|| rand::rng().random_range(0..1 << 32));
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            site: Site::new(power),
            ledger: Ledger::default(),
            number: 1,
            slowest_start: Duration::ZERO,
            starts: 0,
            records: Vec::new(),
        }
    }

    /// Goes through so many crashes.
    ///
    /// # Errors
    /// What was wrong, after the first cycle in which something was.
    pub(crate) fn cycles(mut self, cycles: u32) -> Result<(), String> {
        eprintln!("seed {}: --seed {0} makes the same choices again", self.seed);
        let mut cycle = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| self.all_cycles(cycles, &mut cycle)));
        let outcome = outcome.unwrap_or_else(|_| Err("it panicked, see above".to_owned()));
        outcome.map_err(|wrong| {
            let directory = self.site.keep();
            _ = fs::write(directory.join("history.txt"), tell(&mut self.records));
            format!(
                "seed {}, cycle {cycle}: {wrong}\ndata and history kept in {}",
                self.seed,
                directory.display()
            )
        })
    }

    fn all_cycles(&mut self, cycles: u32, cycle: &mut u32) -> Result<(), String> {
        let (mut process, address) = self.start()?;
        self.declare(address, true)?;
        let mut restarts = 0;
        let mut address = address;
        while *cycle < cycles {
            *cycle += 1;
            (process, address) = self.cycle(process, address, End::Killed, *cycle)?;
            if cycle.is_multiple_of(CRASHES_TO_RESTART) || *cycle == cycles {
                (process, address) = self.cycle(process, address, End::Terminated, *cycle)?;
                restarts += 1;
            }
            if cycle.is_multiple_of(CYCLES_TO_REPORT) && *cycle < cycles {
                self.report(*cycle, restarts);
            }
        }
        drop(process);
        self.report(cycles, restarts);
        Ok(())
    }

    fn report(&self, crashes: u32, restarts: u32) {
        let counts = self.ledger.counts;
        eprintln!(
            "{crashes} crashes, {restarts} clean restarts, {} starts, the slowest {} ms; copies: {} confirmed, {} \
             recovered, {} of them without a confirm, {} redelivered, {} settled too late; undecided transactions: \
             {} done, {} not",
            self.starts,
            self.slowest_start.as_millis(),
            counts.confirmed,
            counts.recovered,
            counts.unconfirmed,
            counts.redelivered,
            counts.settled_again,
            counts.undecided_done,
            counts.undecided_undone,
        );
    }

    /// Load, end, restart, check.
    fn cycle(
        &mut self,
        mut process: Process,
        address: SocketAddr,
        end: End,
        cycle: u32,
    ) -> Result<(Process, SocketAddr), String> {
        let things = self.ledger.things().filter(|(_, state)| *state == Certainty::Present);
        let churn = Churn::new(things.map(|(thing, _)| thing));
        let first = self.number;
        self.number += NUMBERS;
        let crew = Crew::start(address, first, churn, &mut self.random);
        let milliseconds = match end {
            End::Killed if cycle % CYCLES_TO_LONG == 2 => self.random.random_range(2500..3200),
            End::Killed => self.random.random_range(30..500),
            End::Terminated => self.random.random_range(100..400),
        };
        let all_worked = crew.work_for(Duration::from_millis(milliseconds));
        let at = Instant::now();
        let outcome = match end {
            _ if !all_worked => Err("a client ended before the broker was told to".to_owned()),
            End::Terminated => match process.terminate(DEADLINE) {
                Ok(false) => Err(format!("the broker has not ended {DEADLINE:?} after SIGTERM")),
                ended => ended.map(drop),
            },
            // In the middle of a clean end.
            End::Killed if self.random.random_bool(0.15) => {
                let patience = Duration::from_millis(self.random.random_range(0..30));
                process.terminate(patience).map(drop)
            }
            End::Killed => Ok(()),
        };
        process.kill();
        let records = crew.finish()?;
        self.records.clone_from(&records);
        self.ledger.take(records, Some(at));
        outcome?;
        self.site.ended();
        while end == End::Killed && self.random.random_bool(0.25) {
            self.crash_while_starting()?;
        }
        let (process, address) = self.start()?;
        self.check(address, end, at, first + NUMBERS - 1).map_err(|wrong| format!("{end:?}: {wrong}"))?;
        self.declare(address, false)?;
        Ok((process, address))
    }

    fn crash_while_starting(&mut self) -> Result<(), String> {
        let mut process = self.site.spawn(self.random.random());
        let patience = Duration::from_millis(self.random.random_range(0..40));
        process.wait_until_ready(patience)?;
        process.kill();
        self.site.ended();
        Ok(())
    }

    fn start(&mut self) -> Result<(Process, SocketAddr), String> {
        let mut process = self.site.spawn(self.random.random());
        let ready = process.wait_until_ready(DEADLINE)?;
        let (address, time) = ready.ok_or_else(|| format!("the broker is not ready after {DEADLINE:?}"))?;
        self.site.check_power()?;
        self.slowest_start = self.slowest_start.max(time);
        self.starts += 1;
        Ok((process, address))
    }

    fn declare(&mut self, address: SocketAddr, is_first: bool) -> Result<(), String> {
        let mut history = History::default();
        Client::connect(address)
            .and_then(|mut client| topology::declare(&mut client, &mut history, is_first))
            .map_err(|Gone| "the broker went while queues were declared")?;
        self.ledger.take(history.records, None);
        Ok(())
    }

    fn check(&mut self, address: SocketAddr, end: End, at: Instant, number: u32) -> Result<(), String> {
        let gone = |Gone| "the broker went while it was looked at";
        let things: Vec<Thing> = self.ledger.things().map(|(thing, _)| thing.clone()).collect();
        let mut history = History::default();
        let mut client = Client::connect(address).map_err(gone)?;
        let observation =
            survey::observe(&mut client, &mut history, &things, &mut self.random).map_err(gone)?;
        self.ledger.restart(end, at, &observation);
        let bindings = self.ledger.bindings();
        let tried = survey::try_bindings(&mut client, &mut history, number, &mut self.random, bindings);
        self.ledger.take(history.records, None);
        for (binding, is_present) in tried.map_err(gone)? {
            self.ledger.proven(&binding, is_present);
        }
        let violations = self.ledger.take_violations();
        if violations.is_empty() { Ok(()) } else { Err(violations.join("\n    ")) }
    }
}

/// The events in order, one a line, with their times in milliseconds.
fn tell(records: &mut [Record]) -> String {
    records.sort_by_key(|record| record.at);
    let Some(start) = records.first().map(|record| record.at) else { return String::new() };
    let line =
        |record: &Record| format!("{:.3} {:?}\n", (record.at - start).as_secs_f64() * 1000.0, record.event);
    records.iter().map(line).collect()
}
