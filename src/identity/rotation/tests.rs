use std::path::Path;

use super::*;
use crate::identity::files::power;
use crate::identity::{Ca, SvidError, new_node_csr, verify_x509_svid};
use crate::model::NodeName;

const DAY: Duration = Duration::from_secs(86_400);

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().expect("temp dir") };
        fixture.open(now());
        fixture
    }

    fn settings(&self) -> CaSettings {
        CaSettings::new(&self.path("rootCA.crt"), &self.path("rootCA.key"))
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// As cloudcore opens it when nodes are enrolled.
    fn open(&self, now: SystemTime) -> Ca {
        let may_create = !self.path("rootCA.crt").exists();
        Ca::open(CaSettings { may_create, ..self.settings() }, now).expect("opens")
    }

    fn rotation(&self) -> Rotation {
        Rotation::new(&self.settings()).expect("rotation")
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path())
            .expect("list")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("name"))
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn node() -> NodeName {
    NodeName::parse("edge-1").expect("name")
}

fn svid(ca: &Ca, at: SystemTime) -> Vec<Vec<u8>> {
    let (csr, _) = new_node_csr(&node()).expect("csr");
    ca.sign_node_csr(&csr, &node(), DAY, None, at).expect("signed")
}

fn copy(from: &Path) -> Fixture {
    let dir = tempfile::tempdir().expect("temp dir");
    for entry in std::fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copy");
    }
    Fixture { dir }
}

#[test]
fn a_whole_rotation_keeps_everybody_in() {
    let f = Fixture::new();
    let ca = f.open(now());
    let before = ca.bundle();
    let old_svid = svid(&ca, now());

    assert_eq!(f.rotation().prepare(now()).expect("prepared"), Step::Done);
    assert_eq!(f.rotation().prepare(now()).expect("again"), Step::Already);
    let changed = ca.reload(now()).expect("reload");
    assert_eq!((changed.bundle, changed.issuing), (true, false));
    let prepared = ca.bundle();
    assert_eq!((prepared.roots.len(), &prepared.roots[0]), (2, &before.roots[0]));
    assert_eq!(svid(&ca, now()).len(), 2, "no cross certificate before it is needed");

    assert_eq!(f.rotation().activate(now()).expect("activated"), Step::Done);
    assert_eq!(f.rotation().activate(now()).expect("again"), Step::Already);
    let changed = ca.reload(now()).expect("reload");
    assert!(changed.issuing);
    let after = ca.bundle();
    assert_eq!(after.roots, [prepared.roots[1].clone(), prepared.roots[0].clone()]);
    assert_eq!(ca.cert_der(), prepared.roots[1]);
    let new_svid = svid(&ca, now());
    assert_eq!(new_svid.len(), 3, "leaf, issuing, cross");
    let verify = |chain: &[Vec<u8>], bundle| verify_x509_svid(chain, bundle, now()).map(|svid| svid.issuer);
    for (case, bundle) in [("was away", &before), ("saw it prepared", &prepared), ("is there", &after)] {
        verify(&new_svid, bundle).unwrap_or_else(|err| panic!("{case}: {err}"));
        verify(&old_svid, bundle).unwrap_or_else(|err| panic!("{case}, with its old certificate: {err}"));
    }

    let err = f.rotation().prepare(now()).expect_err("one at a time");
    assert!(matches!(err, RotationError::NotRetired), "{err}");
    let err = f.rotation().retire(7 * DAY, false, now() + 6 * DAY).expect_err("too early");
    assert!(matches!(err, RotationError::InUse { until } if until == now() + 7 * DAY), "{err}");
    assert_eq!(f.rotation().retire(7 * DAY, false, now() + 7 * DAY).expect("retired"), Step::Done);
    assert_eq!(f.rotation().retire(7 * DAY, false, now() + 7 * DAY).expect("again"), Step::Already);
    ca.reload(now()).expect("reload");
    let retired = ca.bundle();
    assert_eq!(retired.roots, [after.roots[0].clone()]);
    assert_eq!(svid(&ca, now()).len(), 2);
    verify(&new_svid, &retired).expect("what the new root signed goes on");
    assert!(matches!(verify(&old_svid, &retired), Err(SvidError::Untrusted(_))));
    assert!(!ca.client_anchors_pem().contains(&crate::identity::cert_pem_from_der(&old_svid[1])));
    // And round again.
    assert_eq!(f.rotation().prepare(now()).expect("prepared"), Step::Done);
    assert_eq!(f.rotation().activate(now()).expect("activated"), Step::Done);
    ca.reload(now()).expect("reload");
    verify(&svid(&ca, now()), &retired).expect("followed");
}

/// Cuts the power after every single change on disk of a step. What is left must open with a root
/// that everybody knows, and the same step done again must finish the work.
fn every_prefix(
    start: &Fixture,
    step: impl Fn(&Fixture) -> Result<(), String>,
    check: impl Fn(&Fixture, &Ca, &str),
) {
    let finished = copy(start.dir.path());
    step(&finished).expect("undisturbed");
    for cut in 0..20 {
        let f = copy(start.dir.path());
        power::cut_after(Some(cut));
        let result = step(&f);
        power::cut_after(None);
        let case = format!("{cut} changes, left {:?}", f.names());
        let ca = Ca::open(CaSettings { may_create: false, ..f.settings() }, now())
            .unwrap_or_else(|err| panic!("{case}: {err}"));
        check(&f, &ca, &case);
        step(&f).unwrap_or_else(|err| panic!("{case}: again: {err}"));
        assert_eq!(f.names(), finished.names(), "{case}");
        let ca = Ca::open(CaSettings { may_create: false, ..f.settings() }, now()).expect("opens");
        check(&f, &ca, &case);
        if result.is_ok() {
            assert!(cut > 0, "the step changes something");
            return;
        }
    }
    panic!("the step does not end");
}

#[test]
fn a_power_cut_anywhere_leaves_what_opens() {
    let fresh = Fixture::new();
    let first = fresh.open(now()).bundle();
    let knows = move |_: &Fixture, ca: &Ca, case: &str| {
        let chain = svid(ca, now());
        verify_x509_svid(&chain, &first, now()).unwrap_or_else(|err| panic!("{case}: {err}"));
        verify_x509_svid(&chain, &ca.bundle(), now()).unwrap_or_else(|err| panic!("{case}: {err}"));
    };
    let text = |result: Result<Step, RotationError>| result.map(drop).map_err(|err| err.to_string());
    every_prefix(&fresh, |f| text(f.rotation().prepare(now())), &knows);

    let prepared = copy(fresh.dir.path());
    prepared.rotation().prepare(now()).expect("prepared");
    every_prefix(&prepared, |f| text(f.rotation().activate(now())), &knows);
    // cloudcore follows: a new issuing CA below the new root.
    let activated = copy(prepared.dir.path());
    activated.rotation().activate(now()).expect("activated");
    let reopen = |f: &Fixture| {
        let settings = CaSettings { may_create: false, ..f.settings() };
        Ca::open(settings, now()).map(drop).map_err(|err| err.to_string())
    };
    let renewed = |f: &Fixture| match reopen(f) {
        // A failed renewal is no error while the issuing CA there is still good.
        Ok(()) if f.rotation().status().is_ok_and(|status| status.issuing_follows) => Ok(()),
        Ok(()) => Err("not renewed".to_owned()),
        Err(err) => Err(err),
    };
    every_prefix(&activated, renewed, &knows);

    let followed = copy(activated.dir.path());
    followed.open(now());
    let second = followed.open(now()).bundle();
    let knows = |_: &Fixture, ca: &Ca, case: &str| {
        let chain = svid(ca, now());
        verify_x509_svid(&chain, &second, now()).unwrap_or_else(|err| panic!("{case}: {err}"));
    };
    every_prefix(&followed, |f| text(f.rotation().retire(DAY, false, now() + DAY)), knows);
}

#[test]
fn a_power_cut_while_the_first_ca_is_made() {
    for cut in 0..20 {
        let dir = tempfile::tempdir().expect("temp dir");
        let f = Fixture { dir };
        power::cut_after(Some(cut));
        let result = Ca::open(f.settings(), now()).map(|ca| ca.hash_hex());
        power::cut_after(None);
        let known = std::fs::read(f.path("rootCA.crt")).ok();
        let ca = Ca::open(f.settings(), now()).unwrap_or_else(|err| panic!("{cut} changes: {err}"));
        if let Some(known) = known {
            assert_eq!(ca.cert_pem().into_bytes(), known, "{cut} changes: the root stays");
        }
        assert_eq!(f.names(), ["issuing.crt", "issuing.key", "issuing.old.crt", "rootCA.crt", "rootCA.key"]);
        if let Ok(hash) = result {
            assert_eq!(ca.hash_hex(), hash);
            assert!(cut >= 8, "{cut}");
            return;
        }
    }
    panic!("creation does not end");
}

#[test]
fn steps_in_the_wrong_order_say_what_to_do() {
    let f = Fixture { dir: tempfile::tempdir().expect("temp dir") };
    let text = |result: Result<Step, RotationError>| result.expect_err("refused").to_string();
    assert!(text(f.rotation().prepare(now())).contains("there is no root yet"));
    f.open(now());
    assert!(text(f.rotation().activate(now())).contains("keadm ca prepare first"));
    assert_eq!(f.rotation().retire(DAY, false, now()).expect("nothing to do"), Step::Already);

    let away = tempfile::tempdir().expect("temp dir");
    let (key, elsewhere) = (f.path("rootCA.key"), away.path().join("key"));
    std::fs::rename(&key, &elsewhere).expect("offline");
    let err = text(f.rotation().prepare(now()));
    assert!(err.contains("rootCA.key") && err.contains("bring it back"), "{err}");
    std::fs::rename(&elsewhere, &key).expect("back");
    f.rotation().prepare(now()).expect("prepared");

    let next = f.path("rootCA.next.key");
    std::fs::rename(&next, &elsewhere).expect("offline");
    let err = text(f.rotation().activate(now()));
    assert!(err.contains("rootCA.next.key") && err.contains("bring it back"), "{err}");
    std::fs::rename(&elsewhere, &next).expect("back");
    f.rotation().activate(now()).expect("activated");
    let err = text(f.rotation().retire(Duration::ZERO, false, now()));
    assert!(err.contains("cloudcore still signs below the old root"), "{err}");
    f.open(now());
    f.rotation().retire(Duration::ZERO, false, now()).expect("retired");

    // Nobody knows when this one was activated.
    f.rotation().prepare(now()).expect("prepared");
    f.rotation().activate(now()).expect("activated");
    f.open(now());
    std::fs::remove_file(f.path("rotation.json")).expect("remove");
    assert!(matches!(f.rotation().retire(DAY, false, now()), Err(RotationError::InUse { .. })));
    assert_eq!(f.rotation().retire(DAY, true, now()).expect("forced"), Step::Done);
}

#[test]
fn status_shows_where_it_stands() {
    let f = Fixture::new();
    let status = || f.rotation().status().expect("status");
    let first = status();
    assert!(first.next.is_none() && first.old.is_none() && first.issuing_follows && first.root.has_key);
    f.rotation().prepare(now()).expect("prepared");
    let prepared = status();
    assert_eq!(prepared.root, first.root);
    assert!(prepared.next.as_ref().is_some_and(|next| next.has_key));
    f.rotation().activate(now()).expect("activated");
    let activated = status();
    assert_eq!(activated.root.hash, prepared.next.expect("next").hash);
    assert_eq!(activated.old.expect("old").hash, first.root.hash);
    assert_eq!((activated.activated_at, activated.issuing_follows), (Some(now()), false));
    std::fs::remove_file(f.path("rootCA.key")).expect("offline");
    assert!(!status().root.has_key);
}
