use proptest::prelude::*;

use super::*;

fn user(name: &str) -> Who {
    Who::User(name.into())
}

fn certificate(common_name: &str, spiffe_id: Option<&str>) -> Who {
    Who::Certificate { common_name: common_name.into(), spiffe_id: spiffe_id.map(str::to_owned) }
}

#[test]
fn covering() {
    for (pattern, filter, want) in [
        ("#", "a/b", true),
        ("#", "#", true),
        ("#", "$SYS/x", false),
        ("+/x", "$SYS/x", false),
        ("a/#", "a", true),
        ("a/#", "a/b/c", true),
        ("a/#", "a/+/#", true),
        ("a/+", "a/b", true),
        ("a/+", "a/+", true),
        ("a/+", "a/#", false),
        ("a/+", "a", false),
        ("a/+", "a/b/c", false),
        ("a/b", "a/+", false),
        ("a/b", "a/b/", false),
        ("$hw/events/#", "$hw/events/device/+/+/twin/+", true),
    ] {
        assert_eq!(covers(pattern, filter), want, "{pattern} {filter}");
    }
}

#[test]
fn a_name_that_is_almost_a_devices_may_do_nothing() {
    let rules = Rules::default();
    for who in [
        user("device:default:s1:x"),
        user("device:default"),
        user("device:+:s1"),
        user("device:a/b:s1"),
        user("device/default:s1"),
        user("device/default/s1/x"),
        user("device/"),
        certificate("device::s1", None),
        certificate("", Some("spiffe://td/device/default/s1/x")),
        certificate("", Some("spiffe://td/device/default")),
    ] {
        assert_eq!(who.device(), None, "{who:?}");
        let rights = rules.rights(&who, "c");
        for topic in ["a", "$hw/events/device/default/s1/twin/update"] {
            assert!(!rights.publish(topic) && !rights.subscribe(topic), "{who:?} {topic}");
        }
        assert!(!rights.subscribe("#"), "{who:?}");
    }
    assert!(rules.rights(&user("devices"), "c").publish("a"), "another name");
}

#[test]
fn devices_touch_their_own_topics_and_nothing_once_they_are_gone() {
    let mut rules = Rules::default();
    for who in [
        user("device:default:s1"),
        user("device/default/s1"),
        certificate("device:default:s1", None),
        certificate("", Some("spiffe://td/device/default/s1")),
    ] {
        assert_eq!(who.device(), Some(DeviceId::new("default", "s1")), "{who:?}");
        let rights = rules.rights(&who, "c");
        for (topic, want) in [
            ("$hw/events/device/default/s1/twin/update", true),
            ("$hw/events/device/default/s2/twin/update", false),
            ("$hw/events/device/default/s1x/twin/update", false),
            ("a", false),
            ("$SYS/x", false),
        ] {
            assert_eq!(rights.publish(topic), want, "{topic}");
        }
        for (filter, want) in [
            ("$hw/events/device/default/s1/#", true),
            ("$share/g/$hw/events/device/default/s1/twin/+", true),
            ("$hw/events/device/+/s1/#", false),
            ("#", false),
        ] {
            assert_eq!(rights.subscribe(filter), want, "{filter}");
        }
    }
    assert!(rules.set_members(vec![DeviceId::new("default", "s2")]));
    assert!(!rules.set_members(vec![DeviceId::new("default", "s2")]));
    let gone = rules.rights(&user("device:default:s1"), "c");
    assert!(!gone.publish("$hw/events/device/default/s1/twin/update"));
    assert!(rules.rights(&user("device:default:s2"), "c").publish("$hw/events/device/default/s2/x"));
    for odd in [
        "device:",
        "device:a",
        "device:a:",
        "device::b",
        "device:a:b/c",
        "device/a/b/c",
        "device/a:b",
        "device-a-b",
        "device:+:#",
        "Device:a:b",
    ] {
        assert_eq!(user(odd).device(), None, "{odd}");
    }
}

fn policy(namespace: &str, subjects: &[&str], publish: &[&str], subscribe: &[&str]) -> TopicPolicy {
    let all = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    TopicPolicy {
        namespace: namespace.into(),
        name: "p".into(),
        subjects: all(subjects),
        publish: all(publish),
        subscribe: all(subscribe),
    }
}

fn spec(policies: &[TopicPolicy]) -> EdgeIdentitySpec {
    EdgeIdentitySpec { topic_policies: policies.to_vec(), ..EdgeIdentitySpec::default() }
}

#[test]
fn certificates_that_nothing_names_may_do_nothing() {
    let rules = Rules::default();
    for who in [
        certificate("admin", None),
        certificate("system:node:edge-1", None),
        certificate("", Some("spiffe://td/node/edge-1")),
        certificate("", Some("spiffe://td/ns/default/sa/web")),
        certificate("", None),
    ] {
        let rights = rules.rights(&who, "c");
        for topic in ["a", "$SYS/x", "$hw/events/device/default/s1/twin/update"] {
            assert!(!rights.publish(topic) && !rights.subscribe(topic), "{who:?} {topic}");
        }
        assert!(!rights.subscribe("#") && !rights.is_unlimited(), "{who:?}");
    }
}

#[test]
fn policies_give_exactly_what_they_say_beside_the_topics_of_a_device() {
    let mut rules = Rules::default();
    let shop = "spiffe://td/ns/shop/sa/web";
    let policies = [
        policy("shop", &[shop], &["orders/#"], &["prices/+"]),
        policy("shop", &["spiffe://td/ns/shop/sa/*"], &[], &["news"]),
        policy("default", &["spiffe://td/device/default/s1"], &[], &["orders/s1"]),
    ];
    assert!(rules.set_policies(Some(&spec(&policies))));
    assert!(!rules.set_policies(Some(&spec(&policies))), "the same again changes nothing");
    for (id, publish, subscribe) in [
        (shop, vec!["orders/1"], vec!["prices/a", "news"]),
        ("spiffe://td/ns/shop/sa/other", vec![], vec!["news"]),
        ("spiffe://td/ns/shop/sa", vec![], vec![]),
        ("spiffe://td/ns/shop/sax", vec![], vec![]),
        ("spiffe://td/ns/shop/sa/web/x", vec![], vec!["news"]),
        ("spiffe://other/ns/shop/sa/web", vec![], vec![]),
        ("spiffe://td/ns/shop2/sa/web", vec![], vec![]),
        (
            "spiffe://td/device/default/s1",
            vec!["$hw/events/device/default/s1/twin/update"],
            vec!["$hw/events/device/default/s1/#", "orders/s1"],
        ),
    ] {
        let rights = rules.rights(&certificate("", Some(id)), "c");
        let topics = ["orders/1", "orders/s1", "prices/a", "news", "x", "$hw/events/device/default/s1/#"];
        for topic in topics.into_iter().chain(["$hw/events/device/default/s1/twin/update", "#", "prices/#"]) {
            let may_publish = publish.contains(&topic)
                || (id == shop && topic == "orders/s1")
                || (id.contains("device") && topic.starts_with("$hw"));
            assert_eq!(rights.publish(topic), may_publish, "{id} {topic}");
            let may_subscribe =
                subscribe.contains(&topic) || (id.contains("device") && topic.starts_with("$hw"));
            assert_eq!(rights.subscribe(topic), may_subscribe, "{id} {topic}");
        }
    }
    // Somebody with a password of that name is somebody else, and a rule of the node goes first.
    assert!(rules.rights(&user(shop), "c").publish("anything"));
    let mut strict = Rules::new(vec![AccessRule {
        certificate: shop.into(),
        publish: vec!["only".into()],
        ..AccessRule::default()
    }]);
    strict.set_policies(Some(&spec(&policies)));
    let rights = strict.rights(&certificate("", Some(shop)), "c");
    assert!(rights.publish("only") && !rights.publish("orders/1"));
    // A device that left keeps what a policy gives it, not its topics.
    rules.set_members(Vec::new());
    let left = rules.rights(&certificate("", Some("spiffe://td/device/default/s1")), "c");
    assert!(left.subscribe("orders/s1") && !left.publish("$hw/events/device/default/s1/twin/update"));
    assert!(rules.set_policies(None));
    assert!(!rules.rights(&certificate("", Some(shop)), "c").publish("orders/1"));
}

#[test]
fn policies_do_not_reach_beyond_their_namespace_nor_hold_broken_filters() {
    let mut rules = Rules::default();
    let ids =
        ["spiffe://td/ns/shop/sa/web", "spiffe://td/node/edge-1", "spiffe://td/cloudcore", "spiffe://td"];
    let subjects =
        ["spiffe://td/*", "spiffe://td/ns/*", "spiffe://td/node/edge-1", "*", "", ids[0], ids[2], ids[3]];
    rules.set_policies(Some(&spec(&[
        policy("evil", &subjects, &["#"], &["#"]),
        policy("", &subjects, &["#"], &["#"]),
    ])));
    for id in ids {
        assert!(!rules.rights(&certificate("", Some(id)), "c").subscribe("a"), "{id}");
    }
    rules.set_policies(Some(&spec(&[policy("shop", &[ids[0]], &["a/#/b", "", "c"], &["x#"])])));
    let rights = rules.rights(&certificate("", Some(ids[0])), "c");
    assert!(rights.publish("c") && !rights.publish("a/x/y") && !rights.subscribe("x#"));
}

#[test]
fn policies_give_no_devices_of_other_namespaces() {
    let id = "spiffe://td/ns/shop/sa/web";
    let foreign = [
        "$hw/#",
        "$hw/+/#",
        "$hw/events/#",
        "$hw/events/+/#",
        "$hw/+/device/bank/#",
        "$hw/events/device/#",
        "$hw/events/device/+/door/twin/update",
        "$hw/events/device/bank/door/twin/update",
    ];
    let own = ["$hw/events/device/shop/#", "$hw/events/node/+/membership/updated", "#", "orders/+"];
    let all = [foreign.as_slice(), own.as_slice()].concat();
    let mut rules = Rules::default();
    rules.set_policies(Some(&spec(&[policy("shop", &[id], &all, &all)])));
    let rights = rules.rights(&certificate("", Some(id)), "c");
    let door = "$hw/events/device/bank/door/twin/update";
    assert!(!rights.publish(door) && !rights.subscribe(door));
    for filter in foreign {
        assert!(!rights.subscribe(filter), "{filter}");
    }
    for filter in own {
        assert!(rights.subscribe(filter), "{filter}");
    }
    assert!(rights.publish("$hw/events/device/shop/till/twin/update"));
}

#[test]
fn two_names_of_a_device_must_agree() {
    for (common_name, path, want) in [
        ("device:a:b", "device/a/b", Some(DeviceId::new("a", "b"))),
        ("device:a:b", "device/a/c", None),
        ("device:a:b", "device/a", None),
        ("device:a:b", "ns/a/sa/b", Some(DeviceId::new("a", "b"))),
        ("someone", "device/a/c", Some(DeviceId::new("a", "c"))),
    ] {
        let who = certificate(common_name, Some(&format!("spiffe://td/{path}")));
        assert_eq!(who.device(), want, "{who:?}");
        if want.is_none() {
            assert!(!Rules::default().rights(&who, "c").publish("a"), "{who:?}");
        }
    }
}

#[test]
fn rules_decide_alone_and_fill_in_names() {
    let rule = |user: &str, certificate: &str, publish: &[&str], subscribe: &[&str]| AccessRule {
        user: user.into(),
        certificate: certificate.into(),
        publish: publish.iter().map(|&p| p.into()).collect(),
        subscribe: subscribe.iter().map(|&p| p.into()).collect(),
        ..AccessRule::default()
    };
    let rules = Rules::new(vec![
        rule("alice", "", &["home/%u/%c"], &["home/#"]),
        rule("alice", "", &["extra"], &[]),
        rule("device:a:b", "", &["any/#"], &[]),
        rule("", "*", &["from/%u"], &[]),
    ]);
    let alice = rules.rights(&user("alice"), "phone");
    for (topic, want) in
        [("home/alice/phone", true), ("home/alice/x", false), ("extra", true), ("home", false)]
    {
        assert_eq!(alice.publish(topic), want, "{topic}");
    }
    assert!(alice.subscribe("home/+") && !alice.subscribe("#"));
    assert!(!rules.rights(&user("alice"), "a/b").publish("home/alice/a/b"), "a slash does not fit");
    let device = rules.rights(&user("device:a:b"), "c");
    assert!(device.publish("any/x") && !device.publish("$hw/events/device/a/b/twin/update"));
    assert!(rules.rights(&certificate("cn", None), "c").publish("from/cn"));
    let anonymous = AccessRule {
        anonymous: true,
        publish: vec!["#".into()],
        subscribe: vec!["#".into()],
        deny: vec!["secret/#".into()],
        ..AccessRule::default()
    };
    let limited = Rules::new(vec![anonymous]).rights(&Who::Anonymous, "c");
    assert!(limited.publish("open") && !limited.publish("secret/x") && !limited.is_unlimited());
    assert!(limited.subscribe("#") && !limited.subscribe("secret/+") && !limited.subscribe("secret"));
    let anonymous = rules.rights(&Who::Anonymous, "c");
    assert!(anonymous.publish("a") && anonymous.subscribe("$SYS/#") && !anonymous.publish("$SYS/broker"));
}

proptest! {
    /// What a covered filter matches, the pattern matches.
    #[test]
    fn covering_is_sound(
        pattern in "[ab+](/[ab+]){0,2}(/#)?", filter in "[ab+](/[ab+]){0,2}(/#)?", topic in "[ab](/[ab]){0,3}",
    ) {
        if covers(&pattern, &filter) && covers(&filter, &topic) {
            prop_assert!(covers(&pattern, &topic));
        }
    }

    /// Nobody but the subject gets anything from a policy, whatever it says.
    #[test]
    fn a_policy_names_nobody_else(
        subject in "spiffe://td/(ns|device)/[ab](/[ab*]){0,3}", id in "spiffe://td/(ns/[ab](/[ab]){1,3}|device/[ab]/[ab])",
    ) {
        let mut rules = Rules::default();
        rules.set_policies(Some(&spec(&[policy("a", &[&subject], &["t"], &[])])));
        let named = subject == id || subject.strip_suffix('*').is_some_and(|above| {
            above.ends_with('/') && id.len() > above.len() && id.starts_with(above)
        });
        let of_namespace = ["spiffe://td/ns/a/", "spiffe://td/device/a/"].iter().any(|ns| subject.starts_with(ns));
        let got = rules.rights(&certificate("", Some(&id)), "c").publish("t");
        prop_assert_eq!(got, named && of_namespace);
    }
}
