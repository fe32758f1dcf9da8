//! A container's defaults: pull policy, probes, ports, requests from limits.

use serde_json::{Value, json};

use super::{Fields, default, default_text, each, map, present, quantities_to_text, text};

pub fn fill(container: &mut Fields, host_network: bool) {
    let policy = pull_policy(text(container, "image"));
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    for port in each(container, "ports") {
        default_text(port, "protocol", "TCP");
        if let Some(number) = port.get("containerPort").cloned().filter(|_| host_network) {
            default(port, "hostPort", number);
        }
    }
    if let Some(resources) = map(container, "resources") {
        fill_resources(resources);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = present(container, probe) {
            fill_probe(probe);
        }
    }
    if let Some(lifecycle) = present(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = present(lifecycle, hook) {
                fill_http(hook);
            }
        }
    }
    for variable in each(container, "env") {
        if let Some(source) = present(variable, "valueFrom") {
            fill_field_refs(source);
        }
    }
}

/// What is limited and not requested is requested in full.
fn fill_resources(resources: &mut Fields) {
    quantities_to_text(resources, "limits");
    quantities_to_text(resources, "requests");
    let Some(limits) = resources.get("limits").and_then(Value::as_object).filter(|limits| !limits.is_empty())
    else {
        return;
    };
    let limits = limits.clone();
    if let Some(requests) = map(resources, "requests") {
        for (name, quantity) in limits {
            default(requests, &name, quantity);
        }
    }
}

fn fill_probe(probe: &mut Fields) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        // Zero means unset in Go's type.
        if probe.get(field).is_none_or(|old| old == 0) {
            probe.insert(field.to_owned(), value.into());
        }
    }
    if let Some(grpc) = present(probe, "grpc") {
        default(grpc, "service", "");
    }
    fill_http(probe);
}

fn fill_http(handler: &mut Fields) {
    if let Some(get) = present(handler, "httpGet") {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
}

/// `fieldRef` and `resourceFieldRef` of an environment variable or a downward-API file.
pub fn fill_field_refs(source: &mut Fields) {
    if let Some(field) = present(source, "fieldRef") {
        default_text(field, "apiVersion", "v1");
    }
    if let Some(resource) = present(source, "resourceFieldRef") {
        match resource.get_mut("divisor") {
            Some(divisor) if divisor.is_number() => *divisor = Value::from(divisor.to_string()),
            Some(_) => {}
            None => {
                resource.insert("divisor".to_owned(), json!("0"));
            }
        }
    }
}

/// How an image is pulled when the container does not say.
#[must_use]
pub fn pull_policy(image: &str) -> &'static str {
    if tag(image) == "latest" { "Always" } else { "IfNotPresent" }
}

/// Tag of an image reference; `latest` when it has neither tag nor digest, empty with a digest alone.
fn tag(image: &str) -> &str {
    let (name, digest) = image.split_once('@').map_or((image, ""), |(name, digest)| (name, digest));
    // A colon before the last slash is a registry's port.
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag,
        None if digest.is_empty() => "latest",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        for (image, want) in [
            ("busybox", "latest"),
            ("busybox:1", "1"),
            ("busybox:latest", "latest"),
            ("host:5000/busybox", "latest"),
            ("host:5000/busybox:2", "2"),
            ("busybox@sha256:abc", ""),
            ("busybox:latest@sha256:abc", "latest"),
            ("", "latest"),
        ] {
            assert_eq!(tag(image), want, "{image}");
        }
    }
}
