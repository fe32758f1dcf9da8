//! May this node take one more pod? Pure; reasons and texts as the kubelet gives them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::state::specs;

/// Why a pod is refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

/// Checks a pod that has never run here against those that have a place already.
///
/// # Errors
/// [`Refusal`] with reason `NodePorts` or `OutOfpods`.
pub fn admit<'a>(pod: &Pod, others: impl IntoIterator<Item = &'a Pod>, max_pods: u32) -> Result<(), Refusal> {
    let wanted = host_ports(pod);
    let mut count: u32 = 0;
    for other in others {
        count = count.saturating_add(1);
        let taken = host_ports(other);
        if wanted.iter().any(|port| taken.iter().any(|other| clash(port, other))) {
            let message = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports \
                           for the requested pod ports";
            return Err(Refusal { reason: "NodePorts", message: message.to_owned() });
        }
    }
    if count >= max_pods {
        let message = format!(
            "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: {count}, \
             capacity: {max_pods}"
        );
        return Err(Refusal { reason: "OutOfpods", message });
    }
    Ok(())
}

/// `(address, protocol, port)`; an empty address means all.
type HostPort = (String, String, i32);

fn host_ports(pod: &Pod) -> BTreeSet<HostPort> {
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let ports = specs(pod).filter(|(c, init)| !init || super::state::is_sidecar(c));
    let ports = ports.flat_map(|(container, _)| container.ports.iter().flatten());
    let used = ports.filter_map(|port| {
        let number = port.host_port.or(host_network.then_some(port.container_port)).filter(|p| *p > 0)?;
        let address = port.host_ip.clone().filter(|ip| ip != "0.0.0.0" && ip != "::").unwrap_or_default();
        Some((address, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), number))
    });
    used.collect()
}

fn clash(a: &HostPort, b: &HostPort) -> bool {
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || a.0.is_empty() || b.0.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(host_network: bool, ports: Value) -> Pod {
        let spec = json!({"hostNetwork": host_network, "containers": [{"name": "c", "ports": ports}]});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("pod")
    }

    #[test]
    fn ports_and_count() {
        let web = pod(false, json!([{"containerPort": 80, "hostPort": 8080}]));
        for (case, other, want) in [
            ("no ports", pod(false, json!([{"containerPort": 80}])), None),
            ("same port", pod(false, json!([{"containerPort": 1, "hostPort": 8080}])), Some("NodePorts")),
            (
                "other protocol",
                pod(false, json!([{"containerPort": 1, "hostPort": 8080, "protocol": "UDP"}])),
                None,
            ),
            (
                "one address",
                pod(false, json!([{"containerPort": 1, "hostPort": 8080, "hostIP": "127.0.0.1"}])),
                Some("NodePorts"),
            ),
            ("host network", pod(true, json!([{"containerPort": 8080}])), Some("NodePorts")),
        ] {
            assert_eq!(admit(&other, [&web], 110).err().map(|r| r.reason), want, "{case}");
        }
        let (a, b) = ("127.0.0.1", "127.0.0.2");
        let on = |ip: &str| pod(false, json!([{"containerPort": 1, "hostPort": 80, "hostIP": ip}]));
        assert_eq!(admit(&on(a), [&on(b)], 110), Ok(()));
        let plain = pod(false, json!([]));
        assert_eq!(admit(&plain, [&web, &plain], 2).err().map(|r| r.reason), Some("OutOfpods"));
    }
}
