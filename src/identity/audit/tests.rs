use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn at(n: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000 + n)
}

fn fact(subject: &str) -> Map<String, Value> {
    json!({"action": "join", "subject": subject, "allowed": true}).as_object().cloned().unwrap_or_default()
}

const LIMITS: AuditLimits = AuditLimits { max_bytes: 1 << 20, keep: 3 };

struct Log {
    dir: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temp dir") }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    fn open(&self) -> (AuditFile, Opened) {
        AuditFile::open(&self.path(), LIMITS, at(0)).expect("opens")
    }

    fn with(records: usize) -> Self {
        let log = Self::new();
        let (mut file, _) = log.open();
        for n in 0..records {
            file.append(&[(at(n as u64), fact(&format!("edge-{n}")))]).expect("append");
        }
        log
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("log")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).expect("write");
    }

    fn broken(&self) -> (usize, String) {
        match verify_log(&self.path()) {
            Err(AuditError::Broken { line, why, .. }) => (line, why),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn records_are_lines_that_follow_from_each_other() {
    let log = Log::new();
    let (mut file, opened) = log.open();
    assert_eq!(opened, Opened::New);
    assert_eq!(verify_log(&log.path()).expect("an empty log holds").records, 0);
    file.append(&[(at(1), fact("edge-1")), (at(2), fact("edge-2"))]).expect("append");
    file.append(&[]).expect("nothing");
    drop(file);
    let (mut file, opened) = log.open();
    assert_eq!((opened, file.head().seq), (Opened::Good, 2));
    file.append(&[(at(3), fact("edge-3"))]).expect("append");

    let lines: Vec<Value> =
        log.text().lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    assert_eq!(lines[0]["prev"], json!(GENESIS));
    for pair in lines.windows(2) {
        assert_eq!(pair[1]["prev"], pair[0]["hash"]);
    }
    assert_eq!((&lines[2]["seq"], &lines[2]["subject"]), (&json!(3), &json!("edge-3")));
    let summary = verify_log(&log.path()).expect("holds");
    assert_eq!((summary.records, summary.files), (3, 1));
    assert_eq!(summary.first, Some((1, "2026-09-21T14:13:21Z".to_owned())));
    assert_eq!(summary.last.map(|(seq, _)| seq), Some(3));
    for name in ["audit.log", "audit.head"] {
        let mode = fs::metadata(log.dir.path().join(name)).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_fact_cannot_say_what_the_chain_says() {
    let mut fact = fact("edge-1");
    for name in ["seq", "at", "prev", "hash"] {
        fact.insert(name.into(), json!("forged"));
    }
    fact.insert("reason".into(), json!("a \"quoted\"\nline, \"hash\":\"x\"}"));
    let line = AuditChain::default().append(&fact, at(0));
    assert_eq!((line.matches('\n').count(), line.matches("forged").count()), (1, 0));
    let record = Record::parse(line.trim_end().as_bytes()).expect("holds");
    assert_eq!((record.seq, record.prev.as_str()), (1, GENESIS));
}

#[test]
fn every_change_is_found_at_its_line() {
    let whole = Log::with(5);
    let lines: Vec<String> = whole.text().lines().map(|line| format!("{line}\n")).collect();
    let but = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        whole.write(&lines.concat());
        whole.broken()
    };
    for (case, (line, why), want_line, want) in [
        ("changed", but(&|l| l[2] = l[2].replace("edge-2", "edge-9")), 3, "the record was changed"),
        ("allowed flipped", but(&|l| l[0] = l[0].replace("true", "false")), 1, "the record was changed"),
        ("removed", but(&|l| drop(l.remove(1))), 2, "record 3 follows record 1"),
        ("swapped", but(&|l| l.swap(1, 2)), 2, "record 3 follows record 1"),
        ("twice", but(&|l| l.insert(2, l[1].clone())), 3, "record 2 follows record 2"),
        ("tail cut", but(&|l| l.truncate(3)), 4, "ends with record 3, but record 5 was written"),
        ("emptied", but(&Vec::clear), 1, "ends with record 0, but record 5 was written"),
        ("torn", but(&|l| l[4].truncate(20)), 5, "torn"),
        ("white space", but(&|l| l[3].insert(1, ' ')), 4, "the record was changed"),
        ("not JSON", but(&|l| l[3] = "nonsense\n".into()), 4, "not a record"),
        ("beginning cut", but(&|l| drop(l.drain(..2))), 1, "records 1 to 2 are missing at the beginning"),
    ] {
        assert_eq!(line, want_line, "{case}: {why}");
        assert!(why.contains(want), "{case}: {why}");
    }
    // Somebody who can compute hashes writes the last record anew: the head file knows better.
    let mut chain = AuditChain::default();
    let forged: String = (0..5).map(|n| chain.append(&fact(&format!("other-{n}")), at(n))).collect();
    whole.write(&forged);
    let (line, why) = whole.broken();
    assert_eq!((line, why.as_str()), (5, "record 5 is not the one the head file knows"));
    fs::remove_file(head_path(&whole.path())).expect("remove");
    assert!(whole.broken().1.contains("head file is missing"));
    fs::write(head_path(&whole.path()), "nonsense").expect("write");
    assert!(whole.broken().1.contains("is not one"));
}

#[test]
fn a_torn_last_line_is_repaired_at_open_and_recorded() {
    let log = Log::with(3);
    log.write(&format!("{}{{\"seq\":4,\"at\":\"20", log.text()));
    let (mut file, opened) = log.open();
    assert_eq!(opened, Opened::Repaired { bytes: 17 });
    file.append(&[(at(9), fact("edge-9"))]).expect("append");
    let summary = verify_log(&log.path()).expect("holds");
    assert_eq!(summary.records, 5, "three, the repair, one more");
    assert!(log.text().contains("17 bytes of a record that a power cut tore were removed"));
}

/// Records on disk that the head does not know yet: the power went in between. Nothing is wrong.
#[test]
fn a_head_that_lags_is_no_fault() {
    let log = Log::with(2);
    let head = fs::read(head_path(&log.path())).expect("head");
    let (mut file, _) = log.open();
    file.append(&[(at(5), fact("edge-5"))]).expect("append");
    drop(file);
    fs::write(head_path(&log.path()), head).expect("write");
    verify_log(&log.path()).expect("holds");
    assert_eq!(log.open().1, Opened::Good);
}

#[test]
fn a_cut_or_changed_log_goes_on_and_stays_broken() {
    for (case, change) in [
        ("cut", (|lines: &mut Vec<String>| lines.truncate(2)) as fn(&mut Vec<String>)),
        ("emptied", Vec::clear),
        ("last changed", |lines| lines[3] = lines[3].replace("edge-3", "edge-4")),
    ] {
        let log = Log::with(4);
        let mut lines: Vec<String> = log.text().lines().map(|line| format!("{line}\n")).collect();
        change(&mut lines);
        log.write(&lines.concat());
        let (mut file, opened) = log.open();
        assert!(matches!(opened, Opened::Broken(_)), "{case}: {opened:?}");
        file.append(&[(at(9), fact("edge-9"))]).expect("append");
        drop(file);
        assert_eq!(log.open().1, Opened::Good, "{case}: said once");
        assert!(log.text().contains("\"subject\":\"broken\""), "{case}");
        if case != "emptied" {
            log.broken();
        }
    }
}

#[test]
fn files_rotate_and_the_chain_goes_through_them() {
    let log = Log::new();
    let limits = AuditLimits { max_bytes: 600, keep: 2 };
    let open = || AuditFile::open(&log.path(), limits, at(0)).expect("opens").0;
    let mut file = open();
    for n in 0..20 {
        if n == 11 {
            file = open();
        }
        file.append(&[(at(n), fact(&format!("edge-{n}")))]).expect("append");
    }
    let names = |dir: &Path| {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("dir")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(log.dir.path()), ["audit.head", "audit.log", "audit.log.1", "audit.log.2"]);
    let summary = verify_log(&log.path()).expect("holds");
    assert_eq!((summary.files, summary.last.map(|(seq, _)| seq)), (3, Some(20)));
    assert!(summary.first.is_some_and(|(seq, _)| seq > 1), "the oldest are gone");

    // The power goes between two renames: the file in use is missing, its successor was not made.
    fs::rename(log.path(), log.dir.path().join("audit.log.7")).expect("rename");
    fs::rename(log.dir.path().join("audit.log.1"), log.dir.path().join("audit.log.8")).expect("rename");
    fs::rename(log.dir.path().join("audit.log.2"), log.dir.path().join("audit.log.9")).expect("rename");
    verify_log(&log.path()).expect("gaps in the numbers do not matter");

    // A whole file taken shows, the oldest or one between.
    let (oldest, aside) = (log.dir.path().join("audit.log.9"), log.dir.path().join("aside"));
    fs::rename(&oldest, &aside).expect("rename");
    assert!(log.broken().1.contains("missing at the beginning"));
    fs::rename(&aside, &oldest).expect("rename");
    fs::remove_file(log.dir.path().join("audit.log.8")).expect("remove");
    assert!(log.broken().1.contains("follows record"));
}

/// After a rotation the log in use may be empty; it goes on where the one before ended.
#[test]
fn a_restart_right_after_a_rotation_continues_the_chain() {
    let log = Log::with(3);
    fs::rename(log.path(), rotated_path(&log)).expect("rename");
    let (mut file, opened) = log.open();
    assert_eq!((opened, file.head().seq), (Opened::Good, 3));
    file.append(&[(at(4), fact("edge-4"))]).expect("append");
    assert_eq!(verify_log(&log.path()).expect("holds").records, 4);
}

fn rotated_path(log: &Log) -> PathBuf {
    file::rotated(&log.path(), 1)
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().expect("temp dir");
    fs::write(dir.path().join("file"), "").expect("write");
    let err = AuditFile::open(&dir.path().join("file/audit.log"), LIMITS, at(0)).expect_err("refused");
    assert!(err.to_string().contains("file/audit.log"), "{err}");
}

/// What a caller without an identity sends may be in a record; it must not make lines that nobody reads.
#[test]
fn no_text_breaks_the_log() {
    let log = Log::with(1);
    let (mut file, _) = log.open();
    let controls = "\u{1}".repeat(60_000);
    let letters = "\u{fc}\n".repeat(60_000);
    let many: Map<String, Value> = (0..200).map(|n| (format!("{n}{controls}"), json!(letters))).collect();
    for (n, value) in
        [json!(controls), json!(letters), json!([letters, [controls]]), json!(many)].iter().enumerate()
    {
        let mut long = fact("edge-1");
        long.insert("reason".to_owned(), value.clone());
        file.append(&[(at(n as u64), long)]).expect("append");
    }
    file.append(&[(at(9), many)]).expect("append");
    drop(file);
    assert_eq!(verify_log(&log.path()).expect("holds").records, 6);
    assert!(log.text().lines().all(|line| line.len() < MAX_LINE));
    assert_eq!(log.open().1, Opened::Good);
    let first = "a".repeat(MAX_TEXT / 6);
    assert_eq!((cut(&first), cut("x\n")), (first.clone(), "x\n".to_owned()), "short ones stay");
}

proptest! {
    #[test]
    fn any_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Record::parse(&raw).is_err());
        let log = Log::new();
        fs::write(log.path(), &raw).expect("write");
        fs::write(head_path(&log.path()), &raw).expect("write");
        let (mut file, _) = log.open();
        file.append(&[(at(1), fact("edge-1"))]).expect("a log always goes on");
    }

    /// Whatever single byte of a log changes, verification finds it.
    #[test]
    fn any_changed_byte_is_found(at in 0usize..2_000, flip in 1u8..) {
        let log = Log::with(4);
        let mut bytes = fs::read(log.path()).expect("log");
        let at = at % bytes.len();
        bytes[at] ^= flip;
        fs::write(log.path(), bytes).expect("write");
        prop_assert!(verify_log(&log.path()).is_err());
    }
}
