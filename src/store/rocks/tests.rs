use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::store::conformance;

fn open(path: &Path) -> Result<RocksStore, StoreError> {
    RocksStore::open(path, Tuning::edge())
}

/// A store with rows in table files and in the log.
fn filled(path: &Path) {
    let store = open(path).unwrap();
    let batch = (0..500).fold(Batch::new(), |batch, n| {
        batch.put(Table::Objects, format!("meta/{n:04}"), format!("value {n} ").repeat(20))
    });
    store.write(&[batch]).unwrap();
    let flushed = store.with("flush", |db| {
        db.flush_cf(store.handle(db, Table::Objects)?).map_err(|err| failure("flush", path, &err))
    });
    flushed.unwrap();
    store.write(&[Batch::new().put(Table::Objects, "late", "in the log")]).unwrap();
}

fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let named = |entry: std::fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap())
    };
    let data = |name: &String| !name.starts_with("LOG") && name != "LOCK";
    std::fs::read_dir(path)
        .unwrap()
        .map(|entry| named(entry.unwrap()))
        .filter(|(name, _)| data(name))
        .collect()
}

#[test]
fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance::check(|name| Arc::new(open(&dir.path().join(name)).unwrap()));
}

#[test]
fn the_cloud_sizes_open_too() {
    let dir = tempfile::tempdir().unwrap();
    RocksStore::open(&dir.path().join("s"), Tuning::cloud()).unwrap();
}

#[test]
fn survives_reopening_and_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/store");
    filled(&path);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let store = open(&path).unwrap();
    assert_eq!(store.get(Table::Objects, b"late").unwrap().as_deref(), Some(&b"in the log"[..]));
    assert_eq!(store.scan(Table::Objects, b"meta/", None, 1000).unwrap().len(), 500);
}

#[test]
fn a_second_owner_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path()).unwrap();
    let err = open(dir.path()).err().unwrap();
    assert!(matches!(err, StoreError::Io { .. }), "{err}");
    assert!(err.to_string().contains("another process has it open"), "{err}");
}

#[test]
fn a_newer_schema_is_refused_even_with_families_we_do_not_know() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path()).unwrap();
        store.db.write().as_mut().unwrap().create_cf("future", &Options::default()).unwrap();
        store.write(&[Batch::new().put(Table::Local, SCHEMA_KEY, "7")]).unwrap();
    }
    let err = open(dir.path()).err().unwrap();
    assert!(matches!(err, StoreError::NewerSchema { found: 7, known: SCHEMA, .. }), "{err}");
}

#[test]
fn rows_without_a_schema_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path()).unwrap();
        let batch = Batch::new().delete(Table::Local, SCHEMA_KEY).put(Table::Objects, "a", "b");
        store.write(&[batch]).unwrap();
    }
    assert!(matches!(open(dir.path()), Err(StoreError::Damaged { .. })));
}

#[test]
fn an_interrupted_creation_is_started_over() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("MANIFEST-000001"), b"half").unwrap();
    std::fs::write(dir.path().join("IDENTITY"), b"x").unwrap();
    open(dir.path()).unwrap();
}

#[test]
fn damage_is_reported_and_nothing_is_destroyed() {
    type Damage = fn(&str) -> bool;
    let cases: [(&str, Damage, Option<&[u8]>); 5] = [
        ("CURRENT is garbage", |name| name == "CURRENT", Some(b"garbage")),
        ("CURRENT is gone", |name| name == "CURRENT", None),
        (
            "the manifest is garbage",
            |name| name.starts_with("MANIFEST"),
            Some(b"\x00garbage\xff that is no record"),
        ),
        ("the manifest is gone", |name| name.starts_with("MANIFEST"), None),
        ("a table file is gone", |name| name.ends_with(".sst"), None),
    ];
    for (case, matches, content) in cases {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        for name in files(dir.path()).into_keys().filter(|name| matches(name)) {
            match content {
                Some(bytes) => std::fs::write(dir.path().join(name), bytes).unwrap(),
                None => std::fs::remove_file(dir.path().join(name)).unwrap(),
            }
        }
        let before = files(dir.path());
        let err = open(dir.path()).err().unwrap_or_else(|| panic!("{case}: opened"));
        assert!(matches!(err, StoreError::Damaged { .. }), "{case}: {err}");
        assert!(err.to_string().contains("Move the folder away"), "{case}: {err}");
        let after = files(dir.path());
        for (name, content) in &before {
            assert_eq!(after.get(name), Some(content), "{case}: {name} changed");
        }
    }
}

#[test]
fn a_flipped_bit_in_a_table_file_is_found_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    for (name, mut bytes) in files(dir.path()).into_iter().filter(|(name, _)| name.ends_with(".sst")) {
        for at in (0..bytes.len() / 2).step_by(64) {
            bytes[at] ^= 0x55;
        }
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let outcome = open(dir.path()).and_then(|store| store.scan(Table::Objects, b"meta/", None, 1000));
    assert!(matches!(outcome, Err(StoreError::Damaged { .. })), "{outcome:?}");
}

/// A store with rows in its log, and the log.
fn logged(path: &Path, tuning: Tuning) -> (PathBuf, Vec<u8>) {
    let store = RocksStore::open(path, tuning).unwrap();
    for n in 0..20 {
        store.write(&[Batch::new().put(Table::Objects, format!("{n:02}"), "value ".repeat(50))]).unwrap();
    }
    drop(store);
    let (name, log) = files(path).into_iter().rfind(|(name, _)| name.ends_with(".log")).unwrap();
    (path.join(name), log)
}

fn rows(path: &Path, tuning: Tuning) -> Result<usize, StoreError> {
    RocksStore::open(path, tuning).and_then(|store| Ok(store.scan(Table::Objects, b"", None, 1000)?.len()))
}

#[test]
fn a_torn_log_is_read_as_far_as_it_goes() {
    for tuning in [Tuning::edge(), Tuning::cloud()] {
        for left in [10, 100, 350] {
            let dir = tempfile::tempdir().unwrap();
            let (file, log) = logged(dir.path(), tuning);
            std::fs::write(&file, &log[..log.len() - left]).unwrap();
            assert_eq!(rows(dir.path(), tuning).unwrap(), if left < 300 { 19 } else { 18 }, "{left}");
        }
    }
}

/// What was acknowledged is there, or it is said that it is not; but for the last record, which nobody can tell from a
/// torn one.
#[test]
fn a_log_that_rotted_is_not_taken_for_a_torn_one() {
    for part in 0..19 {
        let dir = tempfile::tempdir().unwrap();
        let (file, mut log) = logged(dir.path(), Tuning::cloud());
        let at = log.len() / 20 * part;
        log[at] ^= 0x10;
        std::fs::write(&file, &log).unwrap();
        let before = files(dir.path());
        let err = rows(dir.path(), Tuning::cloud()).expect_err("rotten");
        assert!(matches!(err, StoreError::Damaged { .. }), "{err}");
        assert!(err.to_string().contains(".log: the record at byte "), "{err}");
        assert_eq!(files(dir.path()), before);
        // An edge has nobody to help it.
        assert!(rows(dir.path(), Tuning::edge()).unwrap() < 20, "part {part}");
    }
}

#[test]
fn logs_and_tables_that_are_gone_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = logged(dir.path(), Tuning::cloud());
    std::fs::remove_file(log).unwrap();
    let err = rows(dir.path(), Tuning::cloud()).unwrap_err();
    assert!(err.to_string().contains("its log is gone"), "{err}");
    assert_eq!(rows(dir.path(), Tuning::edge()).unwrap(), 0, "an edge gets its objects from the cloud again");

    // Of a manifest that was cut RocksDB takes what is there; the log of a store that was opened again is empty.
    let mut cut = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        logged(dir.path(), Tuning::cloud());
        if cut % 32 == 0 {
            assert_eq!(rows(dir.path(), Tuning::cloud()).unwrap(), 20);
        }
        let is_manifest = |(name, _): &(String, Vec<u8>)| name.starts_with("MANIFEST");
        let (name, manifest) = files(dir.path()).into_iter().find(is_manifest).unwrap();
        if cut > manifest.len() {
            break;
        }
        std::fs::write(dir.path().join(&name), &manifest[..cut]).unwrap();
        match rows(dir.path(), Tuning::cloud()) {
            Ok(found) => assert_eq!(found, 20, "cut to {cut}"),
            Err(err) => {
                assert!(matches!(err, StoreError::Damaged { .. }), "cut to {cut}: {err}");
                assert!(cut < manifest.len());
            }
        }
        cut += 16;
    }
}

/// As after a write that failed a while ago.
fn after_a_failure(store: &RocksStore) {
    *store.failed.lock() = Instant::now().checked_sub(REOPEN_AFTER);
}

#[test]
fn a_store_is_opened_again_after_a_failed_write() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let store = open(dir.path()).unwrap();
    after_a_failure(&store);
    store.write(&[Batch::new().put(Table::Objects, "after", "it")]).unwrap();
    assert_eq!(store.get(Table::Objects, b"late").unwrap().unwrap(), b"in the log");
    assert_eq!(store.get(Table::Objects, b"after").unwrap().unwrap(), b"it");
}

#[test]
fn a_store_whose_files_went_is_not_replaced_by_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for name in files(dir.path()).keys() {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    after_a_failure(&store);
    let write = || store.write(&[Batch::new().put(Table::Objects, "after", "it")]);
    let err = write().unwrap_err();
    assert!(matches!(err, StoreError::Damaged { .. }), "{err}");
    assert!(!dir.path().join("CURRENT").exists(), "nothing was made");
    assert!(write().is_err(), "and it stays so");
    assert_eq!(store.get(Table::Objects, b"after").unwrap(), None, "reads go on");
}

#[test]
fn memtables_grow_by_what_the_allocator_maps() {
    for tuning in [Tuning::edge(), Tuning::cloud()] {
        let block = tuning.memtable_block_bytes();
        assert!(block >= 128 << 10, "{tuning:?}");
        assert!(block * 8 <= tuning.write_buffer_bytes, "{tuning:?}");
    }
}
