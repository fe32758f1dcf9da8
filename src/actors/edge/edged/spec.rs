//! From a Pod to what the CRI is told: sandbox and container configurations. Pure.

use std::collections::HashMap;

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::dns::{dns_config, hostname};
use super::environment::expand;
use super::fields::FieldError;
use super::host::HostContext;
use super::names::{self, PodRef, UnsafeName};
use super::resources::{cgroup_parent, linux_resources, qos};
use super::security::{self, SecurityError};
use super::sources::all_containers;

/// A pod that cannot be put to the runtime. The message says which field and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error(transparent)]
    Name(#[from] UnsafeName),
    #[error(transparent)]
    Resources(#[from] FieldError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error("container {container}: port {port}: {value:?} is not a protocol")]
    Protocol { container: String, port: i32, value: String },
}

/// The sandbox of a pod. `attempt` grows whenever a sandbox of this pod failed or died, because
/// the runtime keeps the names of what it has seen until it is removed.
///
/// # Errors
/// [`SpecError`]; retrying changes nothing until the pod does.
pub fn sandbox_config(
    pod: &Pod,
    host: &HostContext,
    attempt: u32,
) -> Result<v1::PodSandboxConfig, SpecError> {
    let at = PodRef::of(pod);
    at.check()?;
    let sysctls = pod
        .spec
        .iter()
        .filter_map(|spec| spec.security_context.as_ref())
        .flat_map(|context| context.sysctls.iter().flatten());
    Ok(v1::PodSandboxConfig {
        hostname: hostname(pod),
        log_directory: at.log_dir(host).to_string_lossy().into_owned(),
        dns_config: Some(dns_config(pod, host)),
        port_mappings: port_mappings(pod)?,
        labels: names::sandbox_labels(pod, host),
        annotations: names::sandbox_annotations(pod),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent(&at.uid, qos(pod)?, host),
            security_context: Some(security::sandbox(pod, host)?),
            sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
            overhead: None,
            resources: None,
        }),
        windows: None,
        metadata: Some(v1::PodSandboxMetadata {
            name: at.name,
            uid: at.uid,
            namespace: at.namespace,
            attempt,
        }),
    })
}

/// One run of one container. `image_ref` is what `ImageStatus` or `PullImage` gave. Call
/// [`security::apply_image_user`] on the result once the image is known.
///
/// # Errors
/// [`SpecError`]; the container then waits with `CreateContainerConfigError`.
pub fn container_config(
    pod: &Pod,
    container: &Container,
    restart_count: u32,
    image_ref: &str,
    env: Vec<(String, String)>,
    mounts: Vec<v1::Mount>,
    host: &HostContext,
) -> Result<v1::ContainerConfig, SpecError> {
    names::path_part("spec.containers.name", &container.name)?;
    let lookup: HashMap<&str, &str> =
        env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, |name| lookup.get(name).copied())).collect()
    };
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: restart_count }),
        image: Some(v1::ImageSpec {
            image: image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..v1::ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts,
        labels: names::container_labels(pod, container, host),
        annotations: names::container_annotations(pod, container, restart_count),
        log_path: names::log_path(&container.name, restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(linux_resources(pod, container, host)?),
            security_context: Some(security::container(pod, container, host)?),
        }),
        envs: env.into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect(),
        ..v1::ContainerConfig::default()
    })
}

/// Host ports of every container. Pods on the host network bind theirs themselves.
fn port_mappings(pod: &Pod) -> Result<Vec<v1::PortMapping>, SpecError> {
    let mut mappings = Vec::new();
    let own_network = pod.spec.iter().filter(|spec| spec.host_network != Some(true));
    for container in own_network.flat_map(all_containers) {
        for port in container.ports.iter().flatten() {
            let Some(host_port) = port.host_port.filter(|port| *port > 0) else { continue };
            let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
                "TCP" | "" => v1::Protocol::Tcp,
                "UDP" => v1::Protocol::Udp,
                "SCTP" => v1::Protocol::Sctp,
                other => {
                    return Err(SpecError::Protocol {
                        container: container.name.clone(),
                        port: port.container_port,
                        value: other.to_owned(),
                    });
                }
            };
            mappings.push(v1::PortMapping {
                protocol: protocol as i32,
                container_port: port.container_port,
                host_port,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            });
        }
    }
    Ok(mappings)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{first, host, pod};
    use super::*;

    #[test]
    fn sandbox_of_a_plain_pod() {
        let pod = pod(json!({"spec": {
            "containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
                {"containerPort": 81},
            ]}],
            "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "512"}]},
        }}));
        let config = sandbox_config(&pod, &host(), 3).unwrap();
        let metadata = config.metadata.unwrap();
        assert_eq!((metadata.name.as_str(), metadata.uid.as_str(), metadata.attempt), ("web", "u-1", 3));
        assert_eq!(config.log_directory, "/var/log/pods/default_web_u-1");
        assert_eq!(config.hostname, "web");
        let ports: Vec<(i32, i32, i32, &str)> = config
            .port_mappings
            .iter()
            .map(|port| (port.protocol, port.container_port, port.host_port, port.host_ip.as_str()))
            .collect();
        assert_eq!(ports, [(0, 80, 8080, ""), (1, 53, 53, "127.0.0.1")]);
        let linux = config.linux.unwrap();
        assert_eq!(linux.cgroup_parent, "/kubepods/besteffort/podu-1");
        assert_eq!(linux.sysctls["net.core.somaxconn"], "512");
    }

    #[test]
    fn sandboxes_that_cannot_be() {
        let odd = pod(json!({"spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 80, "protocol": "QUIC"},
        ]}]}}));
        let message = sandbox_config(&odd, &host(), 0).unwrap_err().to_string();
        assert_eq!(message, "container c: port 80: \"QUIC\" is not a protocol");
        let mut evil = pod(json!({}));
        evil.metadata.uid = Some("../../etc".into());
        assert!(matches!(sandbox_config(&evil, &host(), 0), Err(SpecError::Name(_))));
        let host_network = pod(json!({"spec": {"hostNetwork": true, "containers": [
            {"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]},
        ]}}));
        assert!(sandbox_config(&host_network, &host(), 0).unwrap().port_mappings.is_empty());
    }

    #[test]
    fn container_of_a_pod() {
        let pod = pod(json!({"spec": {"containers": [{
            "name": "c", "image": "registry.local/hello:1", "workingDir": "/srv", "tty": true,
            "command": ["sh", "-c"], "args": ["echo $(A) $(B) $$(A)"],
            "resources": {"limits": {"memory": "64Mi"}},
        }]}}));
        let env = vec![("A".to_owned(), "1".to_owned())];
        let config = container_config(&pod, first(&pod), 4, "sha256:x", env, Vec::new(), &host()).unwrap();
        assert_eq!(config.metadata, Some(v1::ContainerMetadata { name: "c".into(), attempt: 4 }));
        let image = config.image.unwrap();
        assert_eq!(
            (image.image.as_str(), image.user_specified_image.as_str()),
            ("sha256:x", "registry.local/hello:1")
        );
        assert_eq!(config.command, ["sh", "-c"]);
        assert_eq!(config.args, ["echo 1 $(B) $(A)"]);
        assert_eq!(config.log_path, "c/4.log");
        assert_eq!((config.working_dir.as_str(), config.tty, config.stdin), ("/srv", true, false));
        assert_eq!(config.envs, [v1::KeyValue { key: "A".into(), value: "1".into() }]);
        assert_eq!(config.linux.unwrap().resources.unwrap().memory_limit_in_bytes, 64 << 20);
        assert_eq!(names::restart_count(&config.annotations), 4);
    }
}
