//! What a Pod may say and edgecore does not do yet: worth a word to whoever says it.

use serde_json::Value;

/// Fields of containers, and what happens instead.
const FIELDS: [(&str, &str); 4] = [
    ("livenessProbe", "probes are not run: a container is restarted when it ends"),
    ("readinessProbe", "probes are not run: a container is ready while it runs"),
    ("startupProbe", "probes are not run: a container has started when its process has"),
    ("lifecycle", "hooks are not run: a container gets SIGTERM, then its grace period"),
];

/// Warnings for the user, one a field.
#[must_use]
pub fn warnings(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let set =
                FIELDS.iter().filter(|(field, _)| container.get(*field).is_some_and(|it| !it.is_null()));
            found.extend(set.map(|(field, instead)| format!("spec.{list}[{index}].{field}: {instead}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn probes_and_hooks_are_named() {
        let pod = json!({"spec": {
            "initContainers": [{"name": "a", "lifecycle": {"preStop": {}}}],
            "containers": [{"name": "b"}, {"name": "c", "readinessProbe": {}, "livenessProbe": null}],
        }});
        let fields: Vec<String> =
            warnings(&pod).iter().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect();
        assert_eq!(fields, ["spec.initContainers[0].lifecycle", "spec.containers[1].readinessProbe"]);
        assert_eq!(warnings(&json!({})), [""; 0]);
    }
}
