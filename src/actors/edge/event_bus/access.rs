//! Who may use which topics.
//!
//! 1. A rule of the configuration that names the client decides alone.
//! 2. Otherwise a device (user name or common name `device:{namespace}:{name}` or, because
//!    `mosquitto_passwd` takes no colon, `device/{namespace}/{name}`, or a SPIFFE path
//!    `/device/{namespace}/{name}`) may use its own `$hw/events/device/{namespace}/{name}/#`, and
//!    not once it is no member of this node.
//!    A name that looks like a device's and is none may do nothing.
//! 3. A certificate's SPIFFE ID may use what the topic policies of the cloud that name it say, a
//!    device's beside its own topics. Other certificates may do nothing.
//! 4. Users with a password, and clients on loopback where those need no name, may use every
//!    topic, but not publish on `$SYS`.
//!
//! Policies and devices change while clients are connected: their [`Rights`] are replaced then.
//! A session belongs to the name it was opened by: nobody else may take it over or end it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::{AccessRule, is_filter};
use crate::model::DeviceId;
use crate::model::identity::{EdgeIdentitySpec, TopicPolicy};

/// Begins the user name or common name of a device.
const DEVICE: &str = "device";

/// Who a connection is, after its certificate or password was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// No name, on loopback only.
    Anonymous,
    /// By user name and password.
    User(String),
    /// By certificate: its common name and SPIFFE ID. What the trust domain issued has no common
    /// name here: its ID is its name.
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

    /// Does what it may do depend on devices or policies?
    #[must_use]
    pub fn may_change(&self) -> bool {
        matches!(self, Self::Certificate { .. }) || self.device().is_some()
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
            Self::Certificate { common_name, spiffe_id } => {
                let by_id = || {
                    let (namespace, name) = spiffe_path(spiffe_id)?.split_once('/')?;
                    plain(namespace, name)
                };
                match (is_of_device(common_name), spiffe_path(spiffe_id).is_some()) {
                    // Two names: both must be the same device's.
                    (true, true) => named(common_name).filter(|device| by_id().as_ref() == Some(device)),
                    (true, false) => named(common_name),
                    (false, _) => by_id(),
                }
            }
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
    /// Of the cloud; only those that may count.
    policies: Vec<TopicPolicy>,
}

impl Rules {
    #[must_use]
    pub fn new(rules: Vec<AccessRule>) -> Self {
        Self { rules, members: None, policies: Vec::new() }
    }

    /// The policies in force; true when that changes what somebody may do.
    pub fn set_policies(&mut self, spec: Option<&EdgeIdentitySpec>) -> bool {
        let all = spec.map(|spec| spec.topic_policies.as_slice()).unwrap_or_default();
        let policies: Vec<TopicPolicy> = all.iter().map(plausible).collect();
        let changed = self.policies != policies;
        self.policies = policies;
        changed
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
        let device = who.device();
        let (mut publish, mut subscribe) = (Vec::new(), Vec::new());
        match (&device, who) {
            (None, _) if who.claims_device() => {}
            (None, Who::Anonymous | Who::User(_)) => {
                let (publish, subscribe) = (Patterns::All, Patterns::All);
                return Arc::new(Rights { owner: who.owner(), publish, subscribe, deny: Vec::new() });
            }
            (None, Who::Certificate { spiffe_id, .. }) => {
                self.add_policies(spiffe_id.as_deref(), &mut publish, &mut subscribe);
            }
            (Some(device), _) => {
                if self.members.as_ref().is_none_or(|members| members.contains(device)) {
                    let own = format!("$hw/events/device/{device}/#");
                    publish.push(own.clone());
                    subscribe.push(own);
                }
                if let Who::Certificate { spiffe_id, .. } = who {
                    self.add_policies(spiffe_id.as_deref(), &mut publish, &mut subscribe);
                }
            }
        }
        let (publish, subscribe) = (Patterns::Some(publish), Patterns::Some(subscribe));
        Arc::new(Rights { owner: who.owner(), publish, subscribe, deny: Vec::new() })
    }

    fn add_policies(&self, id: Option<&str>, publish: &mut Vec<String>, subscribe: &mut Vec<String>) {
        let Some(id) = id else { return };
        for policy in self.policies.iter().filter(|policy| policy.subjects.iter().any(|s| is_subject(s, id)))
        {
            publish.extend(policy.publish.iter().cloned());
            subscribe.extend(policy.subscribe.iter().cloned());
        }
    }
}

/// The policy without what no policy may say. The cloud refuses that too, so it is rare; a policy
/// that came another way must not widen what its namespace may grant.
fn plausible(policy: &TopicPolicy) -> TopicPolicy {
    let is_own = |filter: &str| !TopicPolicy::is_foreign(filter, &policy.namespace);
    let filters =
        |all: &[String]| all.iter().filter(|filter| is_filter(filter) && is_own(filter)).cloned().collect();
    let subjects = policy.subjects.iter().filter(|subject| is_of_namespace(subject, &policy.namespace));
    TopicPolicy {
        subjects: subjects.cloned().collect(),
        publish: filters(&policy.publish),
        subscribe: filters(&policy.subscribe),
        ..policy.clone()
    }
}

/// Is the SPIFFE ID below `/ns/{namespace}/` or `/device/{namespace}/` of any trust domain? (Whom it
/// names is compared as a whole.)
fn is_of_namespace(subject: &str, namespace: &str) -> bool {
    let path = subject.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    let Some((_, path)) = path else { return false };
    let below = path.strip_prefix("ns/").or_else(|| path.strip_prefix("device/"));
    let rest = below.and_then(|rest| rest.strip_prefix(namespace)).and_then(|rest| rest.strip_prefix('/'));
    !namespace.is_empty() && rest.is_some_and(|rest| !rest.is_empty())
}

/// Exactly this ID, or what is below it where the subject ends in `/*`.
fn is_subject(subject: &str, id: &str) -> bool {
    match subject.strip_suffix("/*") {
        Some(above) => id.strip_prefix(above).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/')),
        None => subject == id,
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
mod tests;
