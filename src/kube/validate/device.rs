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
