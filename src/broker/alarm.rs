//! Alarms: resources so scarce that publishers have to wait (RabbitMQ: `connection.blocked`).

use std::sync::atomic::{AtomicU8, Ordering};

/// What can run low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Resource {
    /// Memory of the process or its cgroup.
    Memory = 1,
    /// Space for the data directory.
    Disk = 2,
}

/// The alarms that are raised now.
#[derive(Debug, Default)]
pub struct Alarms(AtomicU8);

impl Alarms {
    /// Raises or clears an alarm; true if that changed anything. The caller wakes the connections.
    pub fn set(&self, resource: Resource, raised: bool) -> bool {
        let bit = resource as u8;
        let before = if raised {
            self.0.fetch_or(bit, Ordering::AcqRel)
        } else {
            self.0.fetch_and(!bit, Ordering::AcqRel)
        };
        (before & bit != 0) != raised
    }

    /// Whether that alarm is raised.
    pub fn is_raised(&self, resource: Resource) -> bool {
        self.0.load(Ordering::Acquire) & resource as u8 != 0
    }

    /// The reason that `connection.blocked` gives, if there is one.
    pub fn reason(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            1 => Some("low on memory"),
            2 => Some("low on disk"),
            _ => Some("low on memory & disk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a2_blocked_reasons() {
        let alarms = Alarms::default();
        assert_eq!(alarms.reason(), None);
        assert!(alarms.set(Resource::Memory, true));
        assert!(!alarms.set(Resource::Memory, true));
        assert_eq!(alarms.reason(), Some("low on memory"));
        assert!(alarms.set(Resource::Disk, true));
        assert_eq!(alarms.reason(), Some("low on memory & disk"));
        assert!(alarms.is_raised(Resource::Memory) && alarms.is_raised(Resource::Disk));
        assert!(alarms.set(Resource::Memory, false));
        assert_eq!(alarms.reason(), Some("low on disk"));
        assert!(!alarms.is_raised(Resource::Memory) && alarms.is_raised(Resource::Disk));
    }
}
