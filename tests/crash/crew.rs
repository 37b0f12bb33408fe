//! The clients that keep a broker busy until it goes, each in a thread of its own.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    client::{Client, Gone},
    consumer::{self, Habits},
    definer::{self, Churn},
    getter,
    history::{History, Record},
    publisher, topology, transaction,
};

/// Numbers that the clients of one run have for themselves; the last is for the survey after it.
pub(crate) const NUMBERS: u32 = 20;
const CONFIRMED_PUBLISHERS: u32 = 3;
const HABITS: [Habits; 7] = [
    Habits { queues: &topology::WORK, prefetch: 100, holds: false, moves: false },
    Habits { queues: &["work-a", "fan-a"], prefetch: 8, holds: false, moves: false },
    Habits { queues: &["fan-b", topology::PASSING], prefetch: 30, holds: true, moves: false },
    Habits { queues: &["fan-b", "work-b"], prefetch: 30, holds: false, moves: false },
    Habits { queues: &["fan-c"], prefetch: 5, holds: false, moves: false },
    Habits { queues: &["expiring", "retried"], prefetch: 6, holds: false, moves: true },
    // Nothing leads on from here: what is rejected is gone.
    Habits { queues: &["expired", "retried-out", topology::DUE], prefetch: 20, holds: false, moves: false },
];

/// Clients at work.
pub(crate) struct Crew {
    threads: Vec<JoinHandle<Result<Vec<Record>, String>>>,
    ended: mpsc::Receiver<()>,
}

type Work = Box<dyn FnOnce(&mut Client, &mut History, u32, &mut StdRng) -> Result<(), Gone> + Send>;

impl Crew {
    /// Starts all clients, with numbers from `first` on.
    pub(crate) fn start(address: SocketAddr, first: u32, churn: Churn, random: &mut StdRng) -> Self {
        let mut works: Vec<(&str, Work)> = Vec::new();
        for _ in 0..CONFIRMED_PUBLISHERS {
            works.push(("publisher", Box::new(publisher::confirmed)));
        }
        works.push(("publisher without confirms", Box::new(publisher::unconfirmed)));
        for habits in HABITS {
            let run = move |client: &mut Client, history: &mut History, number, random: &mut StdRng| {
                consumer::run(client, history, number, random, habits)
            };
            works.push(("consumer", Box::new(run)));
        }
        works.push(("getter", Box::new(getter::run)));
        for queues in &topology::TRANSACTIONAL {
            let run = move |client: &mut Client, history: &mut History, number, random: &mut StdRng| {
                transaction::run(client, history, number, random, queues)
            };
            works.push(("client with transactions", Box::new(run)));
        }
        let run = move |client: &mut Client, history: &mut History, number, random: &mut StdRng| {
            definer::run(client, history, number, random, churn)
        };
        works.push(("definer", Box::new(run)));

        let (end, ended) = mpsc::channel();
        let threads = (first..)
            .zip(works)
            .map(|(number, (name, work))| {
                let end = end.clone();
                let random = StdRng::seed_from_u64(random.random());
                thread::spawn(move || {
                    let records = work_until_gone(address, number, random, name, work);
                    _ = end.send(());
                    records
                })
            })
            .collect();
        Self { threads, ended }
    }

    /// Lets them work for that long; false if one has ended before.
    pub(crate) fn work_for(&self, time: Duration) -> bool {
        self.ended.recv_timeout(time).is_err()
    }

    /// What they did and saw; they must be about to end.
    pub(crate) fn finish(self) -> Result<Vec<Record>, String> {
        let mut records = Vec::new();
        for thread in self.threads {
            records.extend(thread.join().expect("panics are caught")?);
        }
        Ok(records)
    }
}

fn work_until_gone(
    address: SocketAddr,
    number: u32,
    mut random: StdRng,
    name: &str,
    work: Work,
) -> Result<Vec<Record>, String> {
    let mut history = History::default();
    let run = AssertUnwindSafe(|| {
        _ = Client::connect(address)
            .and_then(|mut client| work(&mut client, &mut history, number, &mut random));
    });
    catch_unwind(run).map_err(|_| format!("the {name} with number {number} panicked, see above"))?;
    Ok(history.records)
}
