//! Quality-of-service class, limits in the kernel's units, and cgroup names. Pure.
//! Formulas are the kubelet's (pkg/kubelet/qos, pkg/kubelet/cm in Kubernetes 1.32).

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::fields::{FieldError, milli};
use super::host::HostContext;
use super::sources::all_containers;

/// CFS period, microseconds.
const CPU_PERIOD: i64 = 100_000;
/// Smallest CFS quota the kernel takes, microseconds.
const MIN_QUOTA: i64 = 1000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// Score of pods that the kernel should kill last.
const GUARANTEED_SCORE: i64 = -997;
/// Pods of this priority and above are critical to the node.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// CPU (thousandths) and memory (bytes) of one container; 0 where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Amounts {
    cpu_request: i64,
    cpu_limit: i64,
    memory_request: i64,
    memory_limit: i64,
}

fn amounts(container: &Container) -> Result<Amounts, FieldError> {
    let Some(resources) = &container.resources else { return Ok(Amounts::default()) };
    let get = |list: &str, kind: &str| {
        let map = if list == "limits" { &resources.limits } else { &resources.requests };
        match map.as_ref().and_then(|map| map.get(kind)) {
            Some(quantity) => milli(&format!("resources.{list}.{kind}"), quantity).map(Some),
            None => Ok(None),
        }
    };
    let small = |value: i128| i64::try_from(value.max(0)).unwrap_or(i64::MAX);
    let bytes = |milli: i128| small(milli.saturating_add(999) / 1000);
    let (cpu_limit, memory_limit) = (get("limits", "cpu")?, get("limits", "memory")?);
    // A limit without a request is its own request (API defaulting).
    let cpu_request = get("requests", "cpu")?.or(cpu_limit);
    let memory_request = get("requests", "memory")?.or(memory_limit);
    Ok(Amounts {
        cpu_request: small(cpu_request.unwrap_or(0)),
        cpu_limit: small(cpu_limit.unwrap_or(0)),
        memory_request: bytes(memory_request.unwrap_or(0)),
        memory_limit: bytes(memory_limit.unwrap_or(0)),
    })
}

/// Guaranteed when every container limits CPU and memory and requests just that, BestEffort when
/// none says anything, else Burstable.
///
/// # Errors
/// [`FieldError::BadQuantity`].
pub fn qos(pod: &Pod) -> Result<Qos, FieldError> {
    let mut guaranteed = true;
    let mut anything = false;
    for container in pod.spec.iter().flat_map(all_containers) {
        let a = amounts(container)?;
        anything |= a != Amounts::default();
        let equal = a.cpu_request == a.cpu_limit && a.memory_request == a.memory_limit;
        guaranteed &= equal && a.cpu_limit > 0 && a.memory_limit > 0;
    }
    Ok(match (anything, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    })
}

/// Limits of one container as the CRI takes them.
///
/// # Errors
/// [`FieldError::BadQuantity`].
pub fn linux_resources(
    pod: &Pod,
    container: &Container,
    host: &HostContext,
) -> Result<v1::LinuxContainerResources, FieldError> {
    let a = amounts(container)?;
    let shares = a.cpu_request.saturating_mul(1024) / 1000;
    let quota = match a.cpu_limit {
        0 => 0,
        limit => (limit.saturating_mul(CPU_PERIOD) / 1000).max(MIN_QUOTA),
    };
    Ok(v1::LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: quota,
        cpu_shares: shares.clamp(MIN_SHARES, MAX_SHARES),
        memory_limit_in_bytes: a.memory_limit,
        oom_score_adj: oom_score(pod, qos(pod)?, a.memory_request, host),
        ..v1::LinuxContainerResources::default()
    })
}

fn oom_score(pod: &Pod, qos: Qos, memory_request: i64, host: &HostContext) -> i64 {
    let critical = pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|p| p >= CRITICAL_PRIORITY);
    match qos {
        _ if critical => GUARANTEED_SCORE,
        Qos::Guaranteed => GUARANTEED_SCORE,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let part = memory_request.saturating_mul(1000) / host.memory_bytes.max(1);
            (1000 - part).clamp(1000 + GUARANTEED_SCORE, 999)
        }
    }
}

/// Parent cgroup of the pod: `/kubepods/burstable/pod{uid}`, or the slice of the systemd driver.
/// Guaranteed pods have no folder of their class.
#[must_use]
pub fn cgroup_parent(uid: &str, qos: Qos, host: &HostContext) -> String {
    let class = match qos {
        Qos::Guaranteed => None,
        Qos::Burstable => Some("burstable"),
        Qos::BestEffort => Some("besteffort"),
    };
    if !host.systemd_cgroups {
        return match class {
            Some(class) => format!("/kubepods/{class}/pod{uid}"),
            None => format!("/kubepods/pod{uid}"),
        };
    }
    // In a slice's name a dash means one level deeper.
    let uid = uid.replace('-', "_");
    match class {
        Some(class) => format!("/kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{uid}.slice"),
        None => format!("/kubepods.slice/kubepods-pod{uid}.slice"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixtures::{first, host, pod};
    use super::*;

    fn with(resources: Value) -> Pod {
        pod(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
    }

    #[test]
    fn limits_and_scores() {
        for (case, resources, class, (shares, quota, memory, score)) in [
            ("nothing", json!({}), Qos::BestEffort, (2, 0, 0, 1000)),
            (
                "limit only",
                json!({"limits": {"cpu": "500m", "memory": "64Mi"}}),
                Qos::Guaranteed,
                (512, 50_000, 64 << 20, -997),
            ),
            (
                "request only",
                json!({"requests": {"cpu": "100m", "memory": "1Gi"}}),
                Qos::Burstable,
                (102, 0, 0, 750),
            ),
            ("tiny", json!({"limits": {"cpu": "1m"}}), Qos::Burstable, (2, 1000, 0, 999)),
            ("all memory", json!({"requests": {"memory": "4Gi"}}), Qos::Burstable, (2, 0, 0, 3)),
            ("huge", json!({"requests": {"cpu": "9999"}}), Qos::Burstable, (262_144, 0, 0, 999)),
            (
                "other kinds",
                json!({"limits": {"ephemeral-storage": "1Gi"}}),
                Qos::BestEffort,
                (2, 0, 0, 1000),
            ),
        ] {
            let pod = with(resources);
            assert_eq!(qos(&pod), Ok(class), "{case}");
            let got = linux_resources(&pod, first(&pod), &host()).unwrap();
            let got = (got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes, got.oom_score_adj);
            assert_eq!(got, (shares, quota, memory, score), "{case}");
        }
        assert!(matches!(
            qos(&with(json!({"limits": {"cpu": "lots"}}))),
            Err(FieldError::BadQuantity { .. })
        ));
    }

    #[test]
    fn one_loose_container_makes_the_pod_burstable() {
        let tight = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let both = |init: Value| {
            pod(json!({"spec": {
                "initContainers": [{"name": "i", "resources": init}],
                "containers": [{"name": "c", "resources": tight.clone()}],
            }}))
        };
        assert_eq!(qos(&both(tight.clone())), Ok(Qos::Guaranteed));
        assert_eq!(qos(&both(json!({}))), Ok(Qos::Burstable));
    }

    #[test]
    fn critical_pods_die_last() {
        let mut pod = with(json!({}));
        pod.spec.as_mut().unwrap().priority = Some(CRITICAL_PRIORITY);
        assert_eq!(linux_resources(&pod, first(&pod), &host()).unwrap().oom_score_adj, -997);
    }

    #[test]
    fn cgroup_names() {
        let (folders, mut slices) = (host(), host());
        slices.systemd_cgroups = true;
        for (qos, host, want) in [
            (Qos::Guaranteed, &folders, "/kubepods/poda-b"),
            (Qos::Burstable, &folders, "/kubepods/burstable/poda-b"),
            (
                Qos::BestEffort,
                &slices,
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-poda_b.slice",
            ),
            (Qos::Guaranteed, &slices, "/kubepods.slice/kubepods-poda_b.slice"),
        ] {
            assert_eq!(cgroup_parent("a-b", qos, host), want);
        }
    }
}
