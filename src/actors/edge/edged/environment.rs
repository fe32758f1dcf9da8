//! A container's environment from literals, configmaps, secrets and fields. Pure.
//!
//! Errors become the message of `CreateContainerConfigError`, so they read as the kubelet's do.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVarSource, Pod};

use super::fields::{self, FieldError};
use super::host::HostContext;
use super::sources::{CONFIGMAP, SECRET, Sources, all_containers};
use crate::model::identity::WORKLOAD_API_ANNOTATION;

/// Where SPIFFE clients look for the Workload API.
const SPIFFE_ENDPOINT_SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// `kind` is `configmap` or `secret`.
    #[error("{kind} {name:?} not found")]
    ObjectNotFound { kind: &'static str, name: String },
    /// `kind` is `ConfigMap` or `Secret`.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyNotFound { key: String, kind: &'static str, namespace: String, name: String },
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("env {0}: this source of values is not supported")]
    UnknownSource(String),
    #[error(
        "annotation {WORKLOAD_API_ANNOTATION}: this node serves no Workload API (identity.workloadApi is false)"
    )]
    NoWorkloadApi,
}

/// Variables in the order they are first defined: `envFrom`, then `env` (which may override), then
/// where the Kubernetes API is, if that is known and the pod did not say.
///
/// `env` values may refer to variables defined before them as `$(NAME)`.
///
/// # Errors
/// [`EnvError`] for a source that is missing and not optional.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    host: &HostContext,
    pod_ip: Option<&str>,
) -> Result<Vec<(String, String)>, EnvError> {
    let scope = Scope { pod, container, sources, host, pod_ip };
    let mut variables = Variables::default();
    for from in container.env_from.iter().flatten() {
        for (name, value) in scope.all_of(from)? {
            variables.set(&name, value);
        }
    }
    let service = service_variables(host);
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, |name| {
                let service =
                    || service.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
                variables.get(name).or_else(service)
            })),
            (_, Some(from)) => scope.one_of(&var.name, from)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            variables.set(&var.name, value);
        }
    }
    for (name, value) in service {
        if variables.get(name).is_none() {
            variables.set(name, value);
        }
    }
    if let Some(socket) = workload_api(pod, host)?
        && variables.get(SPIFFE_ENDPOINT_SOCKET).is_none()
    {
        variables.set(SPIFFE_ENDPOINT_SOCKET, format!("unix://{}", socket.display()));
    }
    Ok(variables.list)
}

/// The socket of the Workload API, if the pod asks for it.
///
/// # Errors
/// [`EnvError::NoWorkloadApi`] when it asks for what this node does not have.
pub fn workload_api<'a>(pod: &Pod, host: &'a HostContext) -> Result<Option<&'a Path>, EnvError> {
    let annotations = pod.metadata.annotations.iter().flatten();
    let asks =
        annotations.into_iter().any(|(name, value)| name == WORKLOAD_API_ANNOTATION && value == "true");
    match host.workload_api.as_deref() {
        Some(socket) => Ok(asks.then_some(socket)),
        None if asks => Err(EnvError::NoWorkloadApi),
        None => Ok(None),
    }
}

/// Replaces `$(NAME)` by the value of `NAME`. `$$` is a `$`; what is unknown or unclosed stays.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|open| open.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Unique names in order of definition.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.list.get(*self.index.get(name)?).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name).and_then(|at| self.list.get_mut(*at)) {
            Some(slot) => slot.1 = value,
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }
}

struct Scope<'a> {
    pod: &'a Pod,
    container: &'a Container,
    sources: &'a Sources,
    host: &'a HostContext,
    pod_ip: Option<&'a str>,
}

impl Scope<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// All entries of one `envFrom` source whose prefixed name can be a variable's name.
    fn all_of(&self, from: &EnvFromSource) -> Result<Vec<(String, String)>, EnvError> {
        let (kind, name, optional, entries) = if let Some(source) = &from.config_map_ref {
            (CONFIGMAP, &source.name, source.optional, self.sources.configmap(self.namespace(), &source.name))
        } else if let Some(source) = &from.secret_ref {
            (SECRET, &source.name, source.optional, self.sources.secret(self.namespace(), &source.name))
        } else {
            return Ok(Vec::new());
        };
        let Some(entries) = entries else {
            if optional == Some(true) {
                return Ok(Vec::new());
            }
            return Err(EnvError::ObjectNotFound { kind, name: name.clone() });
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let named = entries.into_iter().map(|(key, value)| (format!("{prefix}{key}"), text(value)));
        Ok(named.filter(|(name, _)| is_variable_name(name)).collect())
    }

    /// The value of one `valueFrom`; `None` leaves the variable undefined.
    fn one_of(&self, variable: &str, from: &EnvVarSource) -> Result<Option<String>, EnvError> {
        if let Some(selector) = &from.field_ref {
            return Ok(Some(fields::field(self.pod, &selector.field_path, self.host, self.pod_ip)?));
        }
        if let Some(selector) = &from.resource_field_ref {
            let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
                Some(name) => named_container(self.pod, name)?,
                None => self.container,
            };
            return Ok(Some(fields::resource(container, selector, self.host)?));
        }
        let (kind, object, name, key, optional, entries) = if let Some(source) = &from.config_map_key_ref {
            let entries = self.sources.configmap(self.namespace(), &source.name);
            (CONFIGMAP, "ConfigMap", &source.name, &source.key, source.optional, entries)
        } else if let Some(source) = &from.secret_key_ref {
            let entries = self.sources.secret(self.namespace(), &source.name);
            (SECRET, "Secret", &source.name, &source.key, source.optional, entries)
        } else {
            return Err(EnvError::UnknownSource(variable.to_owned()));
        };
        let Some(mut entries) = entries else {
            if optional == Some(true) {
                return Ok(None);
            }
            return Err(EnvError::ObjectNotFound { kind, name: name.clone() });
        };
        match entries.remove(key) {
            Some(value) => Ok(Some(text(value))),
            None if optional == Some(true) => Ok(None),
            None => Err(EnvError::KeyNotFound {
                key: key.clone(),
                kind: object,
                namespace: self.namespace().to_owned(),
                name: name.clone(),
            }),
        }
    }
}

/// # Errors
/// [`EnvError::NoContainer`].
pub fn named_container<'a>(pod: &'a Pod, name: &str) -> Result<&'a Container, EnvError> {
    let mut containers = pod.spec.iter().flat_map(all_containers);
    containers.find(|container| container.name == name).ok_or_else(|| EnvError::NoContainer(name.to_owned()))
}

/// Bytes that are no UTF-8 cannot travel in an environment over gRPC; they are replaced.
fn text(value: Vec<u8>) -> String {
    String::from_utf8(value).unwrap_or_else(|err| String::from_utf8_lossy(err.as_bytes()).into_owned())
}

/// Printable ASCII without `=` (Kubernetes 1.32's relaxed rule).
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
}

fn service_variables(host: &HostContext) -> Vec<(&'static str, String)> {
    match &host.kubernetes_service {
        Some((address, port)) => vec![
            ("KUBERNETES_SERVICE_HOST", address.clone()),
            ("KUBERNETES_SERVICE_PORT", port.to_string()),
            ("KUBERNETES_SERVICE_PORT_HTTPS", port.to_string()),
        ],
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::fixtures::{first, host, pod};
    use super::*;
    use crate::model::ObjectKey;

    fn sources() -> Sources {
        let mut sources = Sources::default();
        let map = json!({"data": {"greeting": "hello", "bad=name": "x", "A": "from-map"}});
        sources.insert(ObjectKey::namespaced("default", CONFIGMAP, "cm"), Some(Arc::new(map)));
        let secret = json!({"data": {"password": "czNjcjN0"}});
        sources.insert(ObjectKey::namespaced("default", SECRET, "sec"), Some(Arc::new(secret)));
        sources
    }

    fn run(container: Value) -> Result<Vec<(String, String)>, String> {
        let mut container = container;
        container["name"] = json!("c");
        let pod = pod(json!({"spec": {"containers": [container]}}));
        environment(&pod, first(&pod), &sources(), &host(), Some("10.1.0.7")).map_err(|err| err.to_string())
    }

    #[test]
    fn values() {
        let get = |container: Value, name: &str| {
            let list = run(container).unwrap();
            list.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
        };
        let from = |source: Value| json!({"env": [{"name": "V", "valueFrom": source}]});
        for (case, container, want) in [
            ("literal", json!({"env": [{"name": "V", "value": "x"}]}), Some("x")),
            ("empty", json!({"env": [{"name": "V"}]}), Some("")),
            (
                "configmap key",
                from(json!({"configMapKeyRef": {"name": "cm", "key": "greeting"}})),
                Some("hello"),
            ),
            ("secret key", from(json!({"secretKeyRef": {"name": "sec", "key": "password"}})), Some("s3cr3t")),
            (
                "optional key",
                from(json!({"secretKeyRef": {"name": "sec", "key": "no", "optional": true}})),
                None,
            ),
            (
                "optional map",
                from(json!({"configMapKeyRef": {"name": "no", "key": "k", "optional": true}})),
                None,
            ),
            ("field", from(json!({"fieldRef": {"fieldPath": "status.podIP"}})), Some("10.1.0.7")),
            (
                "earlier",
                json!({"env": [{"name": "U", "value": "u"}, {"name": "V", "value": "$(U)-$(W)"}, {"name": "W", "value": "w"}]}),
                Some("u-$(W)"),
            ),
            (
                "envFrom below env",
                json!({"envFrom": [{"configMapRef": {"name": "cm"}}], "env": [{"name": "V", "value": "$(greeting)"}]}),
                Some("hello"),
            ),
            (
                "override",
                json!({"envFrom": [{"configMapRef": {"name": "cm"}}], "env": [{"name": "A", "value": "mine"}, {"name": "V", "value": "$(A)"}]}),
                Some("mine"),
            ),
            (
                "prefix",
                json!({"envFrom": [{"prefix": "P_", "secretRef": {"name": "sec"}}], "env": [{"name": "V", "value": "$(P_password)"}]}),
                Some("s3cr3t"),
            ),
            (
                "optional envFrom",
                json!({"envFrom": [{"secretRef": {"name": "no", "optional": true}}], "env": [{"name": "V", "value": "v"}]}),
                Some("v"),
            ),
        ] {
            assert_eq!(get(container, "V").as_deref(), want, "{case}");
        }
        let all = run(json!({"envFrom": [{"configMapRef": {"name": "cm"}}]})).unwrap();
        assert_eq!(all.len(), 2, "an entry whose name cannot be a variable is left out: {all:?}");
    }

    #[test]
    fn missing_sources_are_named_as_the_kubelet_names_them() {
        let from = |source: Value| json!({"env": [{"name": "V", "valueFrom": source}]});
        for (container, want) in [
            (from(json!({"configMapKeyRef": {"name": "x", "key": "k"}})), "configmap \"x\" not found"),
            (from(json!({"secretKeyRef": {"name": "x", "key": "k"}})), "secret \"x\" not found"),
            (
                from(json!({"configMapKeyRef": {"name": "cm", "key": "k"}})),
                "couldn't find key k in ConfigMap default/cm",
            ),
            (
                from(json!({"secretKeyRef": {"name": "sec", "key": "k"}})),
                "couldn't find key k in Secret default/sec",
            ),
            (json!({"envFrom": [{"configMapRef": {"name": "x"}}]}), "configmap \"x\" not found"),
            (from(json!({"fieldRef": {"fieldPath": "spec.x"}})), "unsupported fieldPath: spec.x"),
            (from(json!({})), "env V: this source of values is not supported"),
        ] {
            assert_eq!(run(container), Err(want.to_owned()));
        }
    }

    #[test]
    fn the_api_is_announced_unless_the_pod_says_otherwise() {
        let mut host = host();
        host.kubernetes_service = Some(("10.0.0.1".into(), 6443));
        let pod = pod(json!({"spec": {"containers": [{"name": "c", "env": [
            {"name": "KUBERNETES_SERVICE_PORT", "value": "1"}, {"name": "URL", "value": "https://$(KUBERNETES_SERVICE_HOST)"},
        ]}]}}));
        let list = environment(&pod, first(&pod), &sources(), &host, None).unwrap();
        let value = |name: &str| list.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!(value("KUBERNETES_SERVICE_HOST"), Some("10.0.0.1"));
        assert_eq!(value("KUBERNETES_SERVICE_PORT"), Some("1"));
        assert_eq!(value("URL"), Some("https://10.0.0.1"));
    }

    #[test]
    fn the_workload_api_for_pods_that_ask() {
        let find = |pod: &Pod, host: &HostContext| {
            let list = environment(pod, first(pod), &sources(), host, None)?;
            Ok(list.into_iter().find(|(name, _)| name == SPIFFE_ENDPOINT_SOCKET).map(|(_, value)| value))
        };
        let with = |value: &str, env: serde_json::Value| {
            pod(json!({
                "metadata": {"annotations": {WORKLOAD_API_ANNOTATION: value}},
                "spec": {"hostNetwork": true, "containers": [{"name": "c", "env": env}]},
            }))
        };
        let (host, without) = (host(), HostContext { workload_api: None, ..host() });
        let socket = Some("unix:///run/kubeedge/spiffe.sock".to_owned());
        assert_eq!(find(&with("true", json!([])), &host), Ok(socket));
        assert_eq!(find(&with("false", json!([])), &host), Ok(None));
        assert_eq!(find(&with("false", json!([])), &without), Ok(None));
        let own = json!([{"name": SPIFFE_ENDPOINT_SOCKET, "value": "unix:///other"}]);
        assert_eq!(find(&with("true", own), &host), Ok(Some("unix:///other".to_owned())));
        assert_eq!(find(&with("true", json!([])), &without), Err(EnvError::NoWorkloadApi));
        let message = EnvError::NoWorkloadApi.to_string();
        assert!(message.contains("identity.kubeedge.io/workload-api"), "{message}");
    }

    #[test]
    fn expansion() {
        let lookup = |name: &str| (name == "A").then_some("$(A)");
        for (text, want) in [
            ("", ""),
            ("$(A)", "$(A)"),
            ("x$(A)y", "x$(A)y"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(B)", "$$(B)"),
            ("$$$$", "$$"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("$A$x", "$A$x"),
            ("$()", "$()"),
            ("a$é(A)", "a$é(A)"),
        ] {
            assert_eq!(expand(text, lookup), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn expansion_without_dollars_changes_nothing(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text, |_| Some("never")), text);
        }

        #[test]
        fn doubling_every_dollar_quotes_any_text(text in ".{0,40}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), |_| Some("never")), text);
        }
    }
}
