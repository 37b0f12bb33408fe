//! A crash at every operation on the disk, in every way, then a start: what it finds is what some number of batches made,
//! at least all that were durable, at most all that were written.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use rand::Rng;

use super::{
    super::sim_disk::{Crash, SimDisk},
    model::{Defined, Model, check_deadlines, defined, seen, survivors},
    open_disk,
    script::{Script, Step},
};
use crate::broker::journal::Fact;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What was written since the last start, and how much of it is durable.
#[derive(Debug, Default)]
pub(super) struct History {
    /// What the last start found.
    start: Model,
    batches: Vec<Vec<Fact>>,
    durable: usize,
    /// The batch that was being written when the disk failed.
    attempted: Option<Vec<Fact>>,
}

impl History {
    /// The states that a start may find, from the least to the most.
    fn states(&self) -> Vec<Model> {
        let mut model = self.start.clone();
        let mut states = vec![model.clone()];
        for batch in self.batches.iter().chain(&self.attempted) {
            model.apply(batch);
            states.push(model.clone());
        }
        states.drain(..self.durable);
        states
    }
}

/// Follows a script for some steps, as long as the disk lets it; false if it did not.
pub(super) fn follow(disk: &SimDisk, script: &mut Script, steps: u64, history: &mut History) -> bool {
    let Ok(mut opened) = open_disk(disk) else { return false };
    for _ in 0..steps {
        match script.step() {
            Step::Write(facts) => {
                if opened.log.write(&facts, 0).is_err() {
                    history.attempted = Some(facts);
                    return false;
                }
                history.batches.push(facts);
            }
            Step::Sync => {
                if opened.log.sync().is_err() {
                    return false;
                }
                history.durable = history.batches.len();
            }
            Step::Idle => {
                if opened.log.idle().is_err() {
                    return false;
                }
            }
            Step::Tidy => {
                if opened.log.tidy().is_err() {
                    return false;
                }
            }
            Step::Read(queue) => {
                let mut model = history.start.clone();
                history.batches.iter().for_each(|batch| model.apply(batch));
                let expected = model.live(queue, false);
                if disk.is_crashed() {
                    return false;
                }
                let found = super::load_found(&opened, queue, (0, u64::MAX), None);
                assert_eq!(found, expected, "{queue:?} while it runs");
            }
            Step::Restart => {
                if opened.log.close().is_err() {
                    return false;
                }
                history.durable = history.batches.len();
                let Ok(again) = open_disk(disk) else { return false };
                opened = again;
                let found = reconcile(&mut opened, history);
                script.restarted(&found);
                *history = History { start: found, ..History::default() };
            }
        }
    }
    true
}

/// The state that a start has found, which must be one of those that it may.
pub(super) fn reconcile(opened: &mut super::Opened, history: &History) -> Model {
    let states = history.states();
    let found = survivors(opened);
    check_deadlines(opened, &found);
    let (found_seen, there) = (seen(opened), defined(opened));
    // Definitions are durable once they are written, whatever becomes of messages.
    let mut all = history.start.clone();
    history.batches.iter().for_each(|batch| all.apply(batch));
    let mut attempted = all.clone();
    history.attempted.iter().for_each(|batch| attempted.apply(batch));
    let allowed = [Defined::of(&all), Defined::of(&attempted)];
    assert!(allowed.contains(&there), "there is {there:?}, not one of {allowed:?}");
    let expected: Vec<_> =
        states.iter().map(|state| (state.after_restart(&there), state.seen(&there))).collect();
    let found = (found, found_seen);
    let Some(at) = expected.iter().rposition(|expected| *expected == found) else {
        panic!("found {found:?},\nnot one of {expected:?}");
    };
    let mut model = states[at].clone();
    model.restart(&there);
    // States that differ in nothing but deliveries can't be told apart by messages.
    model.queues.values_mut().for_each(|queue| queue.delivered_up_to = 0);
    for queue in &opened.recovered.queues {
        // Nothing tells whether a batch without effect on messages was the last.
        let least = states[0].queues.get(&queue.id).map_or(0, |queue| queue.delivered_up_to);
        let most = states.iter().filter_map(|state| state.queues.get(&queue.id));
        let most = most.map(|queue| queue.delivered_up_to).max().unwrap_or(0);
        assert!((least..=most).contains(&queue.delivered_up_to), "{queue:?}, expected {least} to {most}");
        model.queues.entry(queue.id).or_default().delivered_up_to = queue.delivered_up_to;
    }
    model
}

/// Runs a script on a disk that crashes at that operation, starts again, and does it once more. Returns how many operations
/// there were.
fn crash_once(seed: u64, steps: u64, crash_at: Option<u64>, mode: Crash) -> u64 {
    let mut disk = SimDisk::new(seed);
    let mut script = Script::new(seed);
    let mut history = History::default();
    if let Some(operation) = crash_at {
        disk.crash_at(operation);
    }
    let went_through = follow(&disk, &mut script, steps, &mut history);
    assert!(went_through || crash_at.is_some(), "the disk works");
    let operations = disk.operations();
    for life in 0..2 {
        disk = disk.crash(mode);
        let mut opened = open_disk(&disk).unwrap_or_else(|error| panic!("life {life}: {error}"));
        let found = reconcile(&mut opened, &history);
        drop(opened);
        // A start that is itself cut off must change nothing.
        let again = disk.crash(mode);
        let mut opened = open_disk(&again).unwrap_or_else(|error| panic!("life {life}, again: {error}"));
        reconcile(&mut opened, &history);
        drop(opened);
        disk = again;
        script = Script::new(seed + 1000 + life);
        script.restarted(&found);
        script.continue_from(&found, 1_000 * (life + 1) + 1);
        history = History { start: found, ..History::default() };
        follow(&disk, &mut script, 10, &mut history);
    }
    operations
}

#[test]
fn what_was_durable_survives_a_crash_at_every_operation() {
    let steps = setting("STORAGE_STEPS").unwrap_or(150);
    let only = setting("STORAGE_SEED");
    let end = Instant::now() + Duration::from_secs(setting("STORAGE_SECONDS").unwrap_or(6));
    let first = only.unwrap_or_else(|| rand::rng().random_range(0..1 << 32));
    let mut crashes = 0_u64;
    for seed in first.. {
        let crash = |operation, mode| {
            let run = || crash_once(seed, steps, operation, mode);
            catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
                panic!(
                    "STORAGE_SEED={seed} STORAGE_STEPS={steps} does it again: {mode:?} at operation {operation:?}"
                )
            })
        };
        let operations = crash(None, Crash::Killed);
        for operation in setting("STORAGE_OPERATION").map_or(0..operations, |at| at..at + 1) {
            // One way for each, in turn; all of them when a seed is looked at.
            let modes =
                if only.is_some() { &Crash::ALL[..] } else { &Crash::ALL[(operation % 5) as usize..][..1] };
            for mode in modes {
                crash(Some(operation), *mode);
                crashes += 1;
            }
        }
        if only.is_some() || Instant::now() >= end {
            eprintln!("{crashes} crashes");
            return;
        }
    }
}
