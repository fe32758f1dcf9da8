//! A pod's row: the STATUS column is the most telling of phase, conditions and container states.

use jiff::Timestamp;
use serde_json::Value;

use super::{at, human, items, or, since, time};

pub fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = PodSummary::of(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, human(now.duration_since(last)))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = items(pod, "/status/podIPs").first().map_or("", |ip| at(ip, "/ip"));
    vec![
        at(pod, "/metadata/name").into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        since(pod.pointer("/metadata/creationTimestamp"), now).into(),
        or(or(ip, at(pod, "/status/podIP")), "<none>").into(),
        or(at(pod, "/spec/nodeName"), "<none>").into(),
        or(at(pod, "/status/nominatedNodeName"), "<none>").into(),
        gates(pod).into(),
    ]
}

/// What kubectl shows of a pod in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSummary {
    pub ready: usize,
    pub total: usize,
    pub restarts: i64,
    pub last_restart: Option<Timestamp>,
    /// STATUS.
    pub reason: String,
}

impl PodSummary {
    /// Of a Pod object.
    #[must_use]
    pub fn of(pod: &Value) -> Self {
        let phase = at(pod, "/status/phase");
        let gated = items(pod, "/status/conditions")
            .iter()
            .any(|condition| condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated");
        let reason = if gated { "SchedulingGated" } else { or(at(pod, "/status/reason"), phase) };
        let mut summary = Self {
            ready: 0,
            total: items(pod, "/spec/containers").len(),
            restarts: 0,
            last_restart: None,
            reason: reason.to_owned(),
        };
        let initializing = summary.add_init(pod);
        if !initializing || condition_true(pod, "Initialized") {
            summary.add_containers(pod);
        }
        if pod.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string) {
            if at(pod, "/status/reason") == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if phase != "Succeeded" && phase != "Failed" {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Whether an init container still has to finish. What it counts of plain init containers is
    /// taken back once they are done: only sidecars' restarts stay.
    fn add_init(&mut self, pod: &Value) -> bool {
        let specs = items(pod, "/spec/initContainers");
        let sidecar = |status: &Value| {
            specs.iter().any(|spec| spec["name"] == status["name"] && spec["restartPolicy"] == "Always")
        };
        self.total += specs.iter().filter(|spec| spec["restartPolicy"] == "Always").count();
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        let mut pending = None;
        for (index, status) in items(pod, "/status/initContainerStatuses").iter().enumerate() {
            self.count_restarts(status);
            if sidecar(status) {
                sidecar_restarts += int(status, "restartCount");
                sidecar_last = sidecar_last.max(last_end(status));
            }
            let terminated = status.pointer("/state/terminated").unwrap_or(&Value::Null);
            let waiting = at(status, "/state/waiting/reason");
            let started = status["started"] == true;
            if terminated.is_object() && exit_code(terminated) == 0 {
                continue;
            }
            if sidecar(status) && started {
                self.ready += usize::from(status["ready"] == true);
                continue;
            }
            pending = Some(if terminated.is_object() {
                format!("Init:{}", ended(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", specs.len())
            });
            break;
        }
        let initializing = pending.is_some();
        if let Some(reason) = pending {
            self.reason = reason;
        }
        if !initializing || condition_true(pod, "Initialized") {
            (self.restarts, self.last_restart) = (sidecar_restarts, sidecar_last);
        }
        initializing
    }

    fn add_containers(&mut self, pod: &Value) {
        let mut running = false;
        for status in items(pod, "/status/containerStatuses").iter().rev() {
            self.count_restarts(status);
            let terminated = status.pointer("/state/terminated").unwrap_or(&Value::Null);
            let waiting = at(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if terminated.is_object() {
                self.reason = ended(terminated);
            } else if status["ready"] == true
                && status.pointer("/state/running").is_some_and(Value::is_object)
            {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = condition_true(pod, "Ready");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn count_restarts(&mut self, status: &Value) {
        self.restarts += int(status, "restartCount");
        self.last_restart = self.last_restart.max(last_end(status));
    }
}

fn last_end(status: &Value) -> Option<Timestamp> {
    time(status.pointer("/lastState/terminated/finishedAt"))
}

fn int(object: &Value, field: &str) -> i64 {
    object.get(field).and_then(Value::as_i64).unwrap_or_default()
}

fn exit_code(terminated: &Value) -> i64 {
    int(terminated, "exitCode")
}

/// `Error`, `OOMKilled`, `Signal:9`, `ExitCode:1`.
fn ended(terminated: &Value) -> String {
    let reason = at(terminated, "/reason");
    match int(terminated, "signal") {
        _ if !reason.is_empty() => reason.to_owned(),
        0 => format!("ExitCode:{}", exit_code(terminated)),
        signal => format!("Signal:{signal}"),
    }
}

fn condition_true(pod: &Value, kind: &str) -> bool {
    let conditions = items(pod, "/status/conditions");
    conditions.iter().any(|condition| condition["type"] == *kind && condition["status"] == "True")
}

fn gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| condition_true(pod, at(gate, "/conditionType"))).count();
    format!("{open}/{}", gates.len())
}
