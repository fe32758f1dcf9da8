//! The Node object this edge stands for: built from facts, compared, patched. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::backoff::since;
use super::machine::{Machine, Usage};
use super::status::whole_second;
use crate::config::EdgedConfig;

/// Namespace of node leases (KEP-589).
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Most images listed in the status (the kubelet's `nodeStatusMaxImages`).
pub const MAX_IMAGES: usize = 50;
/// Names listed per image, as the kubelet limits them.
const MAX_NAMES_PER_IMAGE: usize = 5;
/// Port of the kubelet-style API (protocol section 12).
const KUBELET_PORT: i32 = 10350;
/// Kept free for the system, bytes, and the kubelet's hard eviction thresholds.
const MEMORY_FLOOR_BYTES: u64 = 100 * 1024 * 1024;
const DISK_FLOOR_PERCENT: u64 = 10;
const INODES_FLOOR_PERCENT: u64 = 5;

/// What the runtime said about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuntimeHealth {
    /// `containerd://1.6.20`; the last known one while it is down.
    pub version: String,
    /// `None` when healthy, otherwise what is wrong.
    pub trouble: Option<String>,
    pub images: Vec<ContainerImage>,
}

/// Everything the Node is made of.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub name: String,
    pub addresses: Vec<String>,
    pub machine: Machine,
    pub usage: Usage,
    pub runtime: RuntimeHealth,
    /// `v1.32.10-kubeedge-rs-0.1.0`.
    pub kubelet_version: String,
    pub arch: String,
}

/// The version this edge reports: KubeEdge's form, so that tools that compare versions cope.
#[must_use]
pub fn kubelet_version() -> String {
    format!("v1.32.10-kubeedge-rs-{}", env!("CARGO_PKG_VERSION"))
}

/// The complete Node. Transition times continue from `before`.
#[must_use]
pub fn node(facts: &Facts, config: &EdgedConfig, before: Option<&NodeStatus>, now: Timestamp) -> Node {
    let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let mut labels = text(&[
        ("beta.kubernetes.io/arch", &facts.arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", &facts.arch),
        ("kubernetes.io/hostname", &facts.name),
        ("kubernetes.io/os", "linux"),
        ("node-role.kubernetes.io/agent", ""),
        ("node-role.kubernetes.io/edge", ""),
    ]);
    labels.extend(config.node_labels.clone());
    let taints: Vec<Taint> = config
        .tailored_kubelet_config
        .register_with_taints
        .iter()
        .map(|taint| Taint {
            key: taint.key.clone(),
            value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
            effect: taint.effect.clone(),
            time_added: None,
        })
        .collect();
    Node {
        metadata: ObjectMeta {
            name: Some(facts.name.clone()),
            labels: Some(labels),
            annotations: Some(text(&[("volumes.kubernetes.io/controller-managed-attach-detach", "true")])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            unschedulable: (!config.register_schedulable).then_some(true),
            ..NodeSpec::default()
        }),
        status: Some(status(facts, config, before, now)),
    }
}

/// The status part.
#[must_use]
pub fn status(
    facts: &Facts,
    config: &EdgedConfig,
    before: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let (machine, usage) = (&facts.machine, &facts.usage);
    let resources = |memory_bytes: u64, disk: String| -> BTreeMap<String, Quantity> {
        let pods = config.tailored_kubelet_config.max_pods;
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
            ("ephemeral-storage".to_owned(), Quantity(disk)),
            ("memory".to_owned(), Quantity(format!("{}Ki", memory_bytes / 1024))),
            ("pods".to_owned(), Quantity(pods.to_string())),
        ])
    };
    let disk_left = usage.disk_bytes / 100 * (100 - DISK_FLOOR_PERCENT);
    let address =
        |kind: &str, address: &str| NodeAddress { type_: kind.to_owned(), address: address.to_owned() };
    let mut addresses: Vec<NodeAddress> =
        facts.addresses.iter().map(|ip| address("InternalIP", ip)).collect();
    addresses.push(address("Hostname", &facts.name));
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(resources(machine.memory_bytes, format!("{}Ki", usage.disk_bytes / 1024))),
        allocatable: Some(resources(
            machine.memory_bytes.saturating_sub(MEMORY_FLOOR_BYTES),
            disk_left.to_string(),
        )),
        conditions: Some(conditions(facts, before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: KUBELET_PORT }),
        }),
        images: Some(facts.runtime.images.clone()),
        node_info: Some(NodeSystemInfo {
            architecture: facts.arch.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: facts.runtime.version.clone(),
            kernel_version: machine.kernel_version.clone(),
            kubelet_version: facts.kubelet_version.clone(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

fn conditions(facts: &Facts, before: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let usage = &facts.usage;
    let short = |free: u64, all: u64, percent: u64| all > 0 && free < all / 100 * percent;
    let memory = usage.memory_available_bytes < MEMORY_FLOOR_BYTES && facts.machine.memory_bytes > 0;
    let disk = short(usage.disk_free_bytes, usage.disk_bytes, DISK_FLOOR_PERCENT)
        || short(usage.inodes_free, usage.inodes, INODES_FLOOR_PERCENT);
    let pids = usage.pids_max > 0 && usage.pids >= usage.pids_max / 100 * 95;
    let choose = |bad: bool, kind, yes: (&str, &str), no: (&str, &str)| {
        let (reason, message) = if bad { yes } else { no };
        condition(before, kind, bad, reason, message, now)
    };
    let ready = match &facts.runtime.trouble {
        None => condition(before, "Ready", true, "EdgeReady", "edge is posting ready status", now),
        Some(trouble) => condition(before, "Ready", false, "KubeletNotReady", trouble, now),
    };
    vec![
        choose(
            memory,
            "MemoryPressure",
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        choose(
            disk,
            "DiskPressure",
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        choose(
            pids,
            "PIDPressure",
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready,
    ]
}

fn condition(
    before: Option<&NodeStatus>,
    kind: &str,
    on: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> NodeCondition {
    let status = if on { "True" } else { "False" };
    let old = before.and_then(|status| status.conditions.as_ref());
    let same = old.into_iter().flatten().find(|c| c.type_ == kind && c.status == status);
    let since = same.and_then(|c| c.last_transition_time.clone());
    NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(whole_second(now)),
        last_transition_time: Some(since.unwrap_or_else(|| whole_second(now))),
    }
}

/// What the CRI conditions say is wrong, in the kubelet's words.
#[must_use]
pub fn trouble(conditions: &[(String, bool, String)]) -> Option<String> {
    let off = |kind: &str| conditions.iter().find(|(name, on, _)| name == kind && !on);
    if let Some((_, _, message)) = off("RuntimeReady") {
        return Some(format!("container runtime is not ready: {message}"));
    }
    let (_, _, message) = off("NetworkReady")?;
    Some(format!("container runtime network not ready: NetworkReady=false message:{message}"))
}

/// Images for the status: biggest first, at most [`MAX_IMAGES`].
#[must_use]
pub fn images(mut images: Vec<(Vec<String>, u64)>) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let image = |(names, size): (Vec<String>, u64)| ContainerImage {
        names: Some(names.into_iter().take(MAX_NAMES_PER_IMAGE).collect()),
        size_bytes: i64::try_from(size).ok(),
    };
    images.into_iter().filter(|(names, _)| !names.is_empty()).take(MAX_IMAGES).map(image).collect()
}

/// The strategic-merge patch that turns `sent` into `status`, or `None` when nothing changed but
/// heartbeats and the last report is younger than `report_every`. Conditions always travel
/// complete: they are merged by type. Free memory and the like are not part of a Node.
#[must_use]
pub fn patch(
    sent: Option<(&NodeStatus, Timestamp)>,
    status: &NodeStatus,
    uid: &str,
    report_every: Duration,
    now: Timestamp,
) -> Option<Value> {
    let old = sent.map(|(status, _)| to_object(status)).unwrap_or_default();
    let new = to_object(status);
    let mut changed = serde_json::Map::new();
    for (field, value) in &new {
        if field != "conditions" && old.get(field) != Some(value) {
            changed.insert(field.clone(), value.clone());
        }
    }
    let turned = sent.is_none_or(|(old, _)| quiet(old) != quiet(status));
    // A clock that was set back is news too: the heartbeats the cloud has are of the future.
    let due = sent.is_none_or(|(_, at)| now < at || since(now, at) >= report_every);
    if changed.is_empty() && !turned && !due {
        return None;
    }
    if let Some(conditions) = new.get("conditions") {
        changed.insert("conditions".to_owned(), conditions.clone());
    }
    let metadata = if uid.is_empty() { json!({}) } else { json!({"uid": uid}) };
    Some(json!({"metadata": metadata, "status": changed}))
}

/// Does the cloud take this node for dead? It says so on the Node when leases stayed away for long.
#[must_use]
pub fn is_doubted(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let is = |condition: &Value, field: &str, want: &str| condition.get(field).is_some_and(|is| is == want);
    conditions.into_iter().flatten().any(|it| is(it, "type", "Ready") && is(it, "status", "Unknown"))
}

/// Conditions without their heartbeats.
fn quiet(status: &NodeStatus) -> Vec<NodeCondition> {
    let conditions = status.conditions.iter().flatten().cloned();
    conditions.map(|condition| NodeCondition { last_heartbeat_time: None, ..condition }).collect()
}

fn to_object(status: &NodeStatus) -> serde_json::Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        Ok(_) | Err(_) => serde_json::Map::new(),
    }
}

/// The node's lease, renewed now.
#[must_use]
pub fn lease(node: &str, uid: &str, duration_secs: u32, now: Timestamp) -> Lease {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: (!uid.is_empty()).then(|| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: i32::try_from(duration_secs).ok(),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            name: "edge-1".to_owned(),
            addresses: vec!["10.99.0.1".to_owned()],
            machine: Machine { cpus: 2, memory_bytes: 24_684_092 * 1024, ..Machine::default() },
            usage: Usage {
                memory_available_bytes: 1 << 34,
                disk_bytes: 264_212_084 * 1024,
                disk_free_bytes: 200_000_000 * 1024,
                inodes: 1000,
                inodes_free: 900,
                pids: 100,
                pids_max: 32768,
            },
            runtime: RuntimeHealth { version: "containerd://1.6.20".to_owned(), ..RuntimeHealth::default() },
            kubelet_version: kubelet_version(),
            arch: "amd64".to_owned(),
        }
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + secs).expect("time")
    }

    fn state_of(status: &NodeStatus) -> Vec<(String, String, String)> {
        let conditions = status.conditions.iter().flatten();
        conditions
            .map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone().unwrap_or_default()))
            .collect()
    }

    #[test]
    fn a_node_taken_for_dead_is_seen() {
        let node =
            |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
        assert!(is_doubted(&node("Ready", "Unknown")));
        for fine in
            [node("Ready", "True"), node("Ready", "False"), node("DiskPressure", "Unknown"), json!({})]
        {
            assert!(!is_doubted(&fine), "{fine}");
        }
    }

    #[test]
    fn a_clock_set_back_makes_a_report_due() {
        let status = status(&facts(), &EdgedConfig::default(), None, at(0));
        let every = Duration::from_secs(300);
        for (now, is_due) in [(0, false), (299, false), (300, true), (-3600, true)] {
            let patch = patch(Some((&status, at(0))), &status, "", every, at(now));
            assert_eq!(patch.is_some(), is_due, "{now}");
        }
    }

    #[test]
    fn looks_like_a_kubeedge_node() {
        let node = node(&facts(), &EdgedConfig::default(), None, at(0));
        let value = serde_json::to_value(&node).expect("json");
        assert_eq!(
            value["status"]["capacity"],
            json!({"cpu": "2", "ephemeral-storage": "264212084Ki", "memory": "24684092Ki", "pods": "110"})
        );
        assert_eq!(
            value["status"]["allocatable"]["memory"], "24581692Ki",
            "as Go KubeEdge's on the same machine"
        );
        assert_eq!(value["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10350);
        assert_eq!(value["metadata"]["labels"]["node-role.kubernetes.io/edge"], "");
        assert_eq!(value["metadata"]["labels"]["kubernetes.io/hostname"], "edge-1");
        assert_eq!(
            value["status"]["addresses"],
            json!([{"type": "InternalIP", "address": "10.99.0.1"}, {"type": "Hostname", "address": "edge-1"}])
        );
        let reasons: Vec<_> =
            state_of(&node.status.expect("status")).into_iter().map(|(_, _, r)| r).collect();
        assert_eq!(
            reasons,
            [
                "KubeletHasSufficientMemory",
                "KubeletHasNoDiskPressure",
                "KubeletHasSufficientPID",
                "EdgeReady"
            ]
        );
    }

    #[test]
    fn pressures_and_runtime_trouble() {
        let config = EdgedConfig::default();
        for (case, change, want) in [
            (
                "memory",
                (|f| f.usage.memory_available_bytes = 1) as fn(&mut Facts),
                ("MemoryPressure", "True"),
            ),
            ("disk", |f| f.usage.disk_free_bytes = 1, ("DiskPressure", "True")),
            ("inodes", |f| f.usage.inodes_free = 1, ("DiskPressure", "True")),
            ("pids", |f| f.usage.pids = 32700, ("PIDPressure", "True")),
            ("runtime", |f| f.runtime.trouble = Some("container runtime is down".into()), ("Ready", "False")),
        ] {
            let mut facts = facts();
            change(&mut facts);
            let status = status(&facts, &config, None, at(0));
            let found = state_of(&status).into_iter().any(|(t, s, _)| (t.as_str(), s.as_str()) == want);
            assert!(found, "{case}");
        }
        let down = [
            ("RuntimeReady".to_owned(), true, String::new()),
            ("NetworkReady".to_owned(), false, "cni".to_owned()),
        ];
        assert_eq!(
            trouble(&down).as_deref(),
            Some("container runtime network not ready: NetworkReady=false message:cni")
        );
    }

    #[test]
    fn sent_when_changed_or_due() {
        let config = EdgedConfig::default();
        let every = Duration::from_secs(300);
        let first = status(&facts(), &config, None, at(0));
        let all = patch(None, &first, "u", every, at(0)).expect("first is sent");
        assert_eq!(all["metadata"]["uid"], "u");
        assert!(all["status"].get("capacity").is_some());
        let same = status(&facts(), &config, Some(&first), at(10));
        assert_eq!(
            same.conditions.as_ref().map(|c| c[0].last_transition_time.clone()),
            first.conditions.as_ref().map(|c| c[0].last_transition_time.clone())
        );
        assert_eq!(patch(Some((&first, at(0))), &same, "u", every, at(10)), None);
        let due = patch(Some((&first, at(0))), &same, "u", every, at(300)).expect("due");
        assert_eq!(
            due["status"].as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()),
            Some(vec!["conditions".to_owned()])
        );
        let mut down = facts();
        down.runtime.trouble = Some("container runtime is down".into());
        let turned = status(&down, &config, Some(&first), at(20));
        let patch = patch(Some((&first, at(0))), &turned, "u", every, at(20)).expect("turned");
        let ready = &patch["status"]["conditions"][3];
        assert_eq!(
            (ready["status"].as_str(), ready["reason"].as_str()),
            (Some("False"), Some("KubeletNotReady"))
        );
    }

    #[test]
    fn images_are_limited_and_leases_owned() {
        let many = (0..80_u64).map(|i| (vec![format!("i{i}")], i)).collect();
        let list = images(many);
        assert_eq!((list.len(), list[0].size_bytes), (MAX_IMAGES, Some(79)));
        let lease = serde_json::to_value(lease("edge-1", "u", 40, at(1))).expect("json");
        assert_eq!(
            lease["metadata"]["ownerReferences"][0],
            json!({"apiVersion": "v1", "kind": "Node", "name": "edge-1", "uid": "u"})
        );
        assert_eq!(lease["spec"]["renewTime"], "2027-01-15T08:00:01.000000Z");
    }
}
