//! Which messages of a shovel are on their way, and what is to be said to their queue: no sockets, no tasks.

use std::collections::BTreeMap;

use super::definition::AckMode;

/// See the module's text. Bounded by the prefetch.
#[derive(Debug)]
pub(super) struct Flow {
    ack_mode: AckMode,
    /// By the number of its publish: the delivery tag of each message that is not confirmed.
    unconfirmed: BTreeMap<u64, u64>,
    /// How many messages are still to be taken, if that is limited.
    remaining: Option<u64>,
}

/// What is to be said to the queue that a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// Acknowledge it, or all up to it.
    Ack {
        /// The delivery tag.
        tag: u64,
        /// Whether all before it, too.
        multiple: bool,
    },
    /// Put it back.
    Requeue {
        /// The delivery tag.
        tag: u64,
    },
}

impl Flow {
    /// Nothing on its way yet.
    pub(super) fn new(ack_mode: AckMode, remaining: Option<u64>) -> Self {
        Self { ack_mode, unconfirmed: BTreeMap::new(), remaining }
    }

    /// Whether another message may be taken.
    pub(super) fn takes(&self) -> bool {
        self.remaining != Some(0)
    }

    /// Whether all that was to be moved is.
    pub(super) fn is_finished(&self) -> bool {
        !self.takes() && self.unconfirmed.is_empty()
    }

    /// How many messages are still to be taken, if that is limited.
    pub(super) fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// How many are on their way.
    pub(super) fn pending(&self) -> u64 {
        self.unconfirmed.len() as u64
    }

    /// A delivery was published under that number.
    pub(super) fn published(&mut self, number: u64, tag: u64) -> Option<Settlement> {
        self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(1));
        match self.ack_mode {
            AckMode::OnConfirm => {
                self.unconfirmed.insert(number, tag);
                None
            }
            AckMode::OnPublish => Some(Settlement::Ack { tag, multiple: false }),
            AckMode::NoAck => None,
        }
    }

    /// The other end has taken the publish of that number, or all up to it, or could not keep them.
    pub(super) fn confirmed(&mut self, number: u64, multiple: bool, is_ack: bool) -> Vec<Settlement> {
        let settled: Vec<u64> = if multiple {
            let later = self.unconfirmed.split_off(&number.saturating_add(1));
            std::mem::replace(&mut self.unconfirmed, later).into_values().collect()
        } else {
            self.unconfirmed.remove(&number).into_iter().collect()
        };
        if !is_ack {
            // They are to be moved still.
            self.remaining = self.remaining.map(|remaining| remaining + settled.len() as u64);
            return settled.into_iter().map(|tag| Settlement::Requeue { tag }).collect();
        }
        // Tags ascend with the numbers of the publishes, so what is below the first one left is settled as a whole.
        let first_left = self.unconfirmed.values().next().copied().unwrap_or(u64::MAX);
        let (below, above): (Vec<u64>, Vec<u64>) = settled.into_iter().partition(|tag| *tag < first_left);
        let multiple = below.len() > 1;
        let below = below.last().map(|tag| Settlement::Ack { tag: *tag, multiple });
        let above = above.into_iter().map(|tag| Settlement::Ack { tag, multiple: false });
        below.into_iter().chain(above).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(tag: u64, multiple: bool) -> Settlement {
        Settlement::Ack { tag, multiple }
    }

    #[test]
    fn a_message_is_acknowledged_once_it_is_confirmed() {
        let mut flow = Flow::new(AckMode::OnConfirm, None);
        for number in 1..=5 {
            assert_eq!(flow.published(number, 10 + number), None);
        }
        assert_eq!(flow.confirmed(2, false, true), [ack(12, false)]);
        assert_eq!(flow.confirmed(3, true, true), [ack(13, true)]);
        assert_eq!(flow.confirmed(5, true, true), [ack(15, true)]);
        assert_eq!(flow.pending(), 0);
        assert_eq!(flow.confirmed(5, true, true), []);
    }

    #[test]
    fn one_that_is_settled_out_of_turn_takes_no_other_along() {
        let mut flow = Flow::new(AckMode::OnConfirm, None);
        for number in 1..=3 {
            flow.published(number, number);
        }
        assert_eq!(flow.confirmed(2, false, true), [ack(2, false)]);
        assert_eq!(flow.confirmed(1, false, false), [Settlement::Requeue { tag: 1 }]);
        assert_eq!(flow.confirmed(3, true, true), [ack(3, false)]);
    }

    #[test]
    fn other_modes_do_not_wait() {
        assert_eq!(Flow::new(AckMode::OnPublish, None).published(0, 7), Some(ack(7, false)));
        let mut flow = Flow::new(AckMode::NoAck, Some(1));
        assert_eq!(flow.published(0, 7), None);
        assert!(flow.is_finished());
    }

    #[test]
    fn it_is_finished_when_all_are_confirmed() {
        let mut flow = Flow::new(AckMode::OnConfirm, Some(2));
        flow.published(1, 1);
        assert!(flow.takes());
        flow.published(2, 2);
        assert!(!flow.takes() && !flow.is_finished());
        flow.confirmed(1, false, false);
        assert!(flow.takes(), "one was put back");
        flow.published(3, 3);
        assert_eq!(flow.confirmed(3, true, true), [ack(3, true)]);
        assert!(flow.is_finished());
        assert!(Flow::new(AckMode::OnConfirm, Some(0)).is_finished());
    }
}
