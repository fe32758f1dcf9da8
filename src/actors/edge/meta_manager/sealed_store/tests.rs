use std::fs;

use proptest::prelude::*;

use super::*;
use crate::store::{Faults, MemoryStore, RocksStore, Tuning};

const SECRET: &str = "meta/default/secret/db";
const TOKEN: &str = "token/u-1/x";
const POD: &str = "meta/default/pod/web";
const VALUE: &[u8] = br#"{"data":{"password":"correct horse"}}"#;

struct Place {
    dir: tempfile::TempDir,
    inner: Arc<MemoryStore>,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temp dir"), inner: Arc::new(MemoryStore::new()) }
    }

    fn settings(&self, name: &str, encrypt: bool) -> SecretSettings {
        SecretSettings { key_file: self.dir.path().join(name), encrypt }
    }

    fn open(&self, name: &str, encrypt: bool) -> (SealedStore, Found) {
        SealedStore::open(Arc::clone(&self.inner) as Arc<dyn Store>, &self.settings(name, encrypt))
            .expect("opens")
    }

    /// Is the row as it lies there encrypted?
    fn encrypted(&self, key: &str) -> bool {
        Vault::is_encrypted(&self.inner.get(Table::Objects, key.as_bytes()).expect("get").expect("row"))
    }
}

fn rows() -> Batch {
    [SECRET, TOKEN, POD, "meta/null/node/secret", "status/default/secret/db"]
        .into_iter()
        .fold(Batch::new(), |batch, key| batch.put(Table::Objects, key, VALUE))
}

fn get(store: &SealedStore, key: &str) -> Option<Vec<u8>> {
    store.get(Table::Objects, key.as_bytes()).expect("get")
}

#[test]
fn secrets_and_tokens_are_encrypted_and_nothing_else() {
    let place = Place::new();
    let (store, found) = place.open("store.key", true);
    assert_eq!(found, Found::default());
    store.write(&[rows()]).expect("write");
    for (key, want) in [
        (SECRET, true),
        (TOKEN, true),
        (POD, false),
        ("meta/null/node/secret", false),
        ("status/default/secret/db", false),
    ] {
        assert_eq!(place.encrypted(key), want, "{key}");
        assert_eq!(get(&store, key).as_deref(), Some(VALUE), "{key}");
    }
    let page = store.scan(Table::Objects, b"", None, 10).expect("scan");
    assert!(page.len() == 5 && page.iter().all(|(_, value)| value == VALUE));
    // The same file opens it again.
    let (again, found) = place.open("store.key", true);
    assert_eq!((found, get(&again, SECRET).as_deref()), (Found::default(), Some(VALUE)));
    again.write(&[Batch::new().delete(Table::Objects, SECRET)]).expect("write");
    assert_eq!(get(&again, SECRET), None);
}

#[test]
fn rows_of_an_older_version_are_rewritten_and_plain_ones_on_request() {
    let place = Place::new();
    place.inner.write(&[rows()]).expect("write");
    let (store, found) = place.open("store.key", true);
    assert_eq!(found, Found { rewritten: 2, unreadable: 0 });
    assert!(place.encrypted(SECRET) && place.encrypted(TOKEN) && !place.encrypted(POD));
    assert_eq!(get(&store, TOKEN).as_deref(), Some(VALUE));

    let (store, found) = place.open("store.key", false);
    assert_eq!(found, Found { rewritten: 2, unreadable: 0 });
    assert!(!place.encrypted(SECRET) && !place.encrypted(TOKEN));
    store.write(&[rows()]).expect("write");
    assert!(!place.encrypted(SECRET));
}

/// The key file was lost or another one put there: secrets count as absent, everything else stays,
/// and with the right file they are back.
#[test]
fn another_key_file_loses_nothing_but_the_secrets() {
    let place = Place::new();
    place.open("store.key", true).0.write(&[rows()]).expect("write");
    let (store, found) = place.open("other.key", true);
    assert_eq!(found, Found { rewritten: 0, unreadable: 2 });
    assert_eq!((get(&store, SECRET), get(&store, TOKEN)), (None, None));
    assert_eq!(get(&store, POD).as_deref(), Some(VALUE));
    assert_eq!(store.scan(Table::Objects, b"", None, 5).expect("scan").len(), 5, "pages stay whole");

    let (right, found) = place.open("store.key", true);
    assert_eq!((found.unreadable, get(&right, SECRET).as_deref()), (0, Some(VALUE)));
    // What the cloud sent again under the other key is absent under this one.
    store.write(&[Batch::new().put(Table::Objects, SECRET, VALUE)]).expect("write");
    assert_eq!(get(&store, SECRET).as_deref(), Some(VALUE));
    assert_eq!(place.open("store.key", true).1, Found { rewritten: 0, unreadable: 1 });
    // Nothing to be encrypted and no file: what is encrypted stays unreadable, nothing is made.
    let (store, found) = place.open("none.key", false);
    assert_eq!((found.unreadable, get(&store, TOKEN)), (2, None));
    assert!(!place.dir.path().join("none.key").exists());
}

#[test]
fn a_file_that_is_no_key_is_named_and_kept() {
    let place = Place::new();
    let path = place.dir.path().join("store.key");
    fs::write(&path, "not a key").expect("write");
    let err =
        SealedStore::open(Arc::clone(&place.inner) as Arc<dyn Store>, &place.settings("store.key", true));
    let err = err.err().expect("refused").to_string();
    assert!(err.contains("store.key") && err.contains("32 bytes"), "{err}");
    assert_eq!(fs::read(&path).expect("read"), b"not a key");
    place.inner.set_faults(Faults { fail_writes: 1, ..Faults::default() });
    let err = SealedStore::open(Arc::clone(&place.inner) as Arc<dyn Store>, &place.settings("new.key", true));
    assert!(err.is_err(), "a store that refuses the data key is not written to");
}

#[test]
fn a_row_copied_to_another_place_does_not_decrypt() {
    let place = Place::new();
    let (store, _) = place.open("store.key", true);
    store.write(&[rows()]).expect("write");
    let row = place.inner.get(Table::Objects, SECRET.as_bytes()).expect("get").expect("row");
    let copy = "meta/default/secret/other";
    place.inner.write(&[Batch::new().put(Table::Objects, copy, row)]).expect("write");
    assert_eq!(get(&store, copy), None);
}

/// What an older version wrote in plain must not stay in tables or logs that nobody reads any more.
#[test]
fn after_the_rewrite_no_file_holds_the_plain_value() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("store");
    let holds = || {
        fs::read_dir(&path).expect("dir").any(|entry| {
            let bytes = fs::read(entry.expect("entry").path()).expect("file");
            bytes.windows(13).any(|part| part == b"correct horse")
        })
    };
    let open = || Arc::new(RocksStore::open(&path, Tuning::edge()).expect("store"));
    open().write(&[rows()]).expect("write");
    // Once more, so that the rows are in a table as well as in a log.
    let plain = open();
    plain
        .write(&[Batch::new().delete(Table::Objects, POD).delete(Table::Objects, "meta/null/node/secret")])
        .expect("write");
    plain.write(&[Batch::new().delete(Table::Objects, "status/default/secret/db")]).expect("write");
    assert!(holds(), "the test looks in the right place");
    let settings = SecretSettings { key_file: dir.path().join("store.key"), encrypt: true };
    let (store, found) = SealedStore::open(plain, &settings).expect("opens");
    assert_eq!(found.rewritten, 2);
    assert!(!holds());
    store.write(&[Batch::new().put(Table::Objects, SECRET, VALUE)]).expect("write");
    assert!(!holds());
    assert_eq!(get(&store, SECRET).as_deref(), Some(VALUE));
}

proptest! {
    /// Whatever lies in the store, opening and reading it never panic, and what is no secret is as it was.
    #[test]
    fn any_rows_are_taken(rows in proptest::collection::btree_map(
        "(meta|token|status)/[a-z/]{0,12}(secret/)?[a-z]{0,4}", proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
        let place = Place::new();
        let batch = rows.iter().fold(Batch::new(), |batch, (key, value)| {
            batch.put(Table::Objects, key.as_str(), value.as_slice())
        });
        place.inner.write(&[batch]).expect("write");
        let (store, _) = place.open("store.key", true);
        for (key, value) in &rows {
            let got = get(&store, key);
            prop_assert_eq!(got.as_ref(), Some(value));
        }
    }
}
