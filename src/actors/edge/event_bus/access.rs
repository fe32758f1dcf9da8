//! Who may use which topics.
//!
//! 1. A rule of the configuration that names the client decides alone.
//! 2. Otherwise a device (user name or common name `device:{namespace}:{name}` or, because
//!    `mosquitto_passwd` takes no colon, `device/{namespace}/{name}`, or a SPIFFE path
//!    `/device/{namespace}/{name}`) may use its own `$hw/events/device/{namespace}/{name}/#`, and
//!    nothing once it is no member of this node.
//!    A name that looks like a device's and is none may do nothing.
//! 3. Everybody else who got in may use every topic, but not publish on `$SYS`.
//!
//! A session belongs to the name it was opened by: nobody else may take it over or end it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::AccessRule;
use crate::model::DeviceId;

/// Begins the user name or common name of a device.
const DEVICE: &str = "device";

/// Who a connection is, after its certificate or password was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// No name, on loopback only.
    Anonymous,
    /// By user name and password.
    User(String),
    /// By certificate: its common name and SPIFFE ID.
    Certificate { common_name: String, spiffe_id: Option<String> },
}

impl Who {
    /// The name a rule knows it by: user name, or common name, or SPIFFE ID.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "",
            Self::User(name) => name,
            Self::Certificate { common_name, spiffe_id } if common_name.is_empty() => {
                spiffe_id.as_deref().unwrap_or_default()
            }
            Self::Certificate { common_name, .. } => common_name,
        }
    }

    /// Whose its sessions are: the same by whatever door it comes.
    fn owner(&self) -> String {
        self.device().map_or_else(|| self.name().to_owned(), |device| format!("device:{device}"))
    }

    /// Does it say it is a device?
    #[must_use]
    fn claims_device(&self) -> bool {
        match self {
            Self::Anonymous => false,
            Self::User(name) => is_of_device(name),
            Self::Certificate { common_name, spiffe_id } => {
                is_of_device(common_name) || spiffe_path(spiffe_id).is_some()
            }
        }
    }

    /// The device it says it is.
    #[must_use]
    pub fn device(&self) -> Option<DeviceId> {
        let named = |name: &str| {
            let rest = name.strip_prefix(DEVICE)?;
            let separator = rest.chars().next().filter(|c| matches!(c, ':' | '/'))?;
            let (namespace, name) = rest.get(1..)?.split_once(separator)?;
            plain(namespace, name)
        };
        match self {
            Self::Anonymous => None,
            Self::User(name) => named(name),
            Self::Certificate { common_name, spiffe_id } => named(common_name).or_else(|| {
                let (namespace, name) = spiffe_path(spiffe_id)?.split_once('/')?;
                plain(namespace, name)
            }),
        }
    }
}

/// Does it begin as the name of a device?
fn is_of_device(name: &str) -> bool {
    name.strip_prefix(DEVICE).is_some_and(|rest| rest.starts_with([':', '/']))
}

/// What follows `/device/` in a SPIFFE ID of a device.
fn spiffe_path(id: &Option<String>) -> Option<&str> {
    let (_, path) = id.as_deref()?.strip_prefix("spiffe://")?.split_once('/')?;
    path.strip_prefix("device/")
}

fn plain(namespace: &str, name: &str) -> Option<DeviceId> {
    let fine = |text: &str| !text.is_empty() && !text.contains(['/', '+', '#', ':']);
    (fine(namespace) && fine(name)).then(|| DeviceId::new(namespace, name))
}

/// What one connection may do. Replaced as a whole when something changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    owner: String,
    publish: Patterns,
    subscribe: Patterns,
    /// Topic filters taken away from both.
    deny: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Patterns {
    /// Everything; `$SYS` only to read.
    All,
    /// Topic filters.
    Some(Vec<String>),
}

/// The rules in force and the devices of this node.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<AccessRule>,
    /// Unknown until DeviceTwin has said so.
    members: Option<HashSet<DeviceId>>,
}

impl Rules {
    #[must_use]
    pub fn new(rules: Vec<AccessRule>) -> Self {
        Self { rules, members: None }
    }

    /// The devices of this node; true when that changes what somebody may do.
    pub fn set_members(&mut self, members: Vec<DeviceId>) -> bool {
        let members: HashSet<DeviceId> = members.into_iter().collect();
        let changed = self.members.as_ref() != Some(&members);
        self.members = Some(members);
        changed
    }

    /// What `who` may do when connected as `client_id`.
    #[must_use]
    pub fn rights(&self, who: &Who, client_id: &str) -> Arc<Rights> {
        let rules: Vec<&AccessRule> = self.rules.iter().filter(|rule| names(rule, who)).collect();
        if !rules.is_empty() {
            let collect = |of: fn(&AccessRule) -> &Vec<String>| -> Vec<String> {
                let all = rules.iter().flat_map(|rule| of(rule).iter());
                all.filter_map(|pattern| fill(pattern, who.name(), client_id)).collect()
            };
            return Arc::new(Rights {
                owner: who.owner(),
                publish: Patterns::Some(collect(|rule| &rule.publish)),
                subscribe: Patterns::Some(collect(|rule| &rule.subscribe)),
                deny: collect(|rule| &rule.deny),
            });
        }
        let nothing = || Patterns::Some(Vec::new());
        if who.claims_device() && who.device().is_none() {
            let owner = who.owner();
            return Arc::new(Rights { owner, publish: nothing(), subscribe: nothing(), deny: Vec::new() });
        }
        let Some(device) = who.device() else {
            let (publish, subscribe) = (Patterns::All, Patterns::All);
            return Arc::new(Rights { owner: who.owner(), publish, subscribe, deny: Vec::new() });
        };
        let is_member = self.members.as_ref().is_none_or(|members| members.contains(&device));
        let own = format!("$hw/events/device/{device}/#");
        let own = Patterns::Some(if is_member { vec![own] } else { Vec::new() });
        Arc::new(Rights { owner: who.owner(), publish: own.clone(), subscribe: own, deny: Vec::new() })
    }
}

/// Does the rule name this client?
fn names(rule: &AccessRule, who: &Who) -> bool {
    let is = |wanted: &str, name: &str| {
        !wanted.is_empty() && (wanted == name || wanted == "*") && !name.is_empty()
    };
    match who {
        Who::Anonymous => rule.anonymous,
        Who::User(name) => is(&rule.user, name),
        Who::Certificate { common_name, spiffe_id } => {
            is(&rule.certificate, common_name)
                || is(&rule.certificate, spiffe_id.as_deref().unwrap_or_default())
        }
    }
}

/// Puts the names in for `%u` and `%c`. A name that would change the shape of the pattern makes it
/// useless.
fn fill(pattern: &str, user: &str, client_id: &str) -> Option<String> {
    let fits = |name: &str| !name.is_empty() && !name.contains(['/', '+', '#']);
    if (pattern.contains("%u") && !fits(user)) || (pattern.contains("%c") && !fits(client_id)) {
        return None;
    }
    // One pass: a name that holds `%c` is no pattern.
    let mut filled = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        let (name, taken) = match from.as_bytes().get(1) {
            Some(b'u') => (user, 2),
            Some(b'c') => (client_id, 2),
            _ => ("%", 1),
        };
        filled.push_str(name);
        rest = from.get(taken..).unwrap_or_default();
    }
    filled.push_str(rest);
    Some(filled)
}

impl Rights {
    /// Whose sessions they are; empty: anybody's.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// May every topic be read?
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.subscribe == Patterns::All
    }

    /// May a message be published on this topic?
    #[must_use]
    pub fn publish(&self, topic: &str) -> bool {
        !is_system(topic) && self.publish.cover(topic) && !self.denies(topic)
    }

    /// May this filter be subscribed? Everything it matches must be allowed; what is denied is only
    /// kept back when a wider filter matches it.
    #[must_use]
    pub fn subscribe(&self, filter: &str) -> bool {
        let filter = unshared(filter);
        self.subscribe.cover(filter) && !self.denies(filter)
    }

    fn denies(&self, filter: &str) -> bool {
        self.deny.iter().any(|pattern| covers(pattern, filter))
    }
}

impl Patterns {
    fn cover(&self, filter: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(patterns) => patterns.iter().any(|pattern| covers(pattern, filter)),
        }
    }
}

fn is_system(topic: &str) -> bool {
    topic == "$SYS" || topic.starts_with("$SYS/")
}

/// The filter without `$share/{group}/`.
fn unshared(filter: &str) -> &str {
    let rest = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    rest.map_or(filter, |(_, rest)| rest)
}

/// Does `pattern` match every topic that `filter` matches? For a topic name: does it match?
fn covers(pattern: &str, filter: &str) -> bool {
    // Topics that begin with $ are not matched by a wildcard in front (MQTT-4.7.2-1).
    if filter.starts_with('$') && pattern.starts_with(['+', '#']) {
        return false;
    }
    let (mut wanted, mut asked) = (pattern.split('/'), filter.split('/'));
    loop {
        match (wanted.next(), asked.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(level), Some(other)) if level == other => {}
            // `a/#` is asked where `a/+` or `a` is allowed, or something else.
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
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
    }
}
