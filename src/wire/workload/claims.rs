//! Claims of a token as protobuf has them. Pure, total.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::Map;

/// Deepest nesting kept; what lies deeper becomes null.
const MAX_DEPTH: usize = 16;

/// A JSON object as `google.protobuf.Struct`. Numbers become doubles: that is all it has.
#[must_use]
pub fn claims_struct(claims: &Map<String, serde_json::Value>) -> Struct {
    object(claims, MAX_DEPTH)
}

fn object(claims: &Map<String, serde_json::Value>, depth: usize) -> Struct {
    let field = |(name, inner): (&String, &serde_json::Value)| (name.clone(), value(inner, depth));
    Struct { fields: claims.iter().map(field).collect() }
}

fn value(json: &serde_json::Value, depth: usize) -> Value {
    let below = depth.saturating_sub(1);
    let kind = match json {
        serde_json::Value::Bool(is) => Kind::BoolValue(*is),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(list) if depth > 0 => {
            Kind::ListValue(ListValue { values: list.iter().map(|inner| value(inner, below)).collect() })
        }
        serde_json::Value::Object(fields) if depth > 0 => Kind::StructValue(object(fields, below)),
        _ => Kind::NullValue(0),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_keep_their_shapes() {
        let claims =
            json!({"sub": "spiffe://a/b", "aud": ["x"], "exp": 7, "deep": {"yes": true}, "none": null});
        let fields = claims_struct(claims.as_object().unwrap()).fields;
        let kind = |name: &str| fields[name].kind.clone().unwrap();
        assert_eq!(kind("sub"), Kind::StringValue("spiffe://a/b".into()));
        assert_eq!(kind("exp"), Kind::NumberValue(7.0));
        assert_eq!(kind("none"), Kind::NullValue(0));
        let x = Value { kind: Some(Kind::StringValue("x".into())) };
        assert_eq!(kind("aud"), Kind::ListValue(ListValue { values: vec![x] }));
        let Kind::StructValue(deep) = kind("deep") else { panic!("no struct") };
        assert_eq!(deep.fields["yes"].kind, Some(Kind::BoolValue(true)));
    }

    #[test]
    fn nesting_without_end_ends() {
        let mut claims = json!({});
        for _ in 0..100 {
            claims = json!({ "a": claims });
        }
        let mut at = claims_struct(claims.as_object().unwrap());
        let mut depth = 0;
        while let Some(Kind::StructValue(inner)) = at.fields.remove("a").and_then(|value| value.kind) {
            at = inner;
            depth += 1;
        }
        assert_eq!(depth, MAX_DEPTH);
    }
}
