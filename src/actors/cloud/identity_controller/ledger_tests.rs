use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::identity::NodeRequest;

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

/// A key as a node makes one.
fn key() -> Value {
    NodeRequest::new(&node("edge-1")).unwrap().0.jwt_key
}

fn told(name: &str, jwt_key: Value, expires_at: u64) -> NodeKeyChanged {
    NodeKeyChanged {
        node: node(name),
        jwt_key,
        expires_at,
        svid_serial: "0a".into(),
        svid_expires_at: expires_at,
        node_ca_expires_at: 0,
    }
}

fn nobody() -> BTreeMap<NodeName, Revocation> {
    BTreeMap::new()
}

fn revoked(allowed_at: Option<u64>) -> Revocation {
    Revocation { at: 50, reason: "stolen".into(), allowed_at }
}

#[test]
fn keys_live_until_they_end() {
    let (first, second) = (key(), key());
    let (mut keys, mut identities) = (Data::new(), Data::new());
    let mut pending = Pending::default();
    pending.renewed(told("edge-1", first.clone(), 200), 100).unwrap();
    assert!(pending.edit_keys(&mut keys, 100) && pending.edit_identities(&mut identities, 100));
    assert!(!pending.edit_keys(&mut keys, 100), "done again, nothing changes");
    assert_eq!(bundle_keys(&keys, &nobody()), std::slice::from_ref(&first));
    let known: NodeIdentity = serde_json::from_str(&identities["edge-1"]).unwrap();
    assert_eq!((&*known.serial, known.svid_expires_at, known.renewed_at), ("0a", 200, 100));

    let mut pending = Pending::default();
    pending.renewed(told("edge-1", second.clone(), 300), 150).unwrap();
    pending.edit_keys(&mut keys, 150);
    assert_eq!(bundle_keys(&keys, &nobody()), [first, second.clone()], "tokens of the first live on");
    assert!(!needs_sweep(&keys, &identities, 199));
    assert!(needs_sweep(&keys, &identities, 200));
    Pending::default().edit_keys(&mut keys, 200);
    assert_eq!(bundle_keys(&keys, &nobody()), [second]);
    Pending::default().edit_keys(&mut keys, 300);
    assert_eq!(keys, Data::new());
    let long_after = 200 + REMEMBERED_SECS;
    assert!(!needs_sweep(&keys, &identities, long_after - 1) && needs_sweep(&keys, &identities, long_after));
}

/// The same key told again lives longer and is there once.
#[test]
fn a_key_is_there_once() {
    let (mut keys, mut pending, one) = (Data::new(), Pending::default(), key());
    for end in [200, 400, 300] {
        pending.renewed(told("edge-1", one.clone(), end), 100).unwrap();
        pending.edit_keys(&mut keys, 100);
    }
    Pending::default().edit_keys(&mut keys, 399);
    assert_eq!(bundle_keys(&keys, &nobody()), std::slice::from_ref(&one));
    pending.renewed(told("edge-2", one.clone(), 500), 100).unwrap();
    pending.edit_keys(&mut keys, 100);
    assert_eq!(bundle_keys(&keys, &nobody()), [one], "also when two nodes say it");
}

#[test]
fn what_is_no_key_is_not_published() {
    let mut forged = key();
    forged["kid"] = "another's".into();
    let mut pending = Pending::default();
    assert!(pending.renewed(told("edge-1", forged.clone(), 200), 100).is_err());
    assert!(pending.renewed(told("go-edge", Value::Null, 200), 100).is_ok(), "a Go edge has none");
    let (mut keys, mut identities) = (Data::new(), Data::new());
    assert!(!pending.edit_keys(&mut keys, 100));
    pending.edit_identities(&mut identities, 100);
    assert_eq!(identities.keys().collect::<Vec<_>>(), ["edge-1", "go-edge"]);
    let by_hand = Data::from([
        ("edge-1".to_owned(), json!([{"key": forged, "expiresAt": 900}]).to_string()),
        ("edge-2".to_owned(), "nonsense".to_owned()),
    ]);
    assert_eq!(bundle_keys(&by_hand, &nobody()), Vec::<Value>::new());
}

#[test]
fn a_revoked_node_loses_its_keys() {
    let (mut keys, mut pending, old, new) = (Data::new(), Pending::default(), key(), key());
    pending.renewed(told("edge-1", old.clone(), 900), 100).unwrap();
    pending.edit_keys(&mut keys, 100);
    let all = BTreeMap::from([(node("edge-1"), revoked(None))]);
    assert_eq!(bundle_keys(&keys, &all), Vec::<Value>::new(), "at once");
    pending.forget(node("edge-1"));
    // It is allowed again and joins before any of this is written.
    pending.renewed(told("edge-1", new.clone(), 950), 200).unwrap();
    pending.edit_keys(&mut keys, 200);
    let allowed = BTreeMap::from([(node("edge-1"), revoked(Some(150)))]);
    assert_eq!(bundle_keys(&keys, &allowed), [new]);
}

#[test]
fn revocations_are_read_and_written() {
    let mut data = Data::new();
    let mut pending = Pending::default();
    pending.revoke(node("edge-1"), revoked(None));
    assert!(pending.edit_revocations(&mut data));
    assert!(!pending.edit_revocations(&mut data), "already");
    assert_eq!(revocations(&data), (BTreeMap::from([(node("edge-1"), revoked(None))]), vec![]));
    data.insert("edge-1".into(), serde_json::to_string(&revoked(Some(60))).unwrap());
    assert!(pending.edit_revocations(&mut data), "allowed again, and cloned again");
    let by_hand = r#"{"at": 5, "reason": "by hand"}"#;
    data.insert("edge-1".into(), by_hand.into());
    assert!(!pending.edit_revocations(&mut data), "an administrator's word stays");
    data.insert("edge-2".into(), "{".into());
    data.insert("No_Node".into(), by_hand.into());
    let (all, wrong) = revocations(&data);
    assert_eq!((all.len(), wrong), (2, vec!["No_Node".to_owned()]));
    let unread = &all[&node("edge-2")];
    assert!(unread.allowed_at.is_none() && unread.reason.contains("cannot be read"), "{unread:?}");
}

#[test]
fn only_news_end_sessions() {
    let all = |entries: &[(&str, Option<u64>)]| -> BTreeMap<NodeName, Revocation> {
        entries.iter().map(|(name, allowed)| (node(name), revoked(*allowed))).collect()
    };
    for (before, after, want) in [
        (all(&[]), all(&[("a", None)]), vec!["a"]),
        (all(&[("a", None)]), all(&[("a", None)]), vec![]),
        (all(&[("a", None)]), all(&[("a", Some(9)), ("b", Some(9))]), vec!["a", "b"]),
        (all(&[("a", None)]), all(&[]), vec![]),
    ] {
        let names: Vec<NodeName> = newly_revoked(&before, &after).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.iter().map(NodeName::as_str).collect::<Vec<_>>(), want);
    }
}

/// A write that failed is put back: what came meanwhile wins, nothing is lost.
#[test]
fn what_was_not_written_comes_back() {
    let (old, new) = (key(), key());
    let mut taken = Pending::default();
    taken.renewed(told("edge-1", old.clone(), 500), 100).unwrap();
    taken.renewed(told("edge-2", old.clone(), 500), 100).unwrap();
    taken.revoke(node("edge-3"), revoked(None));
    taken.sweep();
    let mut pending = Pending::default();
    assert!(pending.is_empty());
    pending.renewed(told("edge-1", new.clone(), 600), 120).unwrap();
    pending.forget(node("edge-2"));
    pending.put_back(taken, 120);
    let (mut keys, mut identities, mut revocations) = (Data::new(), Data::new(), Data::new());
    pending.edit_keys(&mut keys, 120);
    pending.edit_identities(&mut identities, 120);
    pending.edit_revocations(&mut revocations);
    assert_eq!(bundle_keys(&keys, &nobody()), [old, new], "edge-2 was revoked meanwhile");
    let known: NodeIdentity = serde_json::from_str(&identities["edge-1"]).unwrap();
    assert_eq!((known.renewed_at, identities.len(), revocations.len()), (120, 2, 1));
}

proptest! {
    /// Whatever is in the ConfigMaps, reading them never fails, and an edit made twice is made once.
    #[test]
    fn any_text_is_survived(entries in prop::collection::btree_map("[a-zA-Z0-9._-]{1,12}", "[\\[\\]{}\":,a-z0-9]{0,40}", 0..6), now in 0u64..1_000) {
        let mut data: Data = entries;
        prop_assert_eq!(bundle_keys(&data, &nobody()), Vec::<Value>::new());
        let (all, wrong) = revocations(&data);
        prop_assert_eq!(all.len() + wrong.len(), data.len());
        let mut pending = Pending::default();
        pending.sweep();
        pending.edit_keys(&mut data, now);
        prop_assert!(!pending.edit_keys(&mut data, now));
        pending.edit_identities(&mut data, now);
        prop_assert!(!pending.edit_identities(&mut data, now));
    }

    /// Many renewals leave few keys, the newest among them.
    #[test]
    fn keys_of_a_node_are_bounded(ends in prop::collection::vec(200u64..900, 1..12)) {
        let (mut keys, mut all) = (Data::new(), Vec::new());
        for (n, end) in ends.iter().enumerate() {
            let mut pending = Pending::default();
            let jwt_key = key();
            let end = end + n as u64 * 1_000;
            all.push(jwt_key.clone());
            pending.renewed(told("edge-1", jwt_key, end), 100).unwrap();
            pending.edit_keys(&mut keys, 100);
        }
        let kept = bundle_keys(&keys, &nobody());
        prop_assert_eq!(kept.last(), all.last());
        prop_assert_eq!(kept.len(), all.len().min(KEYS_PER_NODE));
    }
}
