//! What a process has used, from /proc, and waiting.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long a broker is left alone before its memory at rest is read.
const SETTLE: Duration = Duration::from_secs(1);

/// A process whose use of the machine is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

/// CPU seconds since a process began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl Cpu {
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }

    pub(crate) fn since(self, earlier: Cpu) -> Cpu {
        Cpu { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    pub(crate) peak: f64,
}

impl Process {
    /// The one that reads this.
    pub(crate) fn own() -> Process {
        Process(std::process::id())
    }

    /// CPU time of all its threads, in steps of a clock tick (10 ms).
    pub(crate) fn cpu(self) -> Result<Cpu> {
        let stat = self.read("stat")?;
        // The command's name stands in brackets and may hold anything; utime and stime are fields 14 and 15.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let seconds = |field: usize| -> Result<f64> {
            let ticks: u64 = fields.get(field - 3).context("/proc/PID/stat is short")?.parse()?;
            Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
        };
        Ok(Cpu { user: seconds(14)?, system: seconds(15)? })
    }

    /// Resident memory now and at most, since the process began or since [`Process::forget_peak`].
    pub(crate) fn memory(self) -> Result<Memory> {
        let status = self.read("status")?;
        let field = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let value =
                line.and_then(|line| line.split_whitespace().next()).context("/proc/PID/status is short")?;
            Ok(value.parse()?)
        };
        Ok(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
    }

    /// Memory once it has done what was left to do.
    pub(crate) fn settled_memory(self) -> Result<Memory> {
        pause(SETTLE);
        self.memory()
    }

    /// How many files, sockets and the like it has open; `None` for another user's process.
    pub(crate) fn open_files(self) -> Option<usize> {
        fs::read_dir(format!("/proc/{}/fd", self.0)).ok().map(Iterator::count)
    }

    /// Starts the peak anew, where the system lets us.
    pub(crate) fn forget_peak(self) {
        // Refused for another user's process; the peak is then that since its start.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.0), "5");
    }

    fn read(self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

/// Lets time pass between two looks at something that cannot wake us: another process, or counters that threads
/// must not be slowed down for.
pub(crate) fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "see above")]
    std::thread::sleep(time);
}
