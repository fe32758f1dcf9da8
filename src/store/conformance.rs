//! What every [`Store`] must do. Each implementation's tests run all of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Batch, Store, Table};

/// Runs the suite. `open` gives an empty store for each name.
pub fn check(open: impl Fn(&str) -> Arc<dyn Store>) {
    order_and_prefixes(&*open("order"));
    after_and_limit(&*open("after"));
    overwrite_and_delete(&*open("overwrite"));
    batches_apply_in_order(&*open("batches"));
    tables_are_apart(&*open("tables"));
    big_values(&*open("big"));
    behaves_like_a_map(&*open("map"));
}

fn keys(store: &dyn Store, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>> {
    let rows = store.scan(Table::Objects, prefix, after, limit).unwrap();
    rows.into_iter().map(|(key, _)| key).collect()
}

fn order_and_prefixes(store: &dyn Store) {
    let all: [&[u8]; 8] = [b"", b"a", b"a\x00", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff\x01"];
    let mut batch = Batch::new();
    for key in all.iter().rev() {
        batch = batch.put(Table::Objects, *key, "v");
    }
    store.write(&[batch]).unwrap();
    let cases: [(&[u8], &[&[u8]]); 6] = [
        (b"", &all),
        (b"a", &[b"a", b"a\x00", b"a\xff", b"a\xff\xff"]),
        (b"a\xff", &[b"a\xff", b"a\xff\xff"]),
        (b"\xff", &[b"\xff", b"\xff\xff\x01"]),
        (b"\xff\xff", &[b"\xff\xff\x01"]),
        (b"c", &[]),
    ];
    for (prefix, want) in cases {
        assert_eq!(keys(store, prefix, None, 100), want, "prefix {prefix:?}");
    }
}

fn after_and_limit(store: &dyn Store) {
    let batch = (0..10).fold(Batch::new(), |batch, n| batch.put(Table::Objects, format!("q/{n}"), "v"));
    store.write(&[batch.put(Table::Objects, "r", "v")]).unwrap();
    assert_eq!(keys(store, b"q/", None, 3), [b"q/0", b"q/1", b"q/2"]);
    assert_eq!(keys(store, b"q/", Some(b"q/2"), 2), [b"q/3", b"q/4"]);
    assert_eq!(keys(store, b"q/", Some(b"q/2\x00"), 1), [b"q/3"], "a key that is not there");
    assert_eq!(keys(store, b"q/", Some(b"a"), 1), [b"q/0"], "before the prefix");
    assert!(keys(store, b"q/", Some(b"q/9"), 5).is_empty(), "never past the prefix");
    assert!(keys(store, b"q/", Some(b"z"), 5).is_empty());
    assert!(keys(store, b"q/", None, 0).is_empty());
}

fn overwrite_and_delete(store: &dyn Store) {
    let put = |value: &str| Batch::new().put(Table::Local, "k", value);
    store.write(&[put("1")]).unwrap();
    store.write(&[put("2")]).unwrap();
    assert_eq!(store.get(Table::Local, b"k").unwrap().as_deref(), Some(&b"2"[..]));
    store.write(&[Batch::new().delete(Table::Local, "k").delete(Table::Local, "never there")]).unwrap();
    assert_eq!(store.get(Table::Local, b"k").unwrap(), None);
    store.write(&[put("")]).unwrap();
    assert_eq!(store.get(Table::Local, b"k").unwrap().as_deref(), Some(&b""[..]), "empty is not absent");
    store.write(&[]).unwrap();
}

fn batches_apply_in_order(store: &dyn Store) {
    let first = Batch::new().put(Table::Objects, "a", "1").put(Table::Outbox, "a", "1");
    let second = Batch::new().delete(Table::Objects, "a").put(Table::Outbox, "a", "2");
    store.write(&[first, second]).unwrap();
    assert_eq!(store.get(Table::Objects, b"a").unwrap(), None);
    assert_eq!(store.get(Table::Outbox, b"a").unwrap().as_deref(), Some(&b"2"[..]));
}

fn tables_are_apart(store: &dyn Store) {
    store.write(&[Batch::new().put(Table::Objects, "x", "o").put(Table::Local, "x", "l")]).unwrap();
    assert_eq!(store.get(Table::Objects, b"x").unwrap().as_deref(), Some(&b"o"[..]));
    assert_eq!(store.get(Table::Outbox, b"x").unwrap(), None);
    assert_eq!(store.get(Table::Local, b"x").unwrap().as_deref(), Some(&b"l"[..]));
}

fn big_values(store: &dyn Store) {
    let value: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    store.write(&[Batch::new().put(Table::Objects, "big", value.clone())]).unwrap();
    assert_eq!(store.get(Table::Objects, b"big").unwrap(), Some(value));
    assert!(store.size_bytes() > 0);
}

/// Random writes and scans against an ordered map.
fn behaves_like_a_map(store: &dyn Store) {
    let key = || proptest::collection::vec(prop_oneof![Just(0_u8), Just(b'a'), Just(0xfe), Just(0xff)], 0..4);
    let steps = proptest::collection::vec((key(), proptest::option::of(any::<u8>())), 1..20);
    let input = (steps, key(), proptest::option::of(key()), 0_usize..8);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let model = std::cell::RefCell::new(BTreeMap::new());
    let outcome = runner.run(&input, |(steps, prefix, after, limit)| {
        let mut model = model.borrow_mut();
        let mut batch = Batch::new();
        for (key, value) in steps {
            batch = match value {
                Some(value) => {
                    model.insert(key.clone(), vec![value]);
                    batch.put(Table::Objects, key, vec![value])
                }
                None => {
                    model.remove(&key);
                    batch.delete(Table::Objects, key)
                }
            };
        }
        store.write(&[batch]).unwrap();
        let want: Vec<_> = model
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix) && after.as_ref().is_none_or(|after| *key > after))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        prop_assert_eq!(store.scan(Table::Objects, &prefix, after.as_deref(), limit).unwrap(), want);
        Ok(())
    });
    outcome.unwrap();
}
