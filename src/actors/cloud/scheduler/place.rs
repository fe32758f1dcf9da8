//! Where a pod goes: filters in kube-scheduler's order, then the emptiest node.

use std::collections::BTreeMap;
use std::fmt;

use super::view::{Amounts, HostPort, Node, Pod, Rule, Taint, Term, add};

/// Where cordoned nodes show up as a taint.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// What a container without requests is taken to need when nodes are compared (not when it must
/// fit), as in kube-scheduler: 100 millicores, 200 MiB; in thousandths.
const GUESSED: [(&str, i128); 2] = [("cpu", 100), ("memory", 200 * 1024 * 1024 * 1000)];

/// A node and what the pods on it take.
#[derive(Debug, Clone, Default)]
pub struct Room {
    pub node: Node,
    pub used: Amounts,
    pub pods: i128,
    pub ports: Vec<HostPort>,
}

impl Room {
    /// Counts a pod in.
    pub fn take(&mut self, pod: &Pod) {
        add(&mut self.used, &pod.requests);
        self.pods += 1;
        self.ports.extend(pod.ports.iter().cloned());
    }

    /// Counts a pod out.
    pub fn free(&mut self, pod: &Pod) {
        for (name, amount) in &pod.requests {
            if let Some(used) = self.used.get_mut(name) {
                *used -= amount;
            }
        }
        self.pods -= 1;
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|other| other == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

/// Why one node does not take a pod, in kube-scheduler's words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Unschedulable,
    NotReady,
    Taint { key: String, value: String },
    Affinity,
    Ports,
    TooManyPods,
    Insufficient(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::NotReady => f.write_str("node(s) were not ready"),
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Ports => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
        }
    }
}

/// The node for `pod`, or every reason of every node. Among equals the first by name.
///
/// # Errors
/// The reasons, for [`explain`]; empty when there are no nodes.
pub fn place<'r>(pod: &Pod, rooms: impl Iterator<Item = &'r Room>) -> Result<String, Vec<Reason>> {
    let mut reasons = Vec::new();
    let mut best: Option<(i128, &str)> = None;
    for room in rooms {
        let refused = refusals(pod, room);
        if refused.is_empty() {
            let score = score(pod, room);
            if best.is_none_or(|(other, _)| score > other) {
                best = Some((score, &room.node.name));
            }
        }
        reasons.extend(refused);
    }
    best.map(|(_, name)| name.to_owned()).ok_or(reasons)
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
pub fn explain(nodes: usize, reasons: &[Reason]) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason.to_string()).or_default() += 1;
    }
    let mut texts: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    format!("0/{nodes} nodes are available: {}.", texts.join(", "))
}

/// The first filter that refuses says why; lacking resources are all named.
fn refusals(pod: &Pod, room: &Room) -> Vec<Reason> {
    let node = &room.node;
    if node.unschedulable {
        let taint = Taint { key: UNSCHEDULABLE.into(), value: String::new(), effect: "NoSchedule".into() };
        if !pod.tolerations.iter().any(|toleration| toleration.tolerates(&taint)) {
            return vec![Reason::Unschedulable];
        }
    }
    let untolerated = node.taints.iter().find(|taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && taint.key != UNSCHEDULABLE
            && !pod.tolerations.iter().any(|toleration| toleration.tolerates(taint))
    });
    if let Some(taint) = untolerated {
        return vec![Reason::Taint { key: taint.key.clone(), value: taint.value.clone() }];
    }
    // A taint normally says so already; between the two a node must not look free.
    if !node.ready {
        return vec![Reason::NotReady];
    }
    let selected = pod.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let wanted = pod.required.as_ref().is_none_or(|terms| terms.iter().any(|term| matches(term, node)));
    if !selected || !wanted {
        return vec![Reason::Affinity];
    }
    if pod.ports.iter().any(|port| room.ports.iter().any(|other| port.clashes(other))) {
        return vec![Reason::Ports];
    }
    lacking(pod, room)
}

fn lacking(pod: &Pod, room: &Room) -> Vec<Reason> {
    let amount = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or_default();
    let mut reasons = Vec::new();
    let limit = room.node.allocatable.get("pods").map_or(110, |milli| milli / 1000);
    if room.pods + 1 > limit {
        reasons.push(Reason::TooManyPods);
    }
    for (name, need) in pod.requests.iter().filter(|(_, need)| **need > 0) {
        if need + amount(&room.used, name) > amount(&room.node.allocatable, name) {
            reasons.push(Reason::Insufficient(name.clone()));
        }
    }
    reasons
}

/// An empty term matches no node (kubernetes.io, "Assigning Pods to Nodes").
fn matches(term: &Term, node: &Node) -> bool {
    !term.0.is_empty() && term.0.iter().all(|rule| holds(rule, node))
}

fn holds(rule: &Rule, node: &Node) -> bool {
    let value = if rule.field {
        (rule.key == "metadata.name").then_some(&node.name)
    } else {
        node.labels.get(&rule.key)
    };
    let listed = value.is_some_and(|value| rule.values.contains(value));
    let numbers = || Some((value?.parse::<i64>().ok()?, rule.values.first()?.parse::<i64>().ok()?));
    match rule.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, than)| value > than),
        "Lt" => numbers().is_some_and(|(value, than)| value < than),
        _ => false,
    }
}

/// Free share of cpu and memory after the pod came (0 to 100 each), preferred affinity twice that,
/// each untolerated PreferNoSchedule taint three times off: the weights of kube-scheduler.
fn score(pod: &Pod, room: &Room) -> i128 {
    let free: i128 = GUESSED
        .iter()
        .map(|(name, guess)| {
            let has = room.node.allocatable.get(*name).copied().unwrap_or_default();
            let need = pod.requests.get(*name).copied().unwrap_or(*guess);
            let used = room.used.get(*name).copied().unwrap_or_default() + need;
            if has <= 0 { 0 } else { ((has - used).max(0) * 100) / has }
        })
        .sum();
    let total: i64 = pod.preferred.iter().map(|(weight, _)| weight).sum();
    let met = pod.preferred.iter().filter(|(_, term)| matches(term, &room.node));
    let met: i64 = met.map(|(weight, _)| weight).sum();
    let preferred = if total == 0 { 0 } else { i128::from(met * 100 / total) };
    let unwelcome = room.node.taints.iter().filter(|taint| {
        taint.effect == "PreferNoSchedule"
            && !pod.tolerations.iter().any(|toleration| toleration.tolerates(taint))
    });
    let unwelcome = i128::try_from(unwelcome.count()).unwrap_or(0);
    free / 2 + 2 * preferred - 300 * unwelcome
}
