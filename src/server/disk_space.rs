//! Watches the space on the disk of the data directory, and raises the disk alarm when less than the limit is free.
//!
//! Consumers go on during the alarm: what they settle is what makes room again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    broker::{Broker, alarm::Resource},
    config::DiskFreeLimit,
    storage::disk,
};

/// How often space is looked at while there is plenty.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often when less than twice the limit is free.
const INTERVAL_NEAR: Duration = Duration::from_millis(100);

/// See the module's text.
#[derive(Debug)]
pub(super) struct DiskSpace {
    broker: Arc<Broker>,
    directory: PathBuf,
    limit: u64,
    /// Whether the system would not tell, so that it is said once.
    is_unknown: bool,
}

impl DiskSpace {
    /// The space for that data directory; `None` if there is to be no limit.
    pub(super) fn new(
        broker: Arc<Broker>,
        directory: &Path,
        limit: DiskFreeLimit,
        segment_bytes: u64,
    ) -> Option<Self> {
        let limit = limit_bytes(limit, directory, segment_bytes);
        (limit > 0).then(|| Self { broker, directory: directory.to_owned(), limit, is_unknown: false })
    }

    /// Compares the space that is free with the limit; returns when to look again.
    pub(super) fn look(&mut self) -> Duration {
        match disk::free_bytes(&self.directory) {
            Ok(free) => {
                self.is_unknown = false;
                self.compare(free)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_unknown, true) {
                    warn!("cannot tell the free space for {}: {error}", self.directory.display());
                }
                INTERVAL
            }
        }
    }

    /// Does so for as long as the broker runs.
    pub(super) async fn watch(mut self) {
        loop {
            tokio::time::sleep(self.look()).await;
        }
    }

    fn compare(&self, free: u64) -> Duration {
        let raised = free < self.limit;
        if self.broker.set_alarm(Resource::Disk, raised) {
            let (free, limit) = (free >> 20, self.limit >> 20);
            if raised {
                warn!("disk alarm: {free} MiB free, {limit} MiB must be; publishers are blocked");
            } else {
                info!("disk alarm cleared: {free} MiB free, {limit} MiB must be");
            }
            self.broker.wake_all();
        }
        if free / 2 < self.limit { INTERVAL_NEAR } else { INTERVAL }
    }
}

/// How many octets must be free on the file system of the data directory.
pub(crate) fn limit_bytes(limit: DiskFreeLimit, directory: &Path, segment_bytes: u64) -> u64 {
    limit.in_bytes(total_bytes(directory), segment_bytes)
}

/// Octets of the file system of that path; a great deal where the system does not tell.
fn total_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |status| status.f_blocks.saturating_mul(status.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn space(limit: DiskFreeLimit) -> Option<DiskSpace> {
        let broker = super::super::broker(&Config::default());
        DiskSpace::new(Arc::new(broker), Path::new("/"), limit, 64 << 20)
    }

    #[test]
    fn publishers_are_blocked_while_less_than_the_limit_is_free() {
        let space = space(DiskFreeLimit::Bytes(1000)).expect("a limit");
        let reason = || space.broker.alarms.reason();
        for (free, interval, expected) in [
            (2000, INTERVAL, None),
            (1999, INTERVAL_NEAR, None),
            (1000, INTERVAL_NEAR, None),
            (999, INTERVAL_NEAR, Some("low on disk")),
            (0, INTERVAL_NEAR, Some("low on disk")),
            (1000, INTERVAL_NEAR, None),
        ] {
            assert_eq!((space.compare(free), reason()), (interval, expected), "{free} free");
        }
    }

    #[test]
    fn the_space_is_that_of_the_directory() {
        let mut space = space(DiskFreeLimit::Bytes(u64::MAX)).expect("a limit");
        space.look();
        assert_eq!(space.broker.alarms.reason(), Some("low on disk"));
        space.limit = 1;
        space.look();
        assert_eq!(space.broker.alarms.reason(), None);
        // What the system does not tell changes nothing.
        space.limit = u64::MAX;
        space.directory = "/no/such/directory".into();
        space.look();
        assert_eq!(space.broker.alarms.reason(), None);
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        assert!(space(DiskFreeLimit::Bytes(0)).is_none());
    }
}
