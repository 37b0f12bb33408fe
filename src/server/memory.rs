//! Watches the memory of the process, and raises the memory alarm above the watermark.

use std::{fs, sync::Arc, time::Duration};

use tracing::{info, warn};

use crate::{
    broker::{Broker, alarm::Resource},
    config::Watermark,
};

/// How often memory is looked at while there is plenty.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often when more than half of what is allowed is in use.
const INTERVAL_NEAR: Duration = Duration::from_millis(100);

/// The watermark in octets: a fraction is one of the cgroup's limit, or of the machine's memory if that is less.
pub(super) fn watermark_bytes(watermark: &Watermark) -> u64 {
    watermark.in_bytes(total_bytes())
}

/// Compares the memory in use with the watermark for as long as the broker runs.
pub(super) async fn watch(broker: Arc<Broker>, watermark: u64) {
    loop {
        let used = used_bytes();
        let raised = used > watermark;
        if broker.alarms.set(Resource::Memory, raised) {
            let (used, watermark) = (used >> 20, watermark >> 20);
            if raised {
                warn!("memory alarm: {used} MiB in use, {watermark} MiB allowed; publishers are blocked");
            } else {
                info!("memory alarm cleared: {used} MiB in use, {watermark} MiB allowed");
            }
            broker.wake_all();
        }
        let interval = if used > watermark / 2 { INTERVAL_NEAR } else { INTERVAL };
        tokio::time::sleep(interval).await;
    }
}

/// Resident memory of this process in octets; 0 where the system does not tell.
fn used_bytes() -> u64 {
    kibibytes("/proc/self/status", "VmRSS:").unwrap_or(0)
}

/// The memory that this process may use, in octets; a great deal where the system does not tell.
fn total_bytes() -> u64 {
    let machine = kibibytes("/proc/meminfo", "MemTotal:");
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let cgroup = cgroup.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    cgroup.chain(machine).min().unwrap_or(u64::MAX)
}

/// The octets that a line of `/proc` gives in kB.
fn kibibytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
