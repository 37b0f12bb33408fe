//! Publisher confirms (RabbitMQ's extension): which publishes of a channel wait, and for which fact.

use std::collections::{BTreeSet, VecDeque};

use crate::{amqp::Encoder, broker::journal::Lsn};

/// The confirms of a channel. Publishes are numbered from 1, and confirmed in that order, many at a time.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    last_published: u64,
    /// The publishes up to the first number wait for the fact: in order of both.
    waiting: VecDeque<(u64, Lsn)>,
    /// Those of them that a queue did not take.
    rejected: BTreeSet<u64>,
    last_noted: u64,
    last_confirmed: u64,
    nacked: u64,
}

impl Confirms {
    /// Counts a publish in and returns its number.
    pub(super) fn publish(&mut self) -> u64 {
        self.last_published += 1;
        self.last_published
    }

    /// A queue did not take that publish: it is nacked when its turn comes, even if others took it.
    pub(super) fn reject(&mut self, number: u64) {
        self.rejected.insert(number);
    }

    /// The publishes since the last call are in their queues, and durable with `lsn`.
    pub(super) fn flushed(&mut self, lsn: Lsn) {
        if self.last_published > self.last_noted {
            self.last_noted = self.last_published;
            self.waiting.push_back((self.last_published, lsn));
        }
    }

    /// How many were acked so far.
    pub(super) fn acked(&self) -> u64 {
        self.last_confirmed - self.nacked
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> u64 {
        self.last_published - self.last_confirmed
    }

    /// Sends the confirms that are due, as one; returns the fact that the next one waits for.
    pub(super) fn confirm(&mut self, channel: u16, durable: Lsn, out: &mut Encoder) -> Option<Lsn> {
        let mut due = None;
        while let Some((last, _)) = self.waiting.front().copied().filter(|(_, lsn)| *lsn <= durable) {
            due = Some(last);
            self.waiting.pop_front();
        }
        if let Some(last) = due {
            while let Some(rejected) = self.rejected.first().copied().filter(|rejected| *rejected <= last) {
                self.rejected.remove(&rejected);
                self.ack(channel, rejected - 1, out);
                out.nack(channel, rejected, false);
                self.nacked += 1;
                self.last_confirmed = rejected;
            }
            self.ack(channel, last, out);
        }
        self.waiting.front().map(|(_, lsn)| *lsn)
    }
}

impl Confirms {
    fn ack(&mut self, channel: u16, last: u64, out: &mut Encoder) {
        if last > self.last_confirmed {
            out.ack(channel, last, last - self.last_confirmed > 1);
            self.last_confirmed = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Class 60, method 80, the tag, `multiple`.
    fn acks(out: &mut Encoder) -> Vec<(u64, bool)> {
        let mut slices = Vec::new();
        out.io_slices(&mut slices);
        let octets: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let frames: Vec<_> = crate::amqp::frame::Frames::new(&octets)
            .map(|frame| {
                let tag = frame.payload[4..12].try_into().expect("eight octets");
                (u64::from_be_bytes(tag), frame.payload[12] == 1)
            })
            .collect();
        out.advance(octets.len());
        frames
    }

    #[test]
    fn a7_confirms_wait_for_their_fact_and_come_as_one() {
        let (mut confirms, mut out) = (Confirms::default(), Encoder::new());
        confirms.publish();
        confirms.flushed(Lsn(0));
        assert_eq!(confirms.confirm(1, Lsn(0), &mut out), None);
        assert_eq!(acks(&mut out), [(1, false)]);
        confirms.publish();
        confirms.publish();
        confirms.flushed(Lsn(7));
        confirms.publish();
        confirms.flushed(Lsn(9));
        assert_eq!(confirms.confirm(1, Lsn(6), &mut out), Some(Lsn(7)));
        assert!(out.is_empty());
        assert_eq!(confirms.confirm(1, Lsn(8), &mut out), Some(Lsn(9)));
        assert_eq!(acks(&mut out), [(3, true)]);
        assert_eq!(confirms.confirm(1, Lsn(9), &mut out), None);
        assert_eq!(acks(&mut out), [(4, false)]);
    }
}
