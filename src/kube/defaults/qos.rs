//! Quality of service: who is killed first when a node runs out of memory.

use serde_json::Value;

use crate::kube::quantity::Quantity;

/// `Guaranteed`, `Burstable` or `BestEffort`, from the cpu and memory of all containers
/// (kubernetes.io, "Pod Quality of Service Classes").
#[must_use]
pub fn class(spec: &Value) -> &'static str {
    let of = |list: &str| spec.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (mut any, mut all_limited) = (false, true);
    for container in of("containers").iter().chain(of("initContainers")) {
        for resource in ["cpu", "memory"] {
            let request = amount(container, "requests", resource);
            let limit = amount(container, "limits", resource);
            any |= request.is_some() || limit.is_some();
            all_limited &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, all_limited) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Zero counts as not set.
fn amount(container: &Value, field: &str, resource: &str) -> Option<Quantity> {
    let text = container.get("resources")?.get(field)?.get(resource)?.as_str()?;
    Quantity::parse(text).ok().filter(|quantity| quantity.milli > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes() {
        let c = |resources: Value| json!({"resources": resources});
        let full =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        for (containers, want) in [
            (json!([]), "BestEffort"),
            (json!([c(json!({}))]), "BestEffort"),
            (json!([c(json!({"requests": {"cpu": "0"}}))]), "BestEffort"),
            (json!([c(full.clone())]), "Guaranteed"),
            (json!([c(full.clone()), c(json!({}))]), "Burstable"),
            (json!([c(json!({"requests": {"cpu": "10m"}}))]), "Burstable"),
            (
                json!([c(
                    json!({"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1", "memory": "0"}})
                )]),
                "Guaranteed",
            ),
            (
                json!([c(
                    json!({"limits": {"cpu": "2", "memory": "1"}, "requests": {"cpu": "1", "memory": "1"}})
                )]),
                "Burstable",
            ),
        ] {
            assert_eq!(class(&json!({"containers": containers})), want, "{containers}");
        }
        assert_eq!(class(&json!({"containers": [c(full)], "initContainers": [{}]})), "Burstable");
    }
}
