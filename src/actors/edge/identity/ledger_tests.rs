use proptest::prelude::*;

use super::*;
use crate::identity::SpiffeId;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + secs)
}

fn grant(path: &str) -> Grant {
    let id = SpiffeId::parse(&format!("spiffe://a{path}")).unwrap();
    Grant { id, hint: String::new(), dns_names: Vec::new(), ttl: None }
}

fn key(pod_uid: &str, grant: &Grant) -> Key {
    Key::of(&Workload { pod_uid: pod_uid.into(), container: "c".into(), ..Workload::default() }, grant)
}

fn svid(tag: u8, not_after: SystemTime) -> WorkloadSvid {
    WorkloadSvid { chain: vec![vec![tag]], key_pkcs8: vec![tag], not_after, serial_hex: String::new() }
}

fn issued(tag: u8, not_after: SystemTime, renew_at: SystemTime) -> Issued {
    Issued { svid: Arc::new(svid(tag, not_after)), renew_at }
}

#[test]
fn one_svid_for_each_pod_and_identity_until_half_of_its_life() {
    let (mut ledger, grant) = (Ledger::default(), grant("/ns/a/sa/b"));
    ledger.keep(key("u", &grant), grant.clone(), 1, issued(7, at(100), at(50)), at(5));
    let mut ask = |uid: &str, grant: &Grant, trust, now, trusted| {
        let held = ledger.held(&key(uid, grant), grant, trust, at(now), |_| trusted);
        held.and_then(|issued| issued.svid.chain.concat().first().copied())
    };
    assert_eq!(ask("u", &grant, 1, 49, false), Some(7), "checked against this trust before");
    assert_eq!(ask("u", &grant, 1, 50, true), None, "past half of its life");
    assert_eq!(ask("u", &grant, 1, 4, true), None, "the clock was turned back");
    assert_eq!(ask("v", &grant, 1, 10, true), None, "another pod");
    assert_eq!(ask("u", &self::grant("/ns/a/x"), 1, 10, true), None, "another identity");
    let names = Grant { dns_names: vec!["x".into()], ..grant.clone() };
    assert_eq!(ask("u", &names, 1, 10, true), None, "the registration changed");
    assert_eq!(ask("u", &grant, 2, 10, false), None, "its root is not trusted any more");
    assert_eq!(ask("u", &grant, 3, 10, true), Some(7));
    assert_eq!(ask("u", &grant, 3, 10, false), Some(7), "checked once");
    ledger.sweep(at(99));
    assert_eq!(ledger.len(), 1);
    ledger.sweep(at(100));
    assert_eq!(ledger.len(), 0);
}

#[test]
fn a_new_signer_renews_what_the_last_one_cut_short() {
    let (mut ledger, short, long) = (Ledger::default(), grant("/ns/a/short"), grant("/ns/a/long"));
    ledger.keep(key("u", &short), short.clone(), 1, issued(1, at(100), at(100)), at(0));
    ledger.keep(key("u", &long), long.clone(), 1, issued(2, at(100), at(50)), at(0));
    ledger.signer_changed(at(10));
    assert!(ledger.held(&key("u", &short), &short, 1, at(10), |_| true).is_none());
    assert!(ledger.held(&key("u", &long), &long, 1, at(10), |_| true).is_some());
}

#[test]
fn what_is_held_is_bounded_and_the_oldest_goes() {
    let mut ledger = Ledger::default();
    let grant = grant("/ns/a/sa/b");
    for n in 0..MAX_HELD as u64 + 10 {
        ledger.keep(key(&n.to_string(), &grant), grant.clone(), 1, issued(0, at(100 + n), at(50)), at(0));
    }
    assert_eq!(ledger.len(), MAX_HELD);
    assert!(ledger.held(&key("0", &grant), &grant, 1, at(0), |_| true).is_none());
    assert!(ledger.held(&key("10", &grant), &grant, 1, at(0), |_| true).is_some());
}

#[test]
fn no_life_beyond_the_signers() {
    assert_eq!(life(HOUR, at(7_200), at(0)), Some(HOUR));
    assert_eq!(life(HOUR, at(600), at(0)), Some(600 * SECOND));
    assert_eq!(life(HOUR, at(0), at(0)), None);
    assert_eq!(life(HOUR, at(0), at(60)), None);
}

#[test]
fn what_ends_with_its_signer_is_kept_to_its_end() {
    assert_eq!(renew_at(at(600), at(600), at(0), 0.5), at(600));
    assert_eq!(renew_at(at(599), at(600), at(0), 0.5), at(599));
    assert_eq!(renew_at(at(3_600), at(7_200), at(0), 0.0), at(1_800));
    assert_eq!(renew_at(at(3_600), at(7_200), at(0), 1.0), at(1_440));
}

proptest! {
    #[test]
    fn renewal_lies_ahead_and_before_the_end(
        life in 1_u64..1_000_000, signer in 0_u64..2_000_000, jitter in prop::num::f64::ANY,
    ) {
        let when = renew_at(at(life), at(signer), at(0), jitter);
        prop_assert!(when > at(0) && when <= at(life), "{:?}", when);
    }
}
