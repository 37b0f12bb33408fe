//! Watches the memory of the process, and raises the memory alarm above the watermark.

use std::{
    fs,
    path::{Component, Path},
    sync::Arc,
    time::Duration,
};

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
pub(crate) fn watermark_bytes(watermark: &Watermark) -> u64 {
    watermark.in_bytes(total_bytes())
}

/// Compares the memory in use with the broker's watermark for as long as it runs.
pub(super) async fn watch(broker: Arc<Broker>) {
    loop {
        let watermark = broker.runtime.memory_watermark_bytes();
        let used = used_bytes();
        let raised = used > watermark;
        if broker.set_alarm(Resource::Memory, raised) {
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
    let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroup = cgroup_limit(&memberships, Path::new("/sys/fs/cgroup"));
    machine.into_iter().chain(cgroup).min().unwrap_or(u64::MAX)
}

/// The smallest limit of a cgroup that the process is in, or of one around it, in octets. `memberships` is
/// `/proc/self/cgroup`, and `root` where the hierarchies are mounted: in a container mostly the container's own cgroup,
/// whatever the memberships say.
fn cgroup_limit(memberships: &str, root: &Path) -> Option<u64> {
    let mut smallest = None;
    for line in memberships.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let hierarchies: &[(&str, &str)] = if controllers.is_empty() {
            // Version 2: on its own, or beside version 1.
            &[("", "memory.max"), ("unified", "memory.max")]
        } else if controllers.split(',').any(|controller| controller == "memory") {
            &[("memory", "memory.limit_in_bytes")]
        } else {
            &[]
        };
        let limits =
            hierarchies.iter().filter_map(|(name, file)| smallest_limit(&root.join(name), path, file));
        smallest = limits.chain(smallest).min();
    }
    smallest
}

/// The smallest number in files of that name, from the root of a hierarchy down to that path in it, as far as it is there.
fn smallest_limit(root: &Path, path: &str, file: &str) -> Option<u64> {
    let mut directory = root.to_owned();
    // A path above the root of a namespace begins with `..`, which leads nowhere.
    let below = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    let mut smallest = None;
    for part in std::iter::once(Component::CurDir).chain(below) {
        directory.push(part);
        // No limit is a word, or in version 1 more than any machine has.
        let limit = fs::read_to_string(directory.join(file)).ok().and_then(|text| text.trim().parse().ok());
        smallest = smallest.into_iter().chain(limit).min();
    }
    smallest
}

/// The octets that a line of `/proc` gives in kB.
fn kibibytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of cgroups with these files.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, format!("{text}\n")).expect("a file");
        }
        root
    }

    #[test]
    fn the_smallest_limit_on_the_way_to_the_process_counts() {
        let files = [
            ("a.slice/memory.max", "5000"),
            ("a.slice/b.service/memory.max", "3000"),
            ("a.slice/b.service/c/memory.max", "max"),
            ("a.slice/other/memory.max", "1"),
            ("a.slice/b.service/c/below/memory.max", "1"),
        ];
        let tree = tree(&files);
        let limit = |path: &str| cgroup_limit(&format!("0::{path}\n"), tree.path());
        assert_eq!(limit("/a.slice/b.service/c"), Some(3000));
        assert_eq!(limit("/a.slice/b.service"), Some(3000));
        assert_eq!(limit("/a.slice"), Some(5000));
        assert_eq!(limit("/"), None);
        assert_eq!(limit("/a.slice/gone"), Some(5000));
    }

    #[test]
    fn a_container_sees_its_own_cgroup_at_the_root() {
        let tree = tree(&[("memory.max", "7000")]);
        for path in ["/", "/docker/0123", "/../../system.slice/x"] {
            assert_eq!(cgroup_limit(&format!("0::{path}\n"), tree.path()), Some(7000), "{path}");
        }
    }

    #[test]
    fn the_memory_controller_of_version_1_counts_too() {
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712"),
            ("memory/docker/0123/memory.limit_in_bytes", "4000"),
            ("cpu,cpuacct/docker/0123/memory.limit_in_bytes", "1"),
            ("unified/docker/memory.max", "6000"),
        ];
        let tree = tree(&files);
        let limit = |memberships: &str| cgroup_limit(memberships, tree.path());
        let memory = "9:hugetlb,memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n";
        assert_eq!(limit(memory), Some(4000));
        assert_eq!(limit("9:memory:/\n"), Some(9_223_372_036_854_771_712));
        assert_eq!(limit("3:cpu,cpuacct:/docker/0123\n0::/docker\n"), Some(6000));
        assert_eq!(limit("1:name=systemd:/docker/0123\n"), None);
        assert_eq!(limit("nonsense\n\n::"), None);
    }
}
