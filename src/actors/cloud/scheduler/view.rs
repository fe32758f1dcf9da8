//! What the scheduler keeps of a pod and of a node: only what placing needs.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kube::quantity::Quantity;

/// Amounts by resource name (`cpu`, `memory`, ...), in thousandths.
pub type Amounts = BTreeMap<String, i128>;

/// Namespace and name.
pub type PodKey = (String, String);

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub key: PodKey,
    pub uid: String,
    /// Empty: it waits for a node.
    pub node: String,
    /// It asks for this scheduler, is not gated, not ending and has no node.
    pub waiting: bool,
    /// It ended: it uses nothing any more.
    pub over: bool,
    pub priority: i64,
    /// RFC 3339; sorts by age.
    pub created: String,
    pub requests: Amounts,
    pub ports: Vec<HostPort>,
    pub selector: BTreeMap<String, String>,
    /// Required node affinity: any of these terms must match. `None`: not asked for.
    pub required: Option<Vec<Term>>,
    /// Preferred node affinity, with weights.
    pub preferred: Vec<(i64, Term)>,
    pub tolerations: Vec<Toleration>,
    /// Message of its `PodScheduled` condition when that is `False`.
    pub told: Option<String>,
}

/// A port taken on the node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub protocol: String,
    /// Empty: all addresses.
    pub ip: String,
    pub port: i64,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub fn clashes(&self, other: &Self) -> bool {
        let all = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        let same_address = self.ip == other.ip || all(&self.ip) || all(&other.ip);
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

/// One term of node affinity: all its rules must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term(pub Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// A field of the node (only `metadata.name`) instead of a label.
    pub field: bool,
    pub key: String,
    pub operator: String,
    pub values: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    pub key: String,
    pub operator: String,
    pub value: String,
    pub effect: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub ready: bool,
    pub allocatable: Amounts,
}

impl Pod {
    /// `scheduler` is the name pods ask for in `spec.schedulerName`.
    pub fn read(object: &Value, scheduler: &str) -> Self {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let node = text(spec, "nodeName");
        let phase = text_at(object, "/status/phase");
        let over = phase == "Succeeded" || phase == "Failed";
        let ending = !text_at(object, "/metadata/deletionTimestamp").is_empty();
        let asked = text(spec, "schedulerName");
        let ours = asked == scheduler || asked.is_empty();
        let gated = !list(spec, "schedulingGates").is_empty();
        let affinity = "/affinity/nodeAffinity";
        let required = spec.pointer(&format!("{affinity}/requiredDuringSchedulingIgnoredDuringExecution"));
        let preferred = spec.pointer(&format!("{affinity}/preferredDuringSchedulingIgnoredDuringExecution"));
        let preferred = preferred.and_then(Value::as_array).into_iter().flatten();
        let told = list_at(object, "/status/conditions").iter().find(|condition| {
            text(condition, "type") == "PodScheduled" && text(condition, "status") == "False"
        });
        Self {
            key: (text_at(object, "/metadata/namespace"), text_at(object, "/metadata/name")),
            uid: text_at(object, "/metadata/uid"),
            waiting: node.is_empty() && !over && !ending && ours && !gated,
            node,
            over,
            priority: spec.get("priority").and_then(Value::as_i64).unwrap_or_default(),
            created: text_at(object, "/metadata/creationTimestamp"),
            requests: requests(spec),
            ports: ports(spec),
            selector: texts(spec.get("nodeSelector")),
            required: required
                .map(|required| list(required, "nodeSelectorTerms").iter().map(Term::read).collect()),
            preferred: preferred
                .filter_map(|term| {
                    Some((term.get("weight")?.as_i64()?.clamp(1, 100), Term::read(term.get("preference")?)))
                })
                .collect(),
            tolerations: list(spec, "tolerations").iter().map(Toleration::read).collect(),
            told: told.map(|condition| text(condition, "message")),
        }
    }
}

impl Term {
    fn read(term: &Value) -> Self {
        let rules = |name: &str, field: bool| {
            let rules = list(term, name).iter().map(move |rule| Rule {
                field,
                key: text(rule, "key"),
                operator: text(rule, "operator"),
                values: list(rule, "values").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            });
            rules.collect::<Vec<_>>()
        };
        Self([rules("matchExpressions", false), rules("matchFields", true)].concat())
    }
}

impl Toleration {
    fn read(toleration: &Value) -> Self {
        let part = |name| text(toleration, name);
        Self { key: part("key"), operator: part("operator"), value: part("value"), effect: part("effect") }
    }

    /// kubernetes.io, "Taints and Tolerations".
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        let key = self.key == taint.key || (self.key.is_empty() && self.operator == "Exists");
        let value = self.operator == "Exists" || self.value == taint.value;
        effect && key && value
    }
}

impl Node {
    pub fn read(object: &Value) -> Self {
        let taint = |taint: &Value| Taint {
            key: text(taint, "key"),
            value: text(taint, "value"),
            effect: text(taint, "effect"),
        };
        let ready = list_at(object, "/status/conditions")
            .iter()
            .any(|condition| text(condition, "type") == "Ready" && text(condition, "status") == "True");
        let allocatable =
            object.pointer("/status/allocatable").or_else(|| object.pointer("/status/capacity"));
        Self {
            name: text_at(object, "/metadata/name"),
            labels: texts(object.pointer("/metadata/labels")),
            taints: list_at(object, "/spec/taints").iter().map(taint).collect(),
            unschedulable: object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)),
            ready,
            allocatable: amounts(allocatable),
        }
    }
}

/// What the scheduler must set aside: the larger of all containers together and the largest init
/// container, with sidecars counted beside both (kubernetes.io, "Init Containers" and "Sidecar
/// Containers", resource sharing).
fn requests(spec: &Value) -> Amounts {
    let of = |container: &Value| amounts(container.pointer("/resources/requests"));
    let mut running = Amounts::new();
    let mut peak = Amounts::new();
    for container in list(spec, "initContainers") {
        let mut now = running.clone();
        add(&mut now, &of(container));
        for (name, amount) in &now {
            let most = peak.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
        if text(container, "restartPolicy") == "Always" {
            running = now;
        }
    }
    for container in list(spec, "containers") {
        add(&mut running, &of(container));
    }
    for (name, amount) in running {
        let most = peak.entry(name).or_default();
        *most = (*most).max(amount);
    }
    add(&mut peak, &amounts(spec.get("overhead")));
    peak
}

pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *to.entry(name.clone()).or_default() += amount;
    }
}

fn ports(spec: &Value) -> Vec<HostPort> {
    let ports = list(spec, "containers").iter().flat_map(|container| list(container, "ports"));
    ports
        .filter_map(|port| {
            let number = port.get("hostPort").and_then(Value::as_i64).filter(|number| *number > 0)?;
            let protocol = Some(text(port, "protocol")).filter(|protocol| !protocol.is_empty());
            Some(HostPort {
                protocol: protocol.unwrap_or_else(|| "TCP".to_owned()),
                ip: text(port, "hostIP"),
                port: number,
            })
        })
        .collect()
}

/// Quantities that cannot be read count as nothing: the API server refuses them.
fn amounts(map: Option<&Value>) -> Amounts {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(name, value)| Some((name.clone(), Quantity::parse(value.as_str()?).ok()?.milli)))
        .collect()
}

fn texts(map: Option<&Value>) -> BTreeMap<String, String> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn text(object: &Value, field: &str) -> String {
    object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn text_at(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list<'v>(object: &'v Value, field: &str) -> &'v [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn list_at<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
