//! Pods as a whole.

use std::collections::HashSet;

use serde_json::Value;

use super::container::{self, Around};
use super::{Errors, list, meta, names, present, security, text, volume};

const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];

pub fn check(errors: &mut Errors, pod: &Value) {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let volumes = volume::check(errors, spec);
    let around =
        Around { volumes: &volumes, host_network: spec.get("hostNetwork") == Some(&Value::Bool(true)) };
    containers(errors, spec, &around);
    scheduling(errors, spec);
    errors.one_of(
        "spec.restartPolicy".into(),
        text(spec, "restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    errors.one_of("spec.dnsPolicy".into(), text(spec, "dnsPolicy"), &DNS_POLICIES);
    if text(spec, "dnsPolicy") == "None" && present(spec, "dnsConfig").is_none() {
        errors.required("spec.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None");
    }
    let grace = spec.get("terminationGracePeriodSeconds");
    errors.in_range("spec.terminationGracePeriodSeconds".into(), grace, 0, i64::MAX);
    let deadline = spec.get("activeDeadlineSeconds");
    errors.in_range("spec.activeDeadlineSeconds".into(), deadline, 1, i64::from(i32::MAX));
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            errors.required(format!("spec.imagePullSecrets[{index}].name"), "");
        }
    }
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let ip = text(alias, "ip");
        if ip.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(format!("spec.hostAliases[{index}].ip"), &ip.into(), detail);
        }
        for (at, name) in list(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let field = format!("spec.hostAliases[{index}].hostnames[{at}]");
            errors.invalid_text(&field, name, names::dns_subdomain(name));
        }
    }
    dns_config(errors, spec.get("dnsConfig").unwrap_or(&Value::Null));
    let context = spec.get("securityContext").unwrap_or(&Value::Null);
    security::check(errors, "spec.securityContext", context);
    for field in ["nodeName", "serviceAccountName", "hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            let label = matches!(field, "hostname" | "subdomain");
            let problems = if label { names::dns_label(name) } else { names::dns_subdomain(name) };
            errors.invalid_text(&format!("spec.{field}"), name, problems);
        }
    }
}

/// What goes into a file of lines must be one word each.
fn dns_config(errors: &mut Errors, config: &Value) {
    let nameservers = list(config, "nameservers");
    if nameservers.len() > 3 {
        errors.invalid(
            "spec.dnsConfig.nameservers",
            &nameservers.into(),
            "must not have more than 3 nameservers",
        );
    }
    for (index, server) in nameservers.iter().enumerate() {
        if server.as_str().is_none_or(|server| server.parse::<std::net::IpAddr>().is_err()) {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(format!("spec.dnsConfig.nameservers[{index}]"), server, detail);
        }
    }
    let is_word =
        |word: &str| !word.is_empty() && word.len() <= 253 && word.bytes().all(|c| c.is_ascii_graphic());
    for (index, search) in list(config, "searches").iter().enumerate() {
        if !search.as_str().is_some_and(is_word) {
            let detail = "a search path must be a domain name of at most 253 characters";
            errors.invalid(format!("spec.dnsConfig.searches[{index}]"), search, detail);
        }
    }
    for (index, option) in list(config, "options").iter().enumerate() {
        for part in ["name", "value"] {
            let word = text(option, part);
            if !is_word(word) && (part == "name" || !word.is_empty()) {
                let field = format!("spec.dnsConfig.options[{index}].{part}");
                errors.invalid(field, &word.into(), "must be one word");
            }
        }
    }
}

fn containers(errors: &mut Errors, spec: &Value, around: &Around<'_>) {
    if list(spec, "containers").is_empty() {
        errors.required("spec.containers", "");
    }
    let mut seen: HashSet<&str> = HashSet::new();
    let mut host_ports: HashSet<String> = HashSet::new();
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, container) in list(spec, kind).iter().enumerate() {
            let field = format!("spec.{kind}[{index}]");
            let name = text(container, "name");
            if name.is_empty() {
                errors.required(format!("{field}.name"), "");
            } else if !seen.insert(name) {
                errors.duplicate(format!("{field}.name"), name);
            } else {
                errors.invalid_text(&format!("{field}.name"), name, names::dns_label(name));
            }
            container::check(errors, &field, container, around);
            // Init containers run one after the other: their ports do not clash.
            if kind == "containers" {
                claim_host_ports(errors, &field, container, &mut host_ports);
            }
        }
    }
}

fn claim_host_ports(errors: &mut Errors, field: &str, container: &Value, taken: &mut HashSet<String>) {
    for (index, port) in list(container, "ports").iter().enumerate() {
        let number = port.get("hostPort").and_then(Value::as_i64).unwrap_or_default();
        if number == 0 {
            continue;
        }
        let claim = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
        if taken.contains(&claim) {
            errors.duplicate(format!("{field}.ports[{index}].hostPort"), &claim);
        }
        taken.insert(claim);
    }
}

fn scheduling(errors: &mut Errors, spec: &Value) {
    meta::labels(errors, "spec.nodeSelector", spec.get("nodeSelector"));
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        self::toleration(errors, &format!("spec.tolerations[{index}]"), toleration);
    }
    let required = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let Some(required_terms) = spec.pointer(required) else { return };
    let field = format!("spec{}.nodeSelectorTerms", required.replace('/', "."));
    let terms = list(required_terms, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(field.clone(), "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        for (at, rule) in list(term, "matchExpressions").iter().enumerate() {
            expression(errors, &format!("{field}[{index}].matchExpressions[{at}]"), rule);
        }
    }
}

fn expression(errors: &mut Errors, field: &str, rule: &Value) {
    let key = text(rule, "key");
    errors.invalid_text(&format!("{field}.key"), key, names::qualified_name(key));
    let count = list(rule, "values").len();
    match text(rule, "operator") {
        "In" | "NotIn" if count == 0 => {
            errors
                .required(format!("{field}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(format!("{field}.values"), detail);
        }
        "Gt" | "Lt" if count != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.required(format!("{field}.values"), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(format!("{field}.operator"), &other.into(), "not a valid selector operator"),
    }
}

fn toleration(errors: &mut Errors, field: &str, toleration: &Value) {
    let part = |name| text(toleration, name);
    let (key, operator, value, effect) = (part("key"), part("operator"), part("value"), part("effect"));
    if !key.is_empty() {
        errors.invalid_text(&format!("{field}.key"), key, names::qualified_name(key));
    } else if operator != "Exists" {
        let detail =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(format!("{field}.operator"), &operator.into(), detail);
    }
    if present(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(format!("{field}.effect"), &effect.into(), detail);
    }
    match operator {
        "" | "Equal" => errors.invalid_text(&format!("{field}.value"), value, names::label_value(value)),
        "Exists" if !value.is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.invalid(format!("{field}.operator"), &value.into(), detail);
        }
        "Exists" => {}
        other => errors.not_supported(format!("{field}.operator"), other, &["Equal", "Exists"]),
    }
    errors.one_of(format!("{field}.effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
}
