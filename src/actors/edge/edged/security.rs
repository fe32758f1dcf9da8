//! Security contexts of sandboxes and containers in the CRI's words. Pure.

use std::path::Path;

use k8s_cri::v1;
use k8s_cri::v1::security_profile::ProfileType;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use super::host::HostContext;
use super::names::PodRef;
use super::sources::all_containers;

/// Hidden from containers unless `procMount: Unmasked` (the kubelet's list).
const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A container that must not start. The texts are the kubelet's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RootUser { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    RootImage { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: {pod:?}, container: {container})"
    )]
    NamedUser { user: String, pod: String, container: String },
    #[error("{field}: {value:?} is not a known profile type")]
    UnknownProfile { field: &'static str, value: String },
    #[error("{field}.localhostProfile {value:?} must be a relative path without \"..\"")]
    BadLocalhostProfile { field: &'static str, value: String },
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref())
}

fn own<'a, T>(container: &'a Container, get: impl Fn(&'a SecurityContext) -> Option<T>) -> Option<T> {
    container.security_context.as_ref().and_then(get)
}

/// Which namespaces the pod shares with the host, and its containers with each other.
#[must_use]
pub fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = pod.spec.as_ref();
    let on = |flag: Option<Option<bool>>| flag.flatten() == Some(true);
    let mode =
        |host: bool, otherwise: v1::NamespaceMode| if host { v1::NamespaceMode::Node } else { otherwise };
    let shared = on(spec.map(|spec| spec.share_process_namespace));
    let pid = if shared { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Container };
    v1::NamespaceOption {
        network: mode(on(spec.map(|spec| spec.host_network)), v1::NamespaceMode::Pod) as i32,
        pid: mode(on(spec.map(|spec| spec.host_pid)), pid) as i32,
        ipc: mode(on(spec.map(|spec| spec.host_ipc)), v1::NamespaceMode::Pod) as i32,
        ..v1::NamespaceOption::default()
    }
}

/// # Errors
/// [`SecurityError`] for profiles that mean nothing.
pub fn sandbox(pod: &Pod, host: &HostContext) -> Result<v1::LinuxSandboxSecurityContext, SecurityError> {
    let context = pod_context(pod);
    let privileged = |container: &Container| own(container, |context| context.privileged) == Some(true);
    let run_as_user = context.and_then(|context| context.run_as_user);
    let seccomp = match context.and_then(|context| context.seccomp_profile.as_ref()) {
        Some(profile) => seccomp_profile("spec.securityContext.seccompProfile", profile, host)?,
        // The pause process needs nothing special.
        None => profile(ProfileType::RuntimeDefault),
    };
    Ok(v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: context.and_then(|context| context.se_linux_options.as_ref()).map(selinux),
        run_as_user: run_as_user.map(int64),
        // The runtime refuses a group without a user.
        run_as_group: run_as_user.and(context.and_then(|context| context.run_as_group)).map(int64),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged: pod.spec.iter().flat_map(all_containers).any(privileged),
        seccomp: Some(seccomp),
        ..v1::LinuxSandboxSecurityContext::default()
    })
}

/// # Errors
/// [`SecurityError`] for profiles that mean nothing, or root where root is forbidden.
pub fn container(
    pod: &Pod,
    container: &Container,
    host: &HostContext,
) -> Result<v1::LinuxContainerSecurityContext, SecurityError> {
    let shared = pod_context(pod);
    let run_as_user = run_as_user(pod, container);
    if run_as_user == Some(0) && must_not_be_root(pod, container) {
        return Err(SecurityError::RootUser { pod: kubelet_name(pod), container: container.name.clone() });
    }
    let group = own(container, |context| context.run_as_group)
        .or_else(|| shared.and_then(|context| context.run_as_group));
    let privileged = own(container, |context| context.privileged) == Some(true);
    let seccomp = own(container, |context| context.seccomp_profile.as_ref())
        .or_else(|| shared.and_then(|context| context.seccomp_profile.as_ref()));
    let seccomp = match seccomp {
        Some(profile) if !privileged => seccomp_profile("securityContext.seccompProfile", profile, host)?,
        _ => profile(ProfileType::Unconfined),
    };
    let apparmor = own(container, |context| context.app_armor_profile.as_ref())
        .or_else(|| shared.and_then(|context| context.app_armor_profile.as_ref()));
    let selinux_options = own(container, |context| context.se_linux_options.as_ref())
        .or_else(|| shared.and_then(|context| context.se_linux_options.as_ref()));
    let capabilities = own(container, |context| context.capabilities.as_ref());
    let unmasked = own(container, |context| context.proc_mount.as_deref()) == Some("Unmasked");
    let paths = |list: &[&str]| match unmasked {
        true => Vec::new(),
        false => list.iter().map(|path| (*path).to_owned()).collect(),
    };
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: capabilities.map(|capabilities| v1::Capability {
            add_capabilities: capabilities.add.clone().unwrap_or_default(),
            drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
            ..v1::Capability::default()
        }),
        privileged,
        namespace_options: Some(namespaces(pod)),
        selinux_options: selinux_options.map(selinux),
        run_as_user: run_as_user.map(int64),
        run_as_group: group.map(int64),
        readonly_rootfs: own(container, |context| context.read_only_root_filesystem) == Some(true),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own(container, |context| context.allow_privilege_escalation) == Some(false),
        masked_paths: paths(MASKED_PATHS),
        readonly_paths: paths(READONLY_PATHS),
        seccomp: Some(seccomp),
        apparmor: apparmor.map(apparmor_profile).transpose()?,
        ..v1::LinuxContainerSecurityContext::default()
    })
}

/// Completes a container's user from its image and refuses root where it is forbidden. Call it
/// once the image is present, before `CreateContainer`.
///
/// # Errors
/// [`SecurityError::RootImage`], [`SecurityError::NamedUser`].
pub fn apply_image_user(
    config: &mut v1::ContainerConfig,
    pod: &Pod,
    container: &Container,
    image: &v1::Image,
) -> Result<(), SecurityError> {
    if run_as_user(pod, container).is_some() {
        return Ok(());
    }
    let uid = image.uid.as_ref().map(|uid| uid.value);
    if must_not_be_root(pod, container) {
        let (pod, container) = (kubelet_name(pod), container.name.clone());
        match uid {
            Some(0) => return Err(SecurityError::RootImage { pod, container }),
            Some(_) => {}
            None if !image.username.is_empty() => {
                return Err(SecurityError::NamedUser { user: image.username.clone(), pod, container });
            }
            None => return Err(SecurityError::RootImage { pod, container }),
        }
    }
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    let Some(context) = context else { return Ok(()) };
    // A group needs a user beside it; an image that names no user means root.
    match uid {
        Some(uid) => context.run_as_user = Some(int64(uid)),
        None if !image.username.is_empty() => context.run_as_username.clone_from(&image.username),
        None if context.run_as_group.is_some() => context.run_as_user = Some(int64(0)),
        None => {}
    }
    Ok(())
}

fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    let shared = || pod_context(pod).and_then(|context| context.run_as_user);
    own(container, |context| context.run_as_user).or_else(shared)
}

fn must_not_be_root(pod: &Pod, container: &Container) -> bool {
    let shared = || pod_context(pod).and_then(|context| context.run_as_non_root);
    own(container, |context| context.run_as_non_root).or_else(shared) == Some(true)
}

/// `fsGroup` and `supplementalGroups`.
fn groups(pod: &Pod) -> Vec<i64> {
    let Some(context) = pod_context(pod) else { return Vec::new() };
    let mut groups: Vec<i64> = context.fs_group.into_iter().collect();
    groups.extend(context.supplemental_groups.iter().flatten());
    groups
}

fn groups_policy(pod: &Pod) -> i32 {
    let strict = pod_context(pod).and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict");
    let policy =
        if strict { v1::SupplementalGroupsPolicy::Strict } else { v1::SupplementalGroupsPolicy::Merge };
    policy as i32
}

fn int64(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

fn profile(profile_type: ProfileType) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: profile_type as i32, localhost_ref: String::new() }
}

fn seccomp_profile(
    field: &'static str,
    wanted: &SeccompProfile,
    host: &HostContext,
) -> Result<v1::SecurityProfile, SecurityError> {
    match wanted.type_.as_str() {
        "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault)),
        "Unconfined" => Ok(profile(ProfileType::Unconfined)),
        "Localhost" => {
            let value = wanted.localhost_profile.clone().unwrap_or_default();
            let normal =
                Path::new(&value).components().all(|part| matches!(part, std::path::Component::Normal(_)));
            if value.is_empty() || !normal {
                return Err(SecurityError::BadLocalhostProfile { field, value });
            }
            let path = host.root_dir.join("seccomp").join(value).to_string_lossy().into_owned();
            Ok(v1::SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: path })
        }
        _ => Err(SecurityError::UnknownProfile { field, value: wanted.type_.clone() }),
    }
}

fn apparmor_profile(wanted: &AppArmorProfile) -> Result<v1::SecurityProfile, SecurityError> {
    const FIELD: &str = "securityContext.appArmorProfile";
    let Some(profile_type) = ProfileType::from_str_name(&wanted.type_) else {
        return Err(SecurityError::UnknownProfile { field: FIELD, value: wanted.type_.clone() });
    };
    let localhost_ref = wanted.localhost_profile.clone().unwrap_or_default();
    Ok(v1::SecurityProfile { profile_type: profile_type as i32, localhost_ref })
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    v1::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

/// How the kubelet names a pod in messages.
fn kubelet_name(pod: &Pod) -> String {
    let PodRef { namespace, name, uid } = PodRef::of(pod);
    format!("{name}_{namespace}({uid})")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixtures::{first, host, pod};
    use super::*;

    fn with(shared: Value, own: Value) -> Pod {
        pod(json!({"spec": {
            "securityContext": shared, "containers": [{"name": "c", "securityContext": own}],
        }}))
    }

    #[test]
    fn the_containers_word_wins_over_the_pods() {
        let pod = with(
            json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 7, "supplementalGroups": [8],
                   "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 2000, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                   "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}),
        );
        let got = container(&pod, first(&pod), &host()).unwrap();
        assert_eq!(got.run_as_user, Some(int64(2000)));
        assert_eq!(got.run_as_group, Some(int64(1000)));
        assert_eq!(got.supplemental_groups, [7, 8]);
        assert_eq!(got.seccomp, Some(profile(ProfileType::RuntimeDefault)));
        assert!(got.readonly_rootfs && got.no_new_privs && !got.privileged);
        assert_eq!(got.capabilities.unwrap().drop_capabilities, ["ALL"]);
        assert!(got.masked_paths.contains(&"/proc/kcore".to_owned()));
        let sandbox = sandbox(&pod, &host()).unwrap();
        assert_eq!(sandbox.run_as_user, Some(int64(1000)));
        assert!(!sandbox.privileged);
    }

    #[test]
    fn privileged_and_unmasked() {
        let pod = with(
            json!({"seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"privileged": true, "procMount": "Unmasked"}),
        );
        let got = container(&pod, first(&pod), &host()).unwrap();
        assert!(got.privileged && got.masked_paths.is_empty() && got.readonly_paths.is_empty());
        assert_eq!(got.seccomp, Some(profile(ProfileType::Unconfined)));
        assert!(sandbox(&pod, &host()).unwrap().privileged);
    }

    #[test]
    fn a_group_alone_needs_no_user_in_the_sandbox() {
        let pod = with(json!({"runAsGroup": 5}), json!({}));
        assert_eq!(sandbox(&pod, &host()).unwrap().run_as_group, None);
    }

    #[test]
    fn host_namespaces() {
        let node = v1::NamespaceMode::Node as i32;
        let node_pod = pod(json!({"spec": {"hostNetwork": true, "hostPID": true, "hostIPC": true}}));
        let got = namespaces(&node_pod);
        assert_eq!((got.network, got.pid, got.ipc), (node, node, node));
        let shared = pod(json!({"spec": {"shareProcessNamespace": true}}));
        assert_eq!(namespaces(&shared).pid, v1::NamespaceMode::Pod as i32);
        let plain = namespaces(&pod(json!({})));
        assert_eq!((plain.network, plain.pid), (0, v1::NamespaceMode::Container as i32));
    }

    #[test]
    fn non_root() {
        let image = |uid: Option<i64>, name: &str| v1::Image {
            uid: uid.map(int64),
            username: name.to_owned(),
            ..Default::default()
        };
        let non_root = json!({"runAsNonRoot": true});
        for (case, own, image, want) in [
            ("asks for root", json!({"runAsUser": 0}), image(None, ""), Some("breaks non-root policy")),
            ("image says nothing", json!({}), image(None, ""), Some("image will run as root")),
            ("image says 0", json!({}), image(Some(0), ""), Some("image will run as root")),
            ("image says 65", json!({}), image(Some(65), ""), None),
            ("image names one", json!({}), image(None, "nobody"), Some("non-numeric user (nobody)")),
            ("container overrules", json!({"runAsNonRoot": false}), image(None, ""), None),
            ("container picks one", json!({"runAsUser": 7}), image(None, "nobody"), None),
        ] {
            let pod = with(non_root.clone(), own);
            let got = container(&pod, first(&pod), &host()).and_then(|context| {
                let linux = v1::LinuxContainerConfig { security_context: Some(context), resources: None };
                let mut config = v1::ContainerConfig { linux: Some(linux), ..Default::default() };
                apply_image_user(&mut config, &pod, first(&pod), &image)
            });
            match want {
                Some(text) => {
                    let message = got.unwrap_err().to_string();
                    assert!(
                        message.contains(text) && message.contains("web_default(u-1)"),
                        "{case}: {message}"
                    );
                }
                None => assert_eq!(got, Ok(()), "{case}"),
            }
        }
    }

    #[test]
    fn localhost_profiles_stay_in_their_folder() {
        let with = |path: &str| {
            with(json!({}), json!({"seccompProfile": {"type": "Localhost", "localhostProfile": path}}))
        };
        let good = with("profiles/a.json");
        let got = container(&good, first(&good), &host()).unwrap().seccomp.unwrap();
        assert_eq!(got.localhost_ref, "/var/lib/kubelet/seccomp/profiles/a.json");
        for bad in ["", "/etc/passwd", "../x", "a/../../x"] {
            let pod = with(bad);
            let got = container(&pod, first(&pod), &host());
            assert!(matches!(got, Err(SecurityError::BadLocalhostProfile { .. })), "{bad}");
        }
        let odd = self::with(json!({}), json!({"seccompProfile": {"type": "Odd"}}));
        assert!(matches!(container(&odd, first(&odd), &host()), Err(SecurityError::UnknownProfile { .. })));
    }
}
