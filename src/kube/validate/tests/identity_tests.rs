use proptest::prelude::*;
use serde_json::json;

use super::super::create;
use super::*;
use crate::identity::SpiffeId;
use crate::mqtt::{Limits, check_filter as broker_check};

const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEBXAw3v3MQYKE8DSU+EZIiwe1KIYY
f0MwabkyWzqBP2qe1hf/c/4guQFvGu8MV8smmJrhNmnGdDQDWzUjDpUGbQ==
-----END PUBLIC KEY-----
";
const KEY_P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEB7xH+El8TMElceyGMrZkE1Dh/KQJpqz6
agdPfXbKilsq4AD2XSSwOKIHD3QCap4KErc4f9p7ttYg7MdCYZAx0zcYJBN6CGX/
amv8EC18XjgVJp7z1B1WMIj/pIPkqSoB
-----END PUBLIC KEY-----
";

fn said(kind: &str, spec: &Value) -> Vec<String> {
    let object = json!({"metadata": {"name": "it", "namespace": "plant"}, "spec": spec});
    create(kind, &object).iter().map(|err| format!("{}: {}", err.field, err.message)).collect()
}

/// Exactly one mistake, at this field, in these words.
fn refused(kind: &str, spec: &Value, field: &str, words: &str) {
    let said = said(kind, spec);
    let [one] = &said[..] else { panic!("{spec}: {said:?}") };
    assert!(one.starts_with(&format!("{field}: ")) && one.contains(words), "{spec}: {one}");
}

#[test]
fn paths_stay_in_their_namespace() {
    let spec = |path: &str| json!({"path": path, "selectors": {"uid": 0}});
    let long = format!("/ns/plant/{}", "x".repeat(MAX_PATH - 10));
    for fine in ["/ns/plant/press", "/device/plant/sensor-1", "/ns/plant/a/B_c.d/9", "/ns/plant/sax", &long] {
        assert_eq!(said("WorkloadIdentity", &spec(fine)), Vec::<String>::new(), "{fine}");
    }
    let id = format!("spiffe://{}{long}", "d".repeat(255));
    assert_eq!((id.len(), SpiffeId::parse(&id).is_ok()), (2048, true), "the longest path fits");
    let below = "must be below /ns/plant/ or /device/plant/";
    let segments = "must have segments of letters";
    for (path, why) in [
        ("", "must begin with '/'"),
        ("ns/plant/x", "must begin with '/'"),
        ("/", segments),
        ("/ns/plant", below),
        ("/ns/plant/", segments),
        ("/ns/plant//x", segments),
        ("/ns/plant/../other/x", segments),
        ("/ns/plant/.", segments),
        ("/ns/plant/a b", segments),
        ("/ns/plant/é", segments),
        ("/ns/plant/%41", segments),
        ("/ns/other/x", below),
        ("/ns/plants/x", below),
        ("/device/other/x", below),
        ("/node/edge-1/x", below),
        ("/cloudcore", below),
        ("/ns/plant/sa/admin", "must not be below /ns/plant/sa/"),
        ("/ns/plant/sa", "must not be below /ns/plant/sa/"),
        (&format!("{long}x"), "must be no more than 1784 bytes"),
    ] {
        refused("WorkloadIdentity", &spec(path), "spec.path", why);
    }
}

#[test]
fn selectors_select() {
    let spec = |selectors: Value| json!({"path": "/ns/plant/x", "selectors": selectors});
    let (hex, field) = ("0123456789abcdef".repeat(4), "spec.selectors");
    for fine in [
        json!({"serviceAccount": "default"}),
        json!({"podLabels": {"app.kubernetes.io/name": "press", "empty": ""}}),
        json!({"imageDigest": format!("sha256:{hex}"), "sha256": hex, "path": "/bin/x", "container": "c"}),
    ] {
        assert_eq!(said("WorkloadIdentity", &spec(fine.clone())), Vec::<String>::new(), "{fine}");
    }
    for (selectors, at, why) in [
        (json!({}), "", "at least one selector must be given"),
        (json!({"podLabels": {}}), "", "at least one selector must be given"),
        (json!({"uid": null}), "", "at least one selector must be given"),
        (json!({"podLabels": {"a b": "x"}}), ".podLabels", "name part must consist"),
        (json!({"podLabels": {"a": "x y"}}), ".podLabels", "a valid label must be"),
        (json!({"imageDigest": hex}), ".imageDigest", "must be sha256: and 64"),
        (json!({"imageDigest": format!("sha256:{}", hex.to_uppercase())}), ".imageDigest", "must be sha256:"),
        (json!({"sha256": format!("{hex}0")}), ".sha256", "must be 64 lower-case hex digits"),
    ] {
        refused("WorkloadIdentity", &spec(selectors), &format!("{field}{at}"), why);
    }
    let mut spec = spec(json!({"uid": 0}));
    spec["ttlSecs"] = 9.into();
    refused("WorkloadIdentity", &spec, "spec.ttlSecs", "must be 0 or at least 10");
    spec["ttlSecs"] = 0.into();
    spec["dnsNames"] = json!(["press.plant", "Press"]);
    refused("WorkloadIdentity", &spec, "spec.dnsNames[1]", "lowercase RFC 1123 subdomain");
}

#[test]
fn image_rules_say_something() {
    let rules = |rule: Value| json!({"allow": [{"registry": "docker.io"}, rule]});
    let digest = format!("sha256:{}", "ab".repeat(32));
    for fine in [json!({"digest": digest}), json!({"cosignKey": KEY}), json!({"registry": "r:5000/x"})] {
        assert_eq!(said("ImagePolicy", &rules(fine.clone())), Vec::<String>::new(), "{fine}");
    }
    assert_eq!(said("ImagePolicy", &json!({"allow": []})), Vec::<String>::new(), "nothing may run");
    let mut off_curve = KEY.replace("\nf0Mw", "\nf0Mx");
    for (rule, at, why) in [
        (json!({}), "", "one of registry, digest and cosignKey must be given"),
        (json!({"registry": ""}), "", "one of registry, digest and cosignKey must be given"),
        (json!({"digest": "sha256:ab"}), ".digest", "must be sha256: and 64"),
        (json!({"digest": format!("sha512:{}", "ab".repeat(32))}), ".digest", "must be sha256: and 64"),
        (json!({"cosignKey": "key"}), ".cosignKey", "must be a PEM public key"),
        (json!({"cosignKey": KEY_P384}), ".cosignKey", "must be a PEM public key"),
        (json!({"cosignKey": format!("{KEY}{KEY}")}), ".cosignKey", "must be a PEM public key"),
        (json!({"cosignKey": std::mem::take(&mut off_curve)}), ".cosignKey", "must be a PEM public key"),
        (json!({"cosignKey": KEY.replace("PUBLIC KEY", "PRIVATE KEY")}), ".cosignKey", "must be a PEM"),
    ] {
        refused("ImagePolicy", &rules(rule), &format!("spec.allow[1]{at}"), why);
    }
}

#[test]
fn topic_policies_are_of_their_namespace() {
    let spec = |subject: &str| json!({"subjects": [subject], "publish": ["a/+", "$hw/events/device/plant/#"], "subscribe": ["#"]});
    let td = "spiffe://kubeedge.local";
    for fine in ["/ns/plant/*", "/ns/plant/sa/x", "/device/plant/d", "/ns/plant/press/*"] {
        assert_eq!(said("TopicPolicy", &spec(&format!("{td}{fine}"))), Vec::<String>::new(), "{fine}");
    }
    let below = "must be below spiffe://kubeedge.local/ns/plant/";
    for (subject, why) in [
        ("press".to_owned(), "must begin with spiffe://"),
        ("spiffe:///ns/plant/x".to_owned(), "must have a trust domain"),
        ("spiffe://Big/ns/plant/x".to_owned(), "must have a trust domain"),
        ("spiffe://a:1/ns/plant/x".to_owned(), "must have a trust domain"),
        (td.to_owned(), "must begin with '/'"),
        (format!("{td}/*"), "must begin with '/'"),
        (format!("{td}/ns/*"), below),
        (format!("{td}/ns/plant"), below),
        (format!("{td}/ns/plants/x"), below),
        (format!("{td}/ns/other/*"), below),
        (format!("{td}/node/plant/x"), below),
        (format!("{td}/ns/plant/*/x"), "must have segments"),
        (format!("{td}/ns/plant/x*"), "must have segments"),
        (format!("{td}/ns/plant/{}", "x".repeat(2048)), "must be no more than 2048 bytes"),
    ] {
        refused("TopicPolicy", &spec(&subject), "spec.subjects[0]", why);
    }
    let fine = "spiffe://kubeedge.local/ns/plant/*";
    for (filter, why) in [
        ("a/#/b", "must have '+' as a whole level"),
        ("a+/b", "must have '+' as a whole level"),
        ("#a", "must have '+' as a whole level"),
        ("a\0", "must not contain NUL"),
        ("$share/g/a", "must name topics"),
        ("", "must not be empty"),
        ("$hw/events/device/other/d/#", "must not reach devices of other namespaces"),
        ("$hw/#", "must not reach devices of other namespaces"),
    ] {
        for field in ["publish", "subscribe"] {
            let spec = json!({"subjects": [fine], field: ["ok", filter]});
            refused("TopicPolicy", &spec, &format!("spec.{field}[1]"), why);
        }
    }
}

proptest! {
    /// What is taken here is a SPIFFE ID in every trust domain, and one of the namespace.
    #[test]
    fn a_path_makes_an_id(path in "(/ns/plant|/device/plant|/ns|)(/[a-zA-Z.%é_-]{0,3}){0,4}") {
        let taken = check_path(&path, "plant").is_ok();
        let id = SpiffeId::parse(&format!("spiffe://td{path}"));
        if taken {
            prop_assert!(id.is_ok());
            prop_assert!(path.starts_with("/ns/plant/") || path.starts_with("/device/plant/"));
        } else {
            prop_assert!(id.is_err() || !path.starts_with("/device/plant/") || path.len() <= 14);
        }
    }

    #[test]
    fn a_subject_makes_an_id(subject in "(spiffe://)?[a-z.A]{0,3}(/ns|/device)?(/plant)?(/[a-z*.]{0,2}){0,3}") {
        if check_subject(&subject, "plant").is_ok() {
            let id = SpiffeId::parse(subject.strip_suffix("/*").unwrap_or(&subject)).unwrap();
            let path = format!("{}/", id.path());
            let is_own = path.starts_with("/ns/plant/") || path.starts_with("/device/plant/");
            prop_assert!(is_own, "{}", subject);
        }
    }

    /// The broker takes and refuses the same filters, shared subscriptions and lengths apart.
    #[test]
    fn filters_are_those_of_the_broker(filter in "[a+#/\0$]{0,6}") {
        prop_assert_eq!(check_filter(&filter).is_ok(), broker_check(&filter, &Limits::default()).is_ok());
    }
}
