//! The disk that other tests crash: what it loses, keeps and tears.

#[path = "mod.rs"]
mod disk;

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    sync::Arc,
};

use leveret::storage::disk::{Disk, DiskFile};

use self::disk::{Crash, SECTOR_BYTES, SimDisk};

/// A disk with one durable file of that content.
fn disk_with(content: &[u8]) -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::new(1);
    let file = disk.create("a").expect("a file");
    file.write_all_at(content, 0).expect("to write");
    file.sync().expect("to sync");
    disk.sync_directory().expect("to sync the directory");
    (disk, file)
}

/// What many crashes of a kind leave, each as names and contents.
fn outcomes(disk: &SimDisk, mode: Crash) -> BTreeSet<Vec<(String, Vec<u8>)>> {
    (0..500).map(|_| files(&disk.crash(mode))).collect()
}

fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    disk.names().into_iter().map(|name| (name.clone(), disk.content(&name))).collect()
}

fn kind<T>(result: io::Result<T>) -> Result<(), ErrorKind> {
    result.map(drop).map_err(|error| error.kind())
}

fn read(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name).expect("a file");
    let mut content = vec![0; file.len().expect("a length") as usize];
    file.read_exact_at(&mut content, 0).expect("to read");
    content
}

#[test]
fn what_is_synced_survives_every_crash() {
    let (disk, _file) = disk_with(b"kept");
    for mode in Crash::ALL {
        assert_eq!(outcomes(&disk, mode), BTreeSet::from([vec![("a".to_owned(), b"kept".to_vec())]]));
        assert_eq!(read(&disk.crash(mode), "a"), b"kept");
    }
}

#[test]
fn what_is_not_synced_is_read_and_lost() {
    let (disk, file) = disk_with(b"old old");
    file.write_all_at(b"new", 0).unwrap();
    file.allocate(1000).unwrap();
    let other = disk.create("b").unwrap();
    other.write_all_at(b"synced, but its name is not", 0).unwrap();
    other.sync().unwrap();
    assert_eq!(disk.content("a")[..8], *b"new old\0");
    assert_eq!((file.len().unwrap(), disk.names().len()), (1000, 2));
    assert_eq!(files(&disk.crash(Crash::Lost)), [("a".to_owned(), b"old old".to_vec())]);
    disk.sync_directory().unwrap();
    assert_eq!(disk.crash(Crash::Lost).content("b"), b"synced, but its name is not");
}

#[test]
fn a_name_alone_is_an_empty_file() {
    let disk = SimDisk::new(1);
    disk.create("a").unwrap().write_all_at(b"lost", 0).unwrap();
    disk.sync_directory().unwrap();
    assert_eq!(disk.crash(Crash::Lost).content("a"), b"");
}

#[test]
fn a_late_power_cut_keeps_everything_for_good() {
    let (disk, file) = disk_with(b"old");
    file.write_all_at(b"new", 0).unwrap();
    disk.create("b").unwrap().write_all_at(b"b", 5).unwrap();
    disk.rename("b", "c").unwrap();
    let left = disk.crash(Crash::Kept);
    assert_eq!(files(&left), [("a".to_owned(), b"new".to_vec()), ("c".to_owned(), b"\0\0\0\0\0b".to_vec())]);
    assert_eq!(files(&left.crash(Crash::Lost)), files(&left));
}

#[test]
fn a_kill_keeps_everything_until_the_power_goes() {
    let (disk, file) = disk_with(b"old");
    file.write_all_at(b"new", 0).unwrap();
    disk.create("b").unwrap();
    let killed = disk.crash(Crash::Killed);
    assert_eq!(files(&killed), files(&disk));
    assert_eq!(files(&killed.crash(Crash::Lost)), [("a".to_owned(), b"old".to_vec())]);
    killed.open("a").unwrap().sync().unwrap();
    assert_eq!(files(&killed.crash(Crash::Lost)), [("a".to_owned(), b"new".to_vec())]);
    assert_eq!(disk.crash(Crash::Lost).content("a"), b"old", "the old one is another disk");
}

#[test]
fn by_chance_each_sector_is_there_or_not() {
    let (disk, file) = disk_with(&[1; 1600]);
    file.write_all_at(&[2; 1000], 100).unwrap();
    let mut seen = BTreeSet::new();
    for left in outcomes(&disk, Crash::Random) {
        let content = &left[0].1;
        let sectors = [100..512, 512..1024, 1024..1100];
        let sectors = sectors.map(|sector| {
            assert!(content[sector.clone()].iter().all(|octet| *octet == content[sector.start]));
            content[sector.start]
        });
        assert!(content[..100].iter().chain(&content[1100..]).all(|octet| *octet == 1));
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
}

#[test]
fn by_chance_a_length_comes_without_its_content() {
    let (disk, file) = disk_with(b"");
    file.write_all_at(b"ab", 0).unwrap();
    let seen: BTreeSet<_> =
        outcomes(&disk, Crash::Random).into_iter().map(|left| left[0].1.clone()).collect();
    assert_eq!(seen, BTreeSet::from([vec![], b"\0\0".to_vec(), b"ab".to_vec()]));
}

#[test]
fn by_chance_each_change_of_names_is_there_or_not() {
    let (disk, _file) = disk_with(b"");
    disk.create("b").unwrap();
    disk.rename("a", "c").unwrap();
    disk.create("d").unwrap();
    disk.remove("d").unwrap();
    let names = outcomes(&disk, Crash::Random).into_iter();
    let names: BTreeSet<_> =
        names.map(|left| left.into_iter().map(|(name, _)| name).collect::<String>()).collect();
    assert_eq!(names, BTreeSet::from(["a", "c", "ab", "bc", "ad", "cd", "abd", "bcd"].map(str::to_owned)));
}

#[test]
fn a_torn_crash_keeps_a_prefix_of_what_was_done() {
    let (disk, file) = disk_with(b"");
    let other = disk.create("b").unwrap();
    file.write_all_at(&[1; 1000], 0).unwrap();
    other.write_all_at(&[2; 1000], 300).unwrap();
    disk.create("c").unwrap();
    let (mut aligned, mut unaligned, mut ends) = (0, 0, BTreeSet::new());
    for _ in 0..2000 {
        let left = disk.crash(Crash::Torn);
        let has = |name: &str| left.names().iter().any(|other| other == name);
        let a = left.content("a");
        let b = if has("b") { left.content("b").len() } else { 0 };
        assert!(a.iter().all(|octet| *octet == 1));
        assert!(a.is_empty() || has("b"), "the name was first");
        assert!(b == 0 || (a.len() == 1000 && b > 300), "{b} octets after {}", a.len());
        assert!(!has("c") || b == 1300);
        for len in [a.len(), b].into_iter().filter(|len| ![0, 1000, 1300].contains(len)) {
            *if len % SECTOR_BYTES == 0 { &mut aligned } else { &mut unaligned } += 1;
        }
        ends.insert((has("b"), a.len() == 1000, b == 1300, has("c")));
    }
    assert!(aligned > 100 && unaligned > 100, "{aligned} {unaligned}");
    assert_eq!(ends.len(), 5, "{ends:?}");
}

#[test]
fn a_seed_does_the_same_again() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        disk.create("a").unwrap().write_all_at(&[1; 20_000], 0).unwrap();
        [Crash::Random, Crash::Torn].map(|mode| files(&disk.crash(mode)))
    };
    assert_eq!(run(1), run(1));
    assert!((2..20).any(|seed| run(seed) != run(1)));
}

#[test]
fn every_change_and_sync_is_counted() {
    let (disk, file) = disk_with(b"a");
    assert_eq!(disk.operations(), 4);
    file.allocate(10).unwrap();
    disk.rename("a", "b").unwrap();
    disk.remove("b").unwrap();
    assert_eq!(disk.operations(), 7);
    file.read_exact_at(&mut [0], 0).unwrap();
    disk.list().unwrap();
    disk.free_bytes().unwrap();
    file.len().unwrap();
    assert_eq!(disk.operations(), 7);
    assert_eq!(disk.crash(Crash::Killed).operations(), 0);
}

#[test]
fn from_a_crash_on_everything_fails_and_what_it_met_is_pending() {
    let (disk, file) = disk_with(b"old");
    disk.crash_at(5);
    file.write_all_at(b"n", 0).unwrap();
    assert!(!disk.is_crashed());
    assert!(file.write_all_at(b"new", 0).is_err() && disk.is_crashed());
    assert!(file.read_exact_at(&mut [0], 0).is_err() && file.len().is_err() && file.sync().is_err());
    assert!(disk.list().is_err() && disk.open("a").is_err() && disk.create("b").is_err());
    assert!(disk.remove("a").is_err() && disk.sync_directory().is_err() && disk.free_bytes().is_err());
    assert_eq!(disk.crash(Crash::Lost).content("a"), b"old");
    assert_eq!(disk.crash(Crash::Kept).content("a"), b"new");
    assert_eq!(disk.operations(), 6);
}

#[test]
fn a_sync_that_a_crash_meets_may_have_happened() {
    let (disk, file) = disk_with(b"old");
    file.write_all_at(b"new", 0).unwrap();
    disk.crash_at(disk.operations());
    assert!(file.sync().is_err());
    assert_eq!(disk.crash(Crash::Lost).content("a"), b"old");
    assert_eq!(disk.crash(Crash::Kept).content("a"), b"new");
}

#[test]
fn names_that_a_crash_meets_may_have_changed() {
    let changes: [fn(&SimDisk) -> io::Result<()>; 4] = [
        |disk| disk.create("b").map(drop),
        |disk| disk.rename("a", "b"),
        |disk| disk.remove("a"),
        |disk| disk.create("a").map(drop),
    ];
    for (change, left) in changes.into_iter().zip([vec!["a", "b"], vec!["b"], vec![], vec!["a"]]) {
        let (disk, _file) = disk_with(b"old");
        disk.crash_at(disk.operations());
        assert!(change(&disk).is_err());
        assert_eq!(disk.crash(Crash::Kept).names(), left);
        assert_eq!(files(&disk.crash(Crash::Lost)), [("a".to_owned(), b"old".to_vec())]);
    }
}

#[test]
fn a_failure_comes_once_and_does_nothing() {
    let (disk, file) = disk_with(b"old");
    for error in [ErrorKind::Other, ErrorKind::StorageFull] {
        let fails = || disk.fail_at(disk.operations(), error);
        let failed = Err(error);
        fails();
        assert_eq!(kind(file.write_all_at(b"new", 0)), failed);
        fails();
        assert_eq!(kind(file.allocate(10)), failed);
        fails();
        assert_eq!(kind(disk.create("b")), failed);
        fails();
        assert_eq!(kind(disk.create("a")), failed);
        fails();
        assert_eq!(kind(disk.rename("a", "b")), failed);
        fails();
        assert_eq!(kind(disk.remove("a")), failed);
        assert_eq!(files(&disk), [("a".to_owned(), b"old".to_vec())]);
    }
    file.write_all_at(b"new", 0).unwrap();
    assert_eq!(disk.content("a"), b"new");
}

#[test]
fn a_short_write_leaves_its_beginning() {
    let (disk, file) = disk_with(b"old old");
    disk.fail_short_at(disk.operations(), ErrorKind::Other, 2);
    assert_eq!(kind(file.write_all_at(b"new", 4)), Err(ErrorKind::Other));
    assert_eq!(disk.content("a"), b"old ned");
    assert_eq!(disk.crash(Crash::Lost).content("a"), b"old old");
}

#[test]
fn a_failed_sync_loses_what_can_still_be_read() {
    let (disk, file) = disk_with(b"old");
    file.write_all_at(b"new and longer", 0).unwrap();
    disk.fail_at(disk.operations(), ErrorKind::Other);
    assert_eq!(kind(file.sync()), Err(ErrorKind::Other));
    assert_eq!(disk.content("a"), b"new and longer");
    assert_eq!(disk.crash(Crash::Killed).content("a"), b"new and longer");
    assert_eq!(disk.crash(Crash::Kept).content("a"), b"old");
    file.write_all_at(b"more", 20).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.crash(Crash::Kept).content("a"), [&b"old"[..], &[0; 17], b"more"].concat());
}

#[test]
fn a_failed_sync_of_the_directory_loses_names_that_are_still_listed() {
    let (disk, _file) = disk_with(b"old");
    disk.create("b").unwrap();
    disk.fail_at(disk.operations(), ErrorKind::Other);
    assert_eq!(kind(disk.sync_directory()), Err(ErrorKind::Other));
    disk.sync_directory().unwrap();
    assert_eq!(disk.names(), ["a", "b"]);
    assert_eq!(disk.crash(Crash::Kept).names(), ["a"]);
}

#[test]
fn a_full_disk_takes_only_what_has_its_place_already() {
    let (disk, file) = disk_with(&[1; 100]);
    disk.set_capacity(150);
    assert_eq!(disk.free_bytes().unwrap(), 50);
    assert_eq!(kind(file.allocate(151)), Err(ErrorKind::StorageFull));
    assert_eq!(file.len().unwrap(), 100);
    file.allocate(120).unwrap();
    let other = disk.create("b").unwrap();
    assert_eq!(kind(other.write_all_at(&[2; 40], 0)), Err(ErrorKind::StorageFull));
    assert_eq!(disk.content("b"), [2; 30], "what fits is written");
    assert_eq!(kind(other.write_all_at(&[2], 1000)), Err(ErrorKind::StorageFull));
    assert_eq!(disk.free_bytes().unwrap(), 0);
    file.write_all_at(&[3; 120], 0).unwrap();
    file.sync().unwrap();
    disk.remove("b").unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 30);
    assert_eq!(disk.crash(Crash::Kept).free_bytes().unwrap(), 30);
}

#[test]
fn what_is_on_the_disk_rots() {
    let (disk, file) = disk_with(b"0123456789");
    disk.flip_bit("a", 1, 0);
    assert_eq!(disk.content("a"), b"0023456789");
    disk.zero("a", 2..4);
    assert_eq!(disk.content("a"), b"00\0\x00456789");
    disk.swap_blocks("a", 8, 4, 2);
    assert_eq!(disk.content("a"), b"00\0\x00896745");
    assert_eq!(disk.crash(Crash::Lost).content("a"), disk.content("a"));
    file.sync().unwrap();
    assert_eq!(disk.crash(Crash::Lost).content("a"), disk.content("a"));
    assert_eq!(disk.operations(), 5);
}

#[test]
fn an_open_file_outlives_its_name() {
    let (disk, file) = disk_with(b"old");
    disk.remove("a").unwrap();
    disk.sync_directory().unwrap();
    assert_eq!(kind(disk.open("a")), Err(ErrorKind::NotFound));
    assert_eq!(kind(disk.remove("a")), Err(ErrorKind::NotFound));
    assert_eq!(kind(disk.rename("a", "b")), Err(ErrorKind::NotFound));
    let mut octets = [0; 3];
    file.read_exact_at(&mut octets, 0).unwrap();
    assert_eq!(octets, *b"old");
    assert_eq!(kind(file.read_exact_at(&mut octets, 1)), Err(ErrorKind::UnexpectedEof));
    assert_eq!(kind(file.read_exact_at(&mut octets, 100)), Err(ErrorKind::UnexpectedEof));
    assert!(disk.crash(Crash::Killed).names().is_empty());
}

#[test]
fn a_name_that_was_taken_over_comes_back_with_its_old_file() {
    let (disk, _file) = disk_with(b"old");
    let other = disk.create("b").unwrap();
    other.write_all_at(b"new", 0).unwrap();
    other.sync().unwrap();
    disk.rename("b", "a").unwrap();
    assert_eq!(files(&disk), [("a".to_owned(), b"new".to_vec())]);
    assert_eq!(files(&disk.crash(Crash::Lost)), [("a".to_owned(), b"old".to_vec())]);
    disk.sync_directory().unwrap();
    assert_eq!(files(&disk.crash(Crash::Lost)), [("a".to_owned(), b"new".to_vec())]);
}

#[test]
fn creating_a_file_again_empties_it_once_it_is_synced() {
    let (disk, _file) = disk_with(b"old");
    let file = disk.create("a").unwrap();
    assert_eq!((disk.content("a"), disk.crash(Crash::Lost).content("a")), (vec![], b"old".to_vec()));
    file.sync().unwrap();
    assert_eq!(disk.crash(Crash::Lost).content("a"), b"");
}
