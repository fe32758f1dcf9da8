use proptest::prelude::*;

use super::*;

fn workload() -> Workload {
    Workload {
        namespace: "shop".into(),
        pod: "till-1".into(),
        pod_uid: "u-1".into(),
        service_account: "till".into(),
        labels: BTreeMap::from([("app".into(), "till".into()), ("tier".into(), "front".into())]),
        container: "main".into(),
        container_id: "c".into(),
        images: digests([format!("registry.local/till@sha256:{}", "a".repeat(64)).as_str()]),
        uid: 1000,
        path: Some("/bin/till".into()),
        sha256: Some("ff".into()),
    }
}

fn registration(path: &str, selectors: Selectors) -> Registration {
    Registration {
        namespace: "shop".into(),
        name: "r".into(),
        path: path.into(),
        selectors,
        ..Default::default()
    }
}

fn by_container() -> Selectors {
    Selectors { container: Some("main".into()), ..Selectors::default() }
}

fn ids(registrations: &[Registration]) -> Vec<String> {
    grants(&workload(), "a.b", registrations).iter().map(|grant| grant.id.to_string()).collect()
}

#[test]
fn the_service_account_is_always_first() {
    assert_eq!(ids(&[]), ["spiffe://a.b/ns/shop/sa/till"]);
    let own = registration("/ns/shop/till/main", by_container());
    assert_eq!(ids(&[own.clone(), own]), ["spiffe://a.b/ns/shop/sa/till", "spiffe://a.b/ns/shop/till/main"]);
    let device = registration("/device/shop/scale-1", by_container());
    assert_eq!(ids(&[device]).last().map(String::as_str), Some("spiffe://a.b/device/shop/scale-1"));
}

#[test]
fn a_namespace_hands_out_only_what_is_its_own() {
    for path in [
        "/ns/other/sa/till",
        "/ns/shop",
        "/ns/shop/",
        "/ns/shopping/x",
        "/ns//x",
        "ns/shop/x",
        "/node/edge-1",
        "/cloudcore",
        "/device/other/scale",
        "/ns/shop/../other/x",
        "/ns/shop/x?y",
        "/ns/shop//x",
        "",
    ] {
        assert_eq!(ids(&[registration(path, by_container())]).len(), 1, "{path}");
    }
    let mut foreign = registration("/ns/other/x", by_container());
    foreign.namespace = "other".into();
    assert_eq!(ids(&[foreign.clone()]).len(), 1, "a registration of another namespace");
    foreign.path = "/ns/shop/x".into();
    assert_eq!(ids(&[foreign]).len(), 1, "of another namespace, with a path of this one");
}

#[test]
fn all_selectors_that_are_given_must_match() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let labels = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let none = Selectors::default;
    for (case, selectors, want) in [
        ("nothing given", none(), false),
        ("account", Selectors { service_account: Some("till".into()), ..none() }, true),
        ("another account", Selectors { service_account: Some("cook".into()), ..none() }, false),
        ("label", Selectors { pod_labels: labels("app", "till"), ..none() }, true),
        ("another value", Selectors { pod_labels: labels("app", "cook"), ..none() }, false),
        ("no such label", Selectors { pod_labels: labels("zone", ""), ..none() }, false),
        ("container", by_container(), true),
        ("another container", Selectors { container: Some("side".into()), ..none() }, false),
        ("digest", Selectors { image_digest: Some(digest.clone()), ..none() }, true),
        ("another digest", Selectors { image_digest: Some("sha256:b".into()), ..none() }, false),
        ("user", Selectors { uid: Some(1000), ..none() }, true),
        ("root", Selectors { uid: Some(0), ..none() }, false),
        ("path", Selectors { path: Some("/bin/till".into()), ..none() }, true),
        ("another path", Selectors { path: Some("/bin/sh".into()), ..none() }, false),
        ("hash", Selectors { sha256: Some("ff".into()), ..none() }, true),
        ("another hash", Selectors { sha256: Some("fe".into()), ..none() }, false),
        ("container but not user", Selectors { uid: Some(7), ..by_container() }, false),
    ] {
        assert_eq!(ids(&[registration("/ns/shop/x", selectors)]).len() == 2, want, "{case}");
    }
    let mut unknown = workload();
    (unknown.path, unknown.sha256) = (None, None);
    let by_path = Selectors { path: Some("/bin/till".into()), ..none() };
    assert_eq!(grants(&unknown, "a.b", &[registration("/ns/shop/x", by_path)]).len(), 1);
}

#[test]
fn the_number_of_identities_is_bounded() {
    let many: Vec<_> = (0..100).map(|n| registration(&format!("/ns/shop/{n}"), by_container())).collect();
    assert_eq!(ids(&many).len(), MAX_GRANTS);
}

#[test]
fn only_what_a_namespace_asks_for_is_wanted() {
    let hash = registration("/ns/shop/x", Selectors { sha256: Some("ff".into()), ..Selectors::default() });
    let mut other = registration("/ns/o/x", Selectors { path: Some("/x".into()), ..Selectors::default() });
    other.namespace = "o".into();
    let all = [hash, other];
    assert_eq!(Wanted::by("shop", &all), Wanted { sha256: true, ..Wanted::default() });
    assert_eq!(Wanted::by("o", &all), Wanted { path: true, ..Wanted::default() });
    assert_eq!(Wanted::by("", &all), Wanted::default());
}

#[test]
fn digests_of_references() {
    let hex = "0123456789abcdef".repeat(4);
    let manifest = format!("registry.local:5000/a/b@sha256:{hex}");
    let bare = format!("sha256:{}", "b".repeat(64));
    let found = digests([manifest.as_str(), "registry.local/a:1", &bare, "sha256:short", ""]);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [format!("sha256:{hex}"), bare]);
}

proptest! {
    /// Whatever a registration says, it gives nothing outside of its namespace.
    #[test]
    fn no_registration_reaches_beyond_its_namespace(path in "(/|/ns/|/device/)?(shop|other|[.a-z/%?#-]{0,12})/?.{0,16}") {
        for id in ids(&[registration(&path, by_container())]) {
            let inside = ["spiffe://a.b/ns/shop/", "spiffe://a.b/device/shop/"];
            prop_assert!(inside.iter().any(|root| id.starts_with(root)), "{}", id);
            prop_assert!(id.split('/').all(|part| part != ".."), "{}", id);
        }
    }
}
