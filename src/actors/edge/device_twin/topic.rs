//! The topics of devices (protocol section 7.6): one parser for those that come, one printer for
//! those that go. A device is two segments; each segment is compared as a whole, so that no
//! namespace or node name can be mistaken for another part of the topic.

use crate::model::DeviceId;

/// Where an unparsable update is answered: the device's segments are empty, as in KubeEdge.
pub const UNPARSABLE_RESULT: &str = "$hw/events/device//twin/update/result";

/// What a message that came is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    TwinUpdate(DeviceId),
    TwinGet(DeviceId),
    /// Treated like the cloud's own message of that name.
    CloudUpdated(DeviceId),
    StateUpdate(DeviceId),
    /// Carries the node's name.
    MembershipGet(String),
    /// Nothing here acts on it: results of our own, `state/get`, legacy topics, anything else.
    Other,
}

impl Topic {
    /// Never fails: what fits nothing is [`Topic::Other`].
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let parts: Vec<&str> = text.split('/').take(8).collect();
        match parts.as_slice() {
            ["$hw", "events", "device", namespace, name, group, action] => {
                if !is_level(namespace) || !is_level(name) {
                    return Self::Other;
                }
                let device = DeviceId::new(*namespace, *name);
                match (*group, *action) {
                    ("twin", "update") => Self::TwinUpdate(device),
                    ("twin", "get") => Self::TwinGet(device),
                    ("twin", "cloud_updated") => Self::CloudUpdated(device),
                    ("state", "update") => Self::StateUpdate(device),
                    _ => Self::Other,
                }
            }
            ["$hw", "events", "node", node, "membership", "get"] if is_level(node) => {
                Self::MembershipGet((*node).to_owned())
            }
            _ => Self::Other,
        }
    }
}

/// A topic a message is published on has no wildcards and no NUL (MQTT 3.1.1, 4.7).
fn is_level(text: &str) -> bool {
    !text.is_empty() && !text.contains(['+', '#', '\0'])
}

/// `$hw/events/device/{namespace}/{name}/{suffix}`.
#[must_use]
pub fn of_device(device: &DeviceId, suffix: &str) -> String {
    format!("$hw/events/device/{device}/{suffix}")
}

/// `$hw/events/node/{node}/membership/{suffix}`.
#[must_use]
pub fn of_members(node: &str, suffix: &str) -> String {
    format!("$hw/events/node/{node}/membership/{suffix}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn topics() {
        let id = |namespace: &str, name: &str| DeviceId::new(namespace, name);
        for (text, want) in [
            ("$hw/events/device/default/s-1/twin/update", Topic::TwinUpdate(id("default", "s-1"))),
            ("$hw/events/device/default/s-1/twin/get", Topic::TwinGet(id("default", "s-1"))),
            ("$hw/events/device/default/s-1/twin/cloud_updated", Topic::CloudUpdated(id("default", "s-1"))),
            ("$hw/events/device/default/s-1/state/update", Topic::StateUpdate(id("default", "s-1"))),
            // Namespaces and names that Go finds in the wrong place.
            ("$hw/events/device/device/hw/twin/update", Topic::TwinUpdate(id("device", "hw"))),
            ("$hw/events/device/e/events/state/update", Topic::StateUpdate(id("e", "events"))),
            ("$hw/events/node/node/membership/get", Topic::MembershipGet("node".into())),
            ("$hw/events/node/e/membership/get", Topic::MembershipGet("e".into())),
            // Ours, legacy, and what nobody handles.
            ("$hw/events/device/default/s-1/twin/update/result", Topic::Other),
            ("$hw/events/device/default/s-1/twin/update/delta", Topic::Other),
            ("$hw/events/device/default/s-1/state/get", Topic::Other),
            ("$hw/events/device/default/s-1/updated", Topic::Other),
            ("$hw/events/connected/edge-1", Topic::Other),
            // Wrong level counts, empty levels, wildcards, NUL.
            ("$hw/events/device/s-1/twin/update", Topic::Other),
            ("$hw/events/device/a/b/c/twin/update", Topic::Other),
            ("$hw/events/device//s-1/twin/update", Topic::Other),
            ("$hw/events/device/default//twin/update", Topic::Other),
            ("$hw/events/device/+/s-1/twin/update", Topic::Other),
            ("$hw/events/device/default/#/twin/update", Topic::Other),
            ("$hw/events/device/default/s\0/twin/update", Topic::Other),
            ("/$hw/events/device/default/s-1/twin/update", Topic::Other),
            ("$hw/events/node//membership/get", Topic::Other),
            ("", Topic::Other),
            ("/", Topic::Other),
        ] {
            assert_eq!(Topic::parse(text), want, "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_printed_is_read_back(namespace in "[a-z0-9-]{1,10}|device|hw|e", name in "[a-z0-9.-]{1,10}|twin|update") {
            let device = DeviceId::new(namespace, name);
            prop_assert_eq!(Topic::parse(&of_device(&device, "twin/update")), Topic::TwinUpdate(device));
        }

        #[test]
        fn any_text_is_some_topic(text in ".*") {
            let _topic = Topic::parse(&text);
        }
    }
}
