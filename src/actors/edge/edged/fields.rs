//! Values that pods take from themselves: fieldRef and resourceFieldRef, for environments and files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::host::HostContext;
use super::sources::service_account;
use crate::kube::quantity::Quantity;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    UnknownField(String),
    #[error("unsupported container resource: {0}")]
    UnknownResource(String),
    #[error("{field}: {text:?} is not a quantity")]
    BadQuantity { field: String, text: String },
    #[error("divisor of {0} is zero")]
    ZeroDivisor(String),
}

/// The text of a pod's own field. Empty when the field has no value yet.
///
/// # Errors
/// [`FieldError::UnknownField`] for paths the downward API does not offer.
pub fn field(pod: &Pod, path: &str, host: &HostContext, pod_ip: Option<&str>) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if let Some((name, key)) = subscript(path) {
        let map = match name {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(FieldError::UnknownField(path.to_owned())),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => host.node_name.clone(),
        "spec.serviceAccountName" => service_account(pod).to_owned(),
        "status.hostIP" => host.host_ip().unwrap_or_default().to_owned(),
        "status.hostIPs" => host.host_ips.join(","),
        "status.podIP" | "status.podIPs" => pod_ip.unwrap_or_default().to_owned(),
        _ => return Err(FieldError::UnknownField(path.to_owned())),
    })
}

/// `limits.cpu` and its like in units of the divisor, rounded up. A missing limit is the node's
/// allocatable amount, a missing request is 0 (kubelet, `ExtractContainerResourceValue`).
///
/// # Errors
/// [`FieldError`] for an unknown resource, or a quantity or divisor that makes no number.
pub fn resource(
    container: &Container,
    selector: &ResourceFieldSelector,
    host: &HostContext,
) -> Result<String, FieldError> {
    let name = selector.resource.as_str();
    let unknown = || FieldError::UnknownResource(name.to_owned());
    let (list, kind) = name.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let amounts = match list {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(unknown()),
    };
    let given = amounts.and_then(|amounts| amounts.get(kind));
    let milli = match (given, list, kind) {
        (Some(quantity), ..) => milli(name, quantity)?,
        (None, "limits", "cpu") => i128::from(host.cpu_milli),
        (None, "limits", "memory") => i128::from(host.memory_bytes) * 1000,
        (None, _, "cpu" | "memory" | "ephemeral-storage") => 0,
        (None, _, kind) if kind.starts_with("hugepages-") => 0,
        _ => return Err(unknown()),
    };
    // The API server's default divisor prints as "0".
    let divisor = match &selector.divisor {
        Some(quantity) if quantity.0 != "0" && !quantity.0.is_empty() => self::milli(name, quantity)?,
        _ => 1000,
    };
    if divisor <= 0 {
        return Err(FieldError::ZeroDivisor(name.to_owned()));
    }
    Ok((milli.saturating_add(divisor - 1) / divisor).to_string())
}

/// # Errors
/// [`FieldError::BadQuantity`], naming `field`.
pub fn milli(field: &str, quantity: &ApiQuantity) -> Result<i128, FieldError> {
    let bad = |_| FieldError::BadQuantity { field: field.to_owned(), text: quantity.0.clone() };
    Quantity::parse(&quantity.0).map(|quantity| quantity.milli).map_err(bad)
}

/// `metadata.labels['key']` as name and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// One `key="value"` line each, sorted, values quoted as Go's `%q` does.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

fn quote(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            // Writing to a String cannot fail.
            c if c.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(c)).unwrap_or_default(),
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c)).unwrap_or_default(),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{first, host, pod};
    use super::*;

    #[test]
    fn fields() {
        let pod = pod(json!({
            "metadata": {"labels": {"app": "web", "tier": "a\"b\n\u{1}é"}, "annotations": {"x/y": "1"}},
            "spec": {"serviceAccountName": "robot"},
        }));
        for (path, want) in [
            ("metadata.name", "web"),
            ("metadata.uid", "u-1"),
            ("metadata.labels['app']", "web"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['x/y']", "1"),
            ("metadata.labels", "app=\"web\"\ntier=\"a\\\"b\\n\\x01é\""),
            ("spec.nodeName", "edge-1"),
            ("spec.serviceAccountName", "robot"),
            ("status.hostIP", "192.0.2.10"),
            ("status.podIPs", "10.1.0.7"),
        ] {
            assert_eq!(field(&pod, path, &host(), Some("10.1.0.7")).as_deref(), Ok(want), "{path}");
        }
        for path in ["spec.containers", "metadata.name['x']", "status", ""] {
            assert_eq!(field(&pod, path, &host(), None), Err(FieldError::UnknownField(path.to_owned())));
        }
    }

    #[test]
    fn resources() {
        let pod = pod(json!({"spec": {"containers": [{"name": "c", "resources": {
            "limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"},
        }}]}}));
        let bare = self::pod(json!({"spec": {"containers": [{"name": "c"}]}}));
        let get = |pod: &Pod, resource: &str, divisor: Option<&str>| {
            let selector = ResourceFieldSelector {
                resource: resource.to_owned(),
                divisor: divisor.map(|text| ApiQuantity(text.to_owned())),
                container_name: None,
            };
            super::resource(first(pod), &selector, &host())
        };
        for (resource, divisor, want) in [
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("1m"), "1500"),
            ("limits.cpu", Some("0"), "2"),
            ("limits.memory", Some("1Mi"), "64"),
            ("limits.memory", None, "67108864"),
            ("requests.cpu", Some("1m"), "250"),
            ("requests.memory", None, "0"),
        ] {
            assert_eq!(get(&pod, resource, divisor).as_deref(), Ok(want), "{resource} {divisor:?}");
        }
        assert_eq!(get(&bare, "limits.cpu", None).as_deref(), Ok("2"));
        assert_eq!(get(&bare, "limits.memory", Some("1Gi")).as_deref(), Ok("4"));
        for bad in ["limits", "limits.gold", "caps.cpu"] {
            assert_eq!(get(&pod, bad, None), Err(FieldError::UnknownResource(bad.to_owned())));
        }
        assert!(matches!(get(&pod, "limits.cpu", Some("x")), Err(FieldError::BadQuantity { .. })));
    }
}
