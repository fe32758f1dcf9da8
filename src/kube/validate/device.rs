//! Device models: what their schema cannot say.

use serde_json::Value;

use super::{Errors, list, text};

/// The bounds of numeric properties must be numbers of their type, the minimum at most the
/// maximum. KubeEdge takes anything and its mappers stumble over it later. Empty bounds and bounds
/// of other types say nothing and are left alone, as KubeEdge's own models have them.
pub fn model(errors: &mut Errors, object: &Value) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    for (index, property) in list(spec, "properties").iter().enumerate() {
        let at = format!("spec.properties[{index}]");
        let kind = text(property, "type");
        let minimum = bound(errors, &at, "minimum", kind, property);
        let maximum = bound(errors, &at, "maximum", kind, property);
        if let (Some(minimum), Some(maximum)) = (minimum, maximum)
            && minimum > maximum
        {
            let detail = format!("must be less than or equal to maximum, which is {maximum}");
            let field = format!("{at}.minimum");
            errors.invalid(field, property.get("minimum").unwrap_or(&Value::Null), &detail);
        }
    }
}

/// A bound as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Bound {
    Whole(i64),
    Real(f64),
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Real(number) => number.fmt(f),
        }
    }
}

fn bound(errors: &mut Errors, at: &str, field: &str, kind: &str, property: &Value) -> Option<Bound> {
    let given = text(property, field);
    if given.is_empty() {
        return None;
    }
    let (found, wanted) = match kind {
        "INT" => (given.parse().ok().map(Bound::Whole), "an integer"),
        "FLOAT" | "DOUBLE" => {
            (given.parse().ok().filter(|number: &f64| number.is_finite()).map(Bound::Real), "a number")
        }
        _ => return None,
    };
    if found.is_none() {
        let detail = format!("must be {wanted}, because the type of the property is {kind}");
        errors.invalid(format!("{at}.{field}"), &Value::from(given), &detail);
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::create;

    #[test]
    fn bounds_are_numbers_of_their_type() {
        for (kind, minimum, maximum, want) in [
            ("INT", "-5", "100", None),
            ("INT", "", "100", None),
            ("INT", "7", "7", None),
            ("INT", "-9223372036854775808", "9223372036854775807", None),
            ("FLOAT", "-0.5", "1e3", None),
            ("DOUBLE", "0", "0.1", None),
            // Bounds of other types say nothing: KubeEdge takes them, and so do we.
            ("STRING", "a", "b", None),
            ("BOOLEAN", "9", "1", None),
            ("", "x", "y", None),
            (
                "INT",
                "0",
                "warm",
                Some(
                    "maximum: Invalid value: \"warm\": must be an integer, because the type of the property is INT",
                ),
            ),
            (
                "INT",
                "0.5",
                "",
                Some(
                    "minimum: Invalid value: \"0.5\": must be an integer, because the type of the property is INT",
                ),
            ),
            (
                "DOUBLE",
                "NaN",
                "1",
                Some(
                    "minimum: Invalid value: \"NaN\": must be a number, because the type of the property is DOUBLE",
                ),
            ),
            (
                "FLOAT",
                "1.5",
                "1.25",
                Some("minimum: Invalid value: \"1.5\": must be less than or equal to maximum, which is 1.25"),
            ),
        ] {
            let mut property = json!({"name": "p", "type": kind});
            for (field, bound) in [("minimum", minimum), ("maximum", maximum)] {
                if !bound.is_empty() {
                    property[field] = bound.into();
                }
            }
            let model = json!({
                "metadata": {"name": "m", "namespace": "default"},
                "spec": {"properties": [{"name": "first"}, property]},
            });
            let errors: Vec<String> = create("DeviceModel", &model)
                .iter()
                .map(|err| format!("{}: {}", err.field, err.message))
                .collect();
            let want: Vec<String> =
                want.into_iter().map(|want| format!("spec.properties[1].{want}")).collect();
            assert_eq!(errors, want, "{kind} {minimum} {maximum}");
        }
    }
}
