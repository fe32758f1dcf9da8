//! A pod's defaults, and the admission steps that change pods: service accounts, priority,
//! tolerations.

use serde_json::{Value, json};

use super::{Fields, container, default, default_text, each, map, present, qos, text};

/// Where programs look for their token and the cluster's CA.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Volumes of this prefix are the one that admission adds.
const TOKEN_VOLUME: &str = "kube-api-access-";
/// An hour and seven seconds: how Kubernetes tells its own tokens from those users ask for.
const TOKEN_SECS: i64 = 3607;
/// `0644`.
const FILE_MODE: i64 = 0o644;

pub fn fill(pod: &mut Fields) {
    let token_volume = token_volume_name(pod);
    if let Some(spec) = map(pod, "spec") {
        fill_spec(spec);
        admit(spec, &token_volume);
        // The added volume and mounts have defaults too.
        each(spec, "volumes").for_each(fill_volume);
    }
    let class = qos::class(pod.get("spec").unwrap_or(&Value::Null));
    if let Some(status) = map(pod, "status") {
        default_text(status, "phase", "Pending");
        status.insert("qosClass".to_owned(), class.into());
    }
}

/// Defaults of a pod's spec alone: a workload's pod template has the same.
pub fn fill_spec(spec: &mut Fields) {
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "enableServiceLinks", true);
    map(spec, "securityContext");
    super::quantities_to_text(spec, "overhead");
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, list).for_each(|container| container::fill(container, host_network));
    }
    each(spec, "volumes").for_each(fill_volume);
}

fn admit(spec: &mut Fields, token_volume: &str) {
    let account = match (text(spec, "serviceAccountName"), text(spec, "serviceAccount")) {
        ("", "") => "default".to_owned(),
        ("", account) | (account, _) => account.to_owned(),
    };
    spec.insert("serviceAccountName".to_owned(), account.clone().into());
    // The old name of the field, still printed.
    spec.insert("serviceAccount".to_owned(), account.into());
    default(spec, "priority", 0);
    default_text(spec, "preemptionPolicy", "PreemptLowerPriority");
    tolerate_absence(spec);
    if spec.get("automountServiceAccountToken") != Some(&Value::Bool(false)) {
        mount_token(spec, token_volume);
    }
}

/// Kubernetes lets a pod stay 300 s on a node that is not ready or unreachable, then evicts it. An
/// edge node that lost its link still runs its pods, and an eviction decided meanwhile would kill
/// and re-create them when the link returns (users.md, C2). So the same two tolerations have no
/// `tolerationSeconds`: for ever.
fn tolerate_absence(spec: &mut Fields) {
    let Some(Value::Array(tolerations)) = Some(spec.entry("tolerations").or_insert_with(|| json!([]))) else {
        return;
    };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|toleration| {
            let effect = toleration.get("effect").and_then(Value::as_str).unwrap_or_default();
            let of = toleration.get("key").and_then(Value::as_str).unwrap_or_default();
            (of == key || of.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute"}));
        }
    }
}

/// `kube-api-access-` and five characters. Kubernetes draws them at random; here they follow from
/// namespace and name, so that defaulting twice gives one volume.
fn token_volume_name(pod: &Fields) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let metadata = pod.get("metadata");
    let field =
        |name| metadata.and_then(|metadata| metadata.get(name)).and_then(Value::as_str).unwrap_or_default();
    // FNV-1a, 64 bits.
    let bytes = field("namespace").bytes().chain([b'/']).chain(field("name").bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut name = TOKEN_VOLUME.to_owned();
    for _ in 0..5 {
        let at = usize::try_from(hash % ALPHABET.len() as u64).unwrap_or(0);
        name.extend(ALPHABET.get(at).map(|byte| char::from(*byte)));
        hash /= ALPHABET.len() as u64;
    }
    name
}

fn mount_token(spec: &mut Fields, wanted: &str) {
    let present: Option<String> = each(spec, "volumes")
        .map(|volume| text(volume, "name"))
        .find(|name| name.starts_with(TOKEN_VOLUME))
        .map(str::to_owned);
    let volume = present.clone().unwrap_or_else(|| wanted.to_owned());
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            let Some(Value::Array(mounts)) =
                Some(container.entry("volumeMounts").or_insert_with(|| json!([])))
            else {
                continue;
            };
            if mounts.iter().any(|mount| mount.get("mountPath").is_some_and(|path| path == TOKEN_PATH)) {
                continue;
            }
            mounts.push(json!({"mountPath": TOKEN_PATH, "name": volume, "readOnly": true}));
            used = true;
        }
    }
    if used
        && present.is_none()
        && let Value::Array(volumes) = spec.entry("volumes").or_insert_with(|| json!([]))
    {
        volumes.push(json!({
            "name": volume,
            "projected": {"defaultMode": FILE_MODE, "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
            ]},
        }));
    }
}

fn fill_volume(volume: &mut Fields) {
    if volume.len() == 1 && volume.contains_key("name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = present(volume, source) {
            default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(empty_dir) = present(volume, "emptyDir")
        && let Some(limit) = empty_dir.get_mut("sizeLimit").filter(|limit| limit.is_number())
    {
        *limit = Value::from(limit.to_string());
    }
    if let Some(host_path) = present(volume, "hostPath") {
        default(host_path, "type", "");
    }
    if let Some(downward) = present(volume, "downwardAPI") {
        each(downward, "items").for_each(container::fill_field_refs);
    }
    for source in present(volume, "projected").into_iter().flat_map(|projected| each(projected, "sources")) {
        if let Some(token) = present(source, "serviceAccountToken") {
            default(token, "expirationSeconds", 3600);
        }
        if let Some(downward) = present(source, "downwardAPI") {
            each(downward, "items").for_each(container::fill_field_refs);
        }
    }
}
