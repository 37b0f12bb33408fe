//! When messages came to a queue, as far as a few numbers tell: no message has its time with it.
//!
//! Messages that came one after another are a run: its first and last message, and when these came. What came between is
//! taken to have come steadily. There are at most [`RUNS_MAX`] runs of what is still there. One goes on for an eighth of
//! the time that all of them span, and when there is no room for the next, the two neighbours that span the least become
//! one. So what is said of a message is off by less than a third of the longest that one which was there with it had
//! waited; mostly by far less.

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// In order, and adjacent.
    runs: [Run; RUNS_MAX],
    len: usize,
    /// The first message that came.
    since: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    first: Arrival,
    last: Arrival,
}

/// Messages came at that time, this one first.
#[derive(Clone, Copy, Debug, Default)]
struct Arrival {
    sequence: u64,
    /// In [`Now::unix_ms`](crate::broker::Now::unix_ms).
    at_ms: u64,
}

const RUNS_MAX: usize = 8;

impl Arrivals {
    /// Messages have come, from that sequence number on. `oldest` is the first one that is still ready, these included.
    /// Who publishes has looked at the clock before it had the queue's lock, so a later one may bring an earlier time:
    /// times are taken not to go back.
    pub(super) fn note(&mut self, sequence: u64, at_ms: u64, oldest: u64) {
        let at_ms = self.runs().last().map_or(at_ms, |run| at_ms.max(run.last.at_ms));
        let arrival = Arrival { sequence, at_ms };
        self.since.get_or_insert(sequence);
        if self.runs().last().is_some_and(|run| run.last.at_ms == at_ms) {
            return;
        }
        self.forget_before(oldest);
        let span_ms = self.runs().first().map_or(0, |run| at_ms.saturating_sub(run.first.at_ms));
        match self.runs[..self.len].last_mut() {
            Some(run) if at_ms.saturating_sub(run.first.at_ms) < span_ms / RUNS_MAX as u64 => {
                run.last = arrival
            }
            _ => self.begin(arrival),
        }
    }

    fn runs(&self) -> &[Run] {
        &self.runs[..self.len]
    }

    /// What is older than that sequence number is not asked for any more.
    fn forget_before(&mut self, oldest: u64) {
        let begun = self.runs().partition_point(|run| run.first.sequence <= oldest);
        let gone = begun.saturating_sub(1);
        self.runs.copy_within(gone..self.len, 0);
        self.len -= gone;
    }

    fn begin(&mut self, arrival: Arrival) {
        if self.len == RUNS_MAX {
            self.join_shortest();
        }
        self.runs[self.len] = Run { first: arrival, last: arrival };
        self.len += 1;
    }

    fn join_shortest(&mut self) {
        let span_ms = |place: &usize| self.runs[place + 1].last.at_ms - self.runs[*place].first.at_ms;
        let Some(place) = (0..self.len - 1).min_by_key(span_ms) else { return };
        self.runs[place].last = self.runs[place + 1].last;
        self.runs.copy_within(place + 2..self.len, place + 1);
        self.len -= 1;
    }

    /// About when the message of that sequence number came; `None` if it was there before the start.
    #[inline]
    pub(super) fn time_ms(&self, sequence: u64) -> Option<u64> {
        // Most messages that are asked for came just now.
        let last = self.runs().last()?.last;
        if sequence >= last.sequence {
            return Some(last.at_ms);
        }
        let begun = self.runs().partition_point(|run| run.first.sequence <= sequence);
        let Run { first, last } = match begun.checked_sub(1) {
            Some(place) => self.runs[place],
            // It came back after those behind it had gone: it is older than this.
            None if Some(sequence) >= self.since => return self.runs().first().map(|run| run.first.at_ms),
            None => return None,
        };
        if sequence >= last.sequence {
            return Some(last.at_ms);
        }
        let part = u128::from(sequence - first.sequence) * u128::from(last.at_ms - first.at_ms);
        let part_ms = part / u128::from(last.sequence - first.sequence);
        Some(first.at_ms + u64::try_from(part_ms).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_known_of_what_was_there_before() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.time_ms(1), None);
        arrivals.note(100, 7, 1);
        assert_eq!(
            (arrivals.time_ms(99), arrivals.time_ms(100), arrivals.time_ms(101)),
            (None, Some(7), Some(7))
        );
    }

    #[test]
    fn a_clock_that_was_looked_at_earlier_takes_no_time_back() {
        let mut arrivals = Arrivals::default();
        for (sequence, at_ms) in
            (1..).zip([10, 9, 30, 20, 50, 49, 70, 60, 90, 80, 110, 100, 130, 120, 150, 140, 170, 160])
        {
            arrivals.note(sequence, at_ms, 1);
        }
        let times: Vec<_> =
            (1..=18).map(|sequence| arrivals.time_ms(sequence).expect("it is known")).collect();
        assert!(times.is_sorted() && times[17] == 170, "{times:?}");
    }

    #[test]
    fn what_came_at_the_same_time_is_known_exactly_whatever_came_later() {
        let mut arrivals = Arrivals::default();
        arrivals.note(1, 10, 1);
        arrivals.note(50, 1_000, 1);
        for sequence in 1..50 {
            assert_eq!(arrivals.time_ms(sequence), Some(10));
        }
    }

    proptest! {
        /// Batches come at any time, and consumers take any part of what is there.
        #[test]
        fn the_oldest_message_is_known_to_a_third_of_the_longest_wait(
            batches in prop::collection::vec((1..20_u64, 0..5_000_u64, 0..40_u64), 1..300),
        ) {
            let mut arrivals = Arrivals::default();
            let mut times = Vec::new();
            let (mut now_ms, mut taken, mut longest_ms) = (1_000, 0, 0);
            for (count, wait_ms, take) in batches {
                let first = times.len() as u64;
                times.extend((0..count).map(|_| now_ms));
                arrivals.note(first, now_ms, taken);
                now_ms += wait_ms;
                if let Some(came_ms) = times.get(usize::try_from(taken).unwrap_or(0)).copied() {
                    longest_ms = longest_ms.max(now_ms - came_ms);
                    let said_ms = arrivals.time_ms(taken);
                    prop_assert!(said_ms.is_some_and(|said_ms| said_ms.abs_diff(came_ms) <= longest_ms / 3 + 1),
                        "{said_ms:?} instead of {came_ms} at {now_ms}, {arrivals:?}");
                }
                taken = (taken + take).min(times.len() as u64);
                if taken == times.len() as u64 {
                    longest_ms = 0;
                }
            }
        }
    }
}
