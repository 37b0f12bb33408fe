//! Power loss: the library that keeps back what was not synced, and what to undo when the power has gone. See
//! `power_loss.c`.

use std::{
    collections::HashSet,
    env,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use crate::Check;

/// Compiles the library, and says where it is.
///
/// # Errors
/// If there is no C compiler (`CC`, else `cc`), or it refuses.
pub(crate) fn compile() -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/power_loss.c");
    let library =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("power_loss-{}.so", std::process::id()));
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(["-O2", "-Wall", "-Wextra", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-pthread", "-o"]);
    let status = command.arg(&library).arg(source).status().map_err(|error| {
        format!("power loss cannot be simulated without a C compiler: {}: {error}", compiler.display())
    })?;
    status.success().then_some(library).ok_or_else(|| format!("power_loss.c: {status}"))
}

/// How the power of the processes on one directory is cut.
pub(crate) struct PowerLoss {
    library: PathBuf,
    root: PathBuf,
    journal: PathBuf,
}

impl PowerLoss {
    /// For the directory `data` in `directory`.
    pub(crate) fn new(library: &Path, directory: &Path) -> Self {
        let directory = directory.canonicalize().expect("the directory is there");
        let journal = directory.join("journal");
        fs::create_dir(&journal).expect("create the directory of the journal");
        Self { library: library.to_owned(), root: directory.join("data"), journal }
    }

    /// Has the process of `command` keep back what it has not synced: all of it if `seed` is even, else all but what
    /// the seed lets through.
    pub(crate) fn prepare(&self, command: &mut Command, seed: u64) {
        command.env("LD_PRELOAD", &self.library).env("POWER_LOSS_ROOT", &self.root);
        command.env("POWER_LOSS_JOURNAL", &self.journal);
        if seed % 2 == 1 {
            command.env("POWER_LOSS_SEED", seed.to_string());
        }
    }

    /// Whether the library is at work in the process.
    pub(crate) fn is_at_work(&self) -> bool {
        fs::read(self.journal.join("journal")).is_ok_and(|text| text.starts_with(b"P\t"))
    }

    /// Undoes the changes of names that were not synced. The process must have ended.
    pub(crate) fn cut(&self) {
        // Without a journal the process ended before it began.
        let text = fs::read_to_string(self.journal.join("journal")).unwrap_or_default();
        let mut synced = HashSet::new();
        for line in text.lines().rev() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                // Whatever is further up was synced.
                ["A"] => break,
                ["S", directory] => {
                    synced.insert(PathBuf::from(directory));
                }
                ["C", path] if !is_in(path, &synced) => remove(Path::new(path)),
                ["R", old, new, saved] if !is_in(new, &synced) => undo_rename(old, new, saved),
                ["P", _] | ["C", _] | ["R", _, _, _] => {}
                // The process was killed while it wrote the line: nothing was done yet.
                _ if !text.ends_with('\n') && text.ends_with(line) => {}
                _ => panic!("a line of the journal that nobody understands: {line}"),
            }
        }
        fs::remove_dir_all(&self.journal).expect("remove the journal");
        fs::create_dir(&self.journal).expect("create the directory of the journal");
    }
}

fn is_in(path: &str, directories: &HashSet<PathBuf>) -> bool {
    Path::new(path).parent().is_some_and(|directory| directories.contains(directory))
}

fn remove(path: &Path) {
    // An error means that it was not created after all, or is gone already.
    _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

fn undo_rename(old: &str, new: &str, saved: &str) {
    // The process was killed before it renamed, or what it renamed is gone.
    if Path::new(old).exists() || !Path::new(new).exists() {
        return;
    }
    fs::rename(new, old).expect("rename back");
    if saved != "-" {
        fs::rename(saved, new).expect("put back what the rename replaced");
    }
}

/// Environment variable by which the binary of these tests becomes the program whose power is cut: it names a
/// directory to write in.
pub(crate) const PROBE: &str = "CRASH_POWER_LOSS_PROBE";

/// Checks of this module, run by `main`.
pub(crate) const CHECKS: &[Check] = &[
    ("power::what_is_not_synced_is_lost", tests::what_is_not_synced_is_lost),
    ("power::unsynced_sectors_may_arrive", tests::unsynced_sectors_may_arrive),
];

const THREADS: u64 = 6;
const PART_BYTES: u64 = 30_000;

/// What the program does whose power is cut. It sees everything that it has written, and waits to be killed.
pub(crate) fn probe(directory: &Path) {
    let path = |name| directory.join(name);
    let sync =
        |directory: &Path| File::open(directory).and_then(|file| file.sync_all()).expect("sync a directory");
    let create = |name| {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).open(path(name)).expect("create a file")
    };

    // Three pages are synced, then the second is written again and a fifth is appended.
    let mut pages = create("pages");
    pages.write_all(&[1; 3 * 4096]).expect("write");
    pages.sync_data().expect("sync");
    pages.write_all_at(&[2; 4096], 4096).expect("write");
    pages.write_all_at(&[3; 100], 4 * 4096).expect("write");
    assert_eq!(pages.metadata().expect("metadata").len(), 4 * 4096 + 100);
    assert_eq!(fs::metadata(path("pages")).expect("metadata").len(), 4 * 4096 + 100);
    assert_eq!(pages.seek(SeekFrom::End(0)).expect("seek"), 4 * 4096 + 100);
    let seen = fs::read(path("pages")).expect("read");
    let expected = [[1; 4096], [2; 4096], [1; 4096], [0; 4096]].concat();
    assert_eq!(seen, [&expected[..], &[3; 100]].concat());

    // A file is cut and written again; only a second file is synced in between.
    let mut cut = create("cut");
    cut.write_all(b"before the cut").expect("write");
    cut.sync_all().expect("sync");
    cut.set_len(6).expect("truncate");
    cut.set_len(9).expect("truncate");
    cut.seek(SeekFrom::Start(0)).expect("seek");
    let mut seen = String::new();
    cut.read_to_string(&mut seen).expect("read");
    assert_eq!(seen, "before\0\0\0");

    // An append after a sync, and one that is synced.
    let mut appended =
        File::options().append(true).create(true).open(path("appended")).expect("create a file");
    appended.write_all(b"one,").expect("write");
    appended.write_all(b"two,").expect("write");
    appended.sync_data().expect("sync");
    appended.write_all(b"three").expect("write");

    // Many threads at once, each with a part of one file.
    let shared = create("shared");
    thread::scope(|scope| {
        for number in 0..THREADS {
            let shared = &shared;
            scope.spawn(move || {
                for at in (0..PART_BYTES).step_by(100) {
                    let offset = number * PART_BYTES + at;
                    shared.write_all_at(&[number as u8; 100], offset).expect("write");
                    let mut seen = [255; 100];
                    shared.read_exact_at(&mut seen, offset).expect("read");
                    assert_eq!(seen, [number as u8; 100]);
                }
                shared.sync_data().expect("sync");
            });
        }
    });

    // One is replaced for good, by a file that was not synced itself; the other as it should be.
    for name in ["hasty", "careful"] {
        fs::write(path(name), "old").expect("write");
        File::open(path(name)).and_then(|file| file.sync_all()).expect("sync");
    }
    fs::create_dir(path("directory")).expect("create a directory");
    fs::write(path("hasty-new"), "new").expect("write");
    fs::rename(path("hasty-new"), path("hasty")).expect("rename");
    let mut careful = create("careful-new");
    careful.write_all(b"new").expect("write");
    careful.sync_all().expect("sync");
    fs::rename(path("careful-new"), path("careful")).expect("rename");
    sync(directory);

    // After the sync of the directory: a file, a directory, a rename onto another, a file in a synced directory.
    let late = create("late");
    late.sync_all().expect("sync");
    fs::create_dir(path("late-directory")).expect("create a directory");
    for name in ["from", "onto"] {
        let mut file = File::create(path("directory").join(name)).expect("create a file");
        file.write_all(name.as_bytes()).expect("write");
        file.sync_all().expect("sync");
    }
    sync(&path("directory"));
    fs::rename(path("directory/from"), path("directory/onto")).expect("rename");

    fs::write(directory.with_file_name("done"), "").expect("write");
    // Until the harness closes its end, which it does not do before it has killed this.
    _ = io::stdin().read(&mut [0]);
}

mod tests {
    use std::{
        process::Stdio,
        time::{Duration, Instant},
    };

    use tempfile::TempDir;

    use super::*;
    use crate::broker::DEADLINE;

    /// What the files are after the probe has done everything and was killed.
    #[expect(clippy::disallowed_methods, reason = "a file can only be polled")]
    fn cut_power(seed: u64) -> TempDir {
        let library = compile().expect("compile the library");
        let directory = TempDir::new().expect("a temporary directory");
        let data = directory.path().join("data");
        fs::create_dir(&data).expect("create a directory");
        let power = PowerLoss::new(&library, directory.path());
        let mut command = Command::new(env::current_exe().expect("this program"));
        power.prepare(&mut command, seed);
        let mut child = command.env(PROBE, &data).stdin(Stdio::piped()).spawn().expect("start the probe");
        let start = Instant::now();
        while !directory.path().join("done").exists() && start.elapsed() < DEADLINE {
            assert_eq!(child.try_wait().expect("ask for the probe"), None, "the probe ended by itself");
            thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("kill the probe");
        child.wait().expect("the probe ends");
        assert!(power.is_at_work());
        power.cut();
        fs::remove_file(library).expect("remove the library");
        directory
    }

    pub(super) fn what_is_not_synced_is_lost() {
        let directory = cut_power(0);
        let path = |name| directory.path().join("data").join(name);
        let read = |name| fs::read(path(name)).expect("read a file");
        assert!(read("pages") == [1; 3 * 4096], "the second page and the fifth are lost");
        assert_eq!(read("cut"), b"before the cut");
        assert_eq!(read("appended"), b"one,two,");
        let shared: Vec<u8> =
            (0..THREADS).flat_map(|number| vec![number as u8; PART_BYTES as usize]).collect();
        assert!(read("shared") == shared, "each thread has synced what it wrote");
        assert_eq!(read("hasty"), b"", "renamed for good, but its content was never synced");
        assert_eq!(read("careful"), b"new");
        assert!(!path("late").exists(), "its directory was not synced");
        assert!(!path("late-directory").exists(), "its directory was not synced");
        assert_eq!(read("directory/from"), b"from", "the rename was not synced");
        assert_eq!(read("directory/onto"), b"onto", "the rename was not synced");
    }

    pub(super) fn unsynced_sectors_may_arrive() {
        let arrived = (1..100).step_by(2).any(|seed| {
            let directory = cut_power(seed);
            let pages = fs::read(directory.path().join("data/pages")).expect("read a file");
            assert!(pages[..4096] == [1; 4096], "a synced page stays");
            assert!(pages[4096..8192].iter().all(|octet| [1, 2].contains(octet)), "old or new");
            pages[4096..8192].contains(&2) || pages.len() > 3 * 4096
        });
        assert!(arrived, "nothing unsynced ever arrives");
    }
}
