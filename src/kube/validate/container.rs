//! Containers of a pod: ports, environment, mounts, resources, probes.

use std::collections::HashSet;

use serde_json::Value;

use super::{Errors, list, names, present, security, text, volume};
use crate::kube::quantity::Quantity;

/// What a container is checked against.
pub struct Around<'v> {
    pub volumes: &'v HashSet<&'v str>,
    pub host_network: bool,
}

pub fn check(errors: &mut Errors, field: &str, container: &Value, around: &Around<'_>) {
    let image = text(container, "image");
    if image.is_empty() {
        errors.required(format!("{field}.image"), "");
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.invalid(format!("{field}.image"), &image.into(), detail);
    }
    let pull = ["Always", "IfNotPresent", "Never"];
    errors.one_of(format!("{field}.imagePullPolicy"), text(container, "imagePullPolicy"), &pull);
    let policies = ["FallbackToLogsOnError", "File"];
    let policy = text(container, "terminationMessagePolicy");
    errors.one_of(format!("{field}.terminationMessagePolicy"), policy, &policies);
    let context = container.get("securityContext").unwrap_or(&Value::Null);
    security::check(errors, &format!("{field}.securityContext"), context);
    ports(errors, field, container, around.host_network);
    environment(errors, field, container);
    mounts(errors, field, container, around.volumes);
    resources(errors, &format!("{field}.resources"), container.get("resources").unwrap_or(&Value::Null));
    for (probe, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        if let Some(value) = present(container, probe) {
            self::probe(errors, &format!("{field}.{probe}"), value, once);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(value) = container.get("lifecycle").and_then(|lifecycle| present(lifecycle, hook)) {
            handler(
                errors,
                &format!("{field}.lifecycle.{hook}"),
                value,
                &["exec", "httpGet", "tcpSocket", "sleep"],
            );
        }
    }
}

fn ports(errors: &mut Errors, field: &str, container: &Value, host_network: bool) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            errors.invalid_text(&format!("{field}.name"), name, names::port_name(name));
            if !seen.insert(name) {
                errors.duplicate(format!("{field}.name"), name);
            }
        }
        let number = |name: &str| port.get(name).and_then(Value::as_i64).unwrap_or_default();
        if number("containerPort") == 0 {
            errors.required(format!("{field}.containerPort"), "");
        } else {
            errors.in_range(format!("{field}.containerPort"), port.get("containerPort"), 1, 65535);
        }
        if number("hostPort") != 0 {
            errors.in_range(format!("{field}.hostPort"), port.get("hostPort"), 1, 65535);
        }
        if host_network && number("hostPort") != number("containerPort") {
            let detail = "must match `hostPort` when `hostNetwork` is true";
            errors.invalid(format!("{field}.containerPort"), &number("containerPort").into(), detail);
        }
        errors.one_of(format!("{field}.protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn environment(errors: &mut Errors, field: &str, container: &Value) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let field = format!("{field}.env[{index}]");
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(format!("{field}.name"), "");
        } else {
            errors.invalid_text(&format!("{field}.name"), name, names::env_name(name));
        }
        if let Some(source) = present(variable, "valueFrom") {
            let field = format!("{field}.valueFrom");
            value_from(errors, &field, source);
            if !text(variable, "value").is_empty() {
                errors.invalid(field, &"".into(), "may not be specified when `value` is not empty");
            }
        }
    }
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let field = format!("{field}.envFrom[{index}]");
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            errors.invalid_text(&format!("{field}.prefix"), prefix, names::env_name(prefix));
        }
        match (present(source, "configMapRef"), present(source, "secretRef")) {
            (None, None) => {
                errors.invalid(field, &"".into(), "must specify one of: `configMapRef` or `secretRef`");
            }
            (Some(_), Some(_)) => {
                errors.invalid(field, &"".into(), "may not have more than one field specified at a time");
            }
            (Some(named), None) if text(named, "name").is_empty() => {
                errors.required(format!("{field}.configMapRef.name"), "");
            }
            (None, Some(named)) if text(named, "name").is_empty() => {
                errors.required(format!("{field}.secretRef.name"), "");
            }
            _ => {}
        }
    }
}

fn value_from(errors: &mut Errors, field: &str, source: &Value) {
    let kinds = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];
    let mut given = kinds.into_iter().filter_map(|kind| present(source, kind).map(|value| (kind, value)));
    let Some((kind, value)) = given.next() else {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        errors.invalid(field, &"".into(), detail);
        return;
    };
    if given.next().is_some() {
        errors.invalid(field, &"".into(), "may not have more than one field specified at a time");
    }
    let needs: &[&str] = match kind {
        "fieldRef" => &["fieldPath"],
        "resourceFieldRef" => &["resource"],
        _ => &["name", "key"],
    };
    for need in needs.iter().filter(|need| text(value, need).is_empty()) {
        errors.required(format!("{field}.{kind}.{need}"), "");
    }
    let path = text(value, "fieldPath");
    if kind == "fieldRef" && !path.is_empty() && !field_path_known(path) {
        let detail = format!("error converting fieldPath: field label not supported: {path}");
        errors.invalid(format!("{field}.fieldRef.fieldPath"), &path.into(), &detail);
    }
}

fn field_path_known(path: &str) -> bool {
    const KNOWN: [&str; 10] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
        "spec.restartPolicy",
    ];
    let subscripted =
        ["metadata.labels['", "metadata.annotations['"].iter().any(|prefix| path.starts_with(prefix));
    KNOWN.contains(&path) || (subscripted && path.ends_with("']"))
}

fn mounts(errors: &mut Errors, field: &str, container: &Value, volumes: &HashSet<&str>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        let (name, path) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.required(format!("{field}.name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(format!("{field}.name"), name);
        }
        if path.is_empty() {
            errors.required(format!("{field}.mountPath"), "");
        } else if !seen.insert(path) {
            errors.invalid(format!("{field}.mountPath"), &path.into(), "must be unique");
        } else if path.contains(':') {
            errors.invalid(format!("{field}.mountPath"), &path.into(), "must not contain ':'");
        }
        volume::relative(errors, format!("{field}.subPath"), text(mount, "subPath"));
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            errors.invalid(
                format!("{field}.subPathExpr"),
                &text(mount, "subPathExpr").into(),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
    }
}

pub fn resources(errors: &mut Errors, field: &str, resources: &Value) {
    let mut parsed = |list: &str| -> Vec<(String, Quantity, String)> {
        let quantities = resources.get(list).and_then(Value::as_object).into_iter().flatten();
        let mut read = Vec::new();
        for (name, value) in quantities {
            let field = format!("{field}.{list}[{name}]");
            errors.invalid_text(&field, name, names::qualified_name(name));
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            match Quantity::parse(&text) {
                Err(problem) => errors.invalid(field, value, &problem),
                Ok(quantity) if quantity.milli < 0 => {
                    errors.invalid(field, value, "must be greater than or equal to 0");
                }
                Ok(quantity) => read.push((name.clone(), quantity, text)),
            }
        }
        read
    };
    let (limits, requests) = (parsed("limits"), parsed("requests"));
    for (name, request, text) in requests {
        let limit = limits.iter().find(|(other, limit, _)| *other == name && request > *limit);
        if let Some((_, _, limit)) = limit {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.invalid(format!("{field}.requests"), &text.into(), &detail);
        }
    }
}

fn probe(errors: &mut Errors, field: &str, probe: &Value, once: bool) {
    handler(errors, field, probe, &["exec", "httpGet", "tcpSocket", "grpc"]);
    for number in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        errors.in_range(format!("{field}.{number}"), probe.get(number), 0, i64::MAX);
    }
    if let Some(threshold) = probe.get("successThreshold").and_then(Value::as_i64).filter(|n| once && *n != 1)
    {
        errors.invalid(format!("{field}.successThreshold"), &threshold.into(), "must be 1");
    }
}

fn handler(errors: &mut Errors, field: &str, handler: &Value, kinds: &[&str]) {
    let mut given = kinds.iter().filter_map(|kind| present(handler, kind).map(|value| (*kind, value)));
    let Some((kind, value)) = given.next() else {
        errors.required(field, "must specify a handler type");
        return;
    };
    for (other, _) in given {
        errors.forbidden(format!("{field}.{other}"), "may not specify more than 1 handler type");
    }
    let field = format!("{field}.{kind}");
    match kind {
        "exec" if list(value, "command").is_empty() => errors.required(format!("{field}.command"), ""),
        "httpGet" => {
            if text(value, "path").is_empty() {
                errors.required(format!("{field}.path"), "");
            }
            errors.one_of(format!("{field}.scheme"), text(value, "scheme"), &["HTTP", "HTTPS"]);
            port(errors, format!("{field}.port"), value.get("port"));
        }
        "tcpSocket" | "grpc" => port(errors, format!("{field}.port"), value.get("port")),
        _ => {}
    }
}

/// A number, or the name of a container port.
fn port(errors: &mut Errors, field: String, port: Option<&Value>) {
    match port {
        Some(Value::String(name)) => errors.invalid_text(&field, name, names::port_name(name)),
        Some(number) => errors.in_range(field, Some(number), 1, 65535),
        None => errors.required(field, ""),
    }
}
