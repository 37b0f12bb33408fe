//! The levels that a queue's messages are ordered by: their priorities.

use crate::broker::pager::PriorityLevel;

/// Which priorities a queue tells apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// The highest one: higher ones count as this. 0 for a queue without priorities.
    pub highest: u8,
    /// That of messages without a priority.
    pub default: u8,
}

impl Levels {
    /// The level of a message with that priority.
    pub fn number(self, priority: Option<u8>) -> u8 {
        priority.unwrap_or(self.default).min(self.highest)
    }

    /// A level as what is loaded is asked for; `None` if there is only one.
    pub fn level(self, number: u8) -> Option<PriorityLevel> {
        let Self { highest, default } = self;
        (highest > 0).then_some(PriorityLevel { level: number, highest, default })
    }
}
