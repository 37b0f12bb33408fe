//! The process as the system sees it: memory, descriptors, threads. Read from `/proc` and asked of the system when
//! somebody wants to know.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// What the system tells of the process. 0 where it does not tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// Memory of its own, in octets.
    pub(super) anonymous_bytes: u64,
    /// Of files that are mapped, mostly the program itself, in octets.
    pub(super) file_bytes: u64,
    /// Threads.
    pub(super) threads: u64,
    /// Times that a thread was switched, voluntarily or not.
    pub(super) context_switches: u64,
    /// Open descriptors.
    pub(super) descriptors: u64,
}

impl Process {
    /// How it is now. Takes some microseconds, and a millisecond with thousands of descriptors.
    pub(super) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0_u64)
        };
        // One of those in the directory is the one that reads it.
        let descriptors =
            fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
        Self {
            anonymous_bytes: number("RssAnon") * 1024,
            file_bytes: (number("RssFile") + number("RssShmem")) * 1024,
            threads: number("Threads"),
            context_switches: number("voluntary_ctxt_switches") + number("nonvoluntary_ctxt_switches"),
            descriptors: descriptors as u64,
        }
    }

    /// Its resident memory, in octets.
    pub(super) fn resident_bytes(&self) -> u64 {
        self.anonymous_bytes + self.file_bytes
    }
}

/// How many descriptors it may have open.
pub(super) fn descriptors_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::from(u32::MAX))
}

/// How many threads and processes its user may have.
pub(super) fn threads_max() -> u64 {
    getrlimit(Resource::Nproc).current.unwrap_or(u64::from(u32::MAX))
}

/// The processors that it may use.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_seen() {
        let before = Process::now();
        let _files: Vec<_> = (0..20).map(|_| fs::File::open("/dev/null").expect("a file")).collect();
        let process = Process::now();
        assert!(process.resident_bytes() > 1 << 20 && process.threads > 0, "{process:?}");
        // Other tests open and close some too.
        assert!(process.descriptors >= before.descriptors.min(3) + 10, "{process:?}");
        assert!(descriptors_max() >= process.descriptors && threads_max() > 0 && processors() > 0);
    }
}
