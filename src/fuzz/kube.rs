//! Kubernetes: objects of every kind, patches, schemas, selectors, quantities, roles.

use jiff::Timestamp;
use serde_json::Value;

use super::{cut, json, parts, text as utf8};
use crate::apiserver::{body, custom, kinds};
use crate::config::parse_go_duration;
use crate::kube::crd::Crd;
use crate::kube::quantity::Quantity;
use crate::kube::rbac::{Access, Ask, ResourceAsk, Rule, Subjects, missing, rules_of};
use crate::kube::selector::{FieldSelector, LabelSelector};
use crate::kube::{
    defaults, names, patch as patches, protobuf as wire, references, schema, table, validate, yaml,
};

/// 2027-01-15T08:00:00Z.
pub fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time")
}

/// An object of any kind: what its kind's checks let through, everything that reads objects takes.
pub fn object(bytes: &[u8]) {
    let Some(mut object) = json(bytes) else { return };
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    drop(schema::check(&api_version, &kind, &object));
    let Some(known) = kinds::KINDS.iter().find(|known| known.kind == kind) else { return };
    if body::check_kind(known, &object).is_err() {
        return;
    }
    if body::check_fields(known, &mut object, crate::apiserver::query::FieldValidation::Strict).is_err() {
        return;
    }
    defaults::apply(&kind, &mut object);
    custom::set_defaults(&kind, &mut object);
    let mut again = object.clone();
    defaults::apply(&kind, &mut again);
    custom::set_defaults(&kind, &mut again);
    assert_eq!(again, object, "defaults are set once");
    let errors = custom::create(&kind, &object);
    drop(table::cells(&kind, &object, now()));
    known.field_values(&object);
    super::cloud::shown(&object);
    if errors.is_empty() {
        let changes = custom::update(&kind, &object, &object);
        assert!(changes.is_empty(), "an object that is good stays good as it is: {changes:?}");
        drop((references::of_pod(&object), references::of_service_account(&object)));
        super::edge::object(&kind, &object);
    }
}

/// A body of `application/vnd.kubernetes.protobuf`.
pub fn protobuf(bytes: &[u8]) {
    for body in [bytes.to_vec(), [b"k8s\0".as_slice(), bytes].concat()] {
        if let Ok(object) = wire::decode(&body) {
            object_of(&object);
        }
    }
}

fn object_of(value: &Value) {
    object(value.to_string().as_bytes());
}

/// Kind, object and patch, each after a zero byte.
pub fn patch(bytes: &[u8]) {
    let all: Vec<&[u8]> = parts(bytes, 3).collect();
    let [kind, target, patch] = all.as_slice() else { return };
    let (Some(kind), Some(target), Some(patch)) = (utf8(kind), json(target), json(patch)) else { return };
    let mut merged = target.clone();
    patches::merge(&mut merged, &patch);
    let once = merged.clone();
    patches::merge(&mut merged, &patch);
    assert_eq!(merged, once, "a merge patch has no effect twice");
    if let Ok(changed) = patches::json(&target, &patch) {
        assert!(changed.to_string().len() <= 64 << 20);
    }
    drop(patches::strategic(kind, &target, &patch));
    if let Ok(same) = patches::strategic(kind, &target, &Value::Object(serde_json::Map::new())) {
        assert!(!target.is_object() || same == target, "an empty patch changes nothing");
    }
}

/// A CustomResourceDefinition, a zero byte, an object of its kind.
pub fn crd(bytes: &[u8]) {
    let (definition, object) = cut(bytes, b"\0");
    let Some(crd) = utf8(definition).and_then(|text| Crd::parse(text).ok()) else { return };
    let Some(mut object) = json(object) else { return };
    crd.schema.prune(&mut object);
    assert!(crd.schema.prune(&mut object.clone()).is_empty(), "what is unknown goes at once");
    crd.schema.set_defaults(&mut object);
    let mut again = object.clone();
    crd.schema.set_defaults(&mut again);
    assert_eq!(again, object);
    drop(crd.schema.errors(&object));
    let cells = crd.cells(&object, now());
    assert_eq!(cells.len(), crd.columns.len() + 1);
}

/// Texts inside objects and requests: quantities, durations, names, selectors, YAML.
pub fn text(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    if let Ok(quantity) = Quantity::parse(text) {
        assert!(quantity.milli.unsigned_abs() <= (i64::MAX as u128) * 1000);
    }
    drop(parse_go_duration(text));
    for (check, most) in [
        (names::dns_label as fn(&str) -> Vec<String>, names::LABEL_MAX),
        (names::dns_subdomain, names::SUBDOMAIN_MAX),
        (names::label_value, names::LABEL_MAX),
        (names::config_key, names::SUBDOMAIN_MAX),
        (names::path_segment, usize::MAX),
        (names::qualified_name, usize::MAX),
        (names::env_name, usize::MAX),
        (names::port_name, 15),
    ] {
        if check(text).is_empty() {
            assert!(text.len() <= most, "{text:?}");
        }
    }
    if names::path_segment(text).is_empty() {
        assert!(text != ".." && text != "." && !text.contains('/'));
    }
    let labels = serde_json::json!({"a": "b", "app": "web", "n": "5", "": ""});
    if let Ok(selector) = LabelSelector::parse(text) {
        selector.matches(Some(&labels));
        assert!(!selector.is_empty() || selector.matches(None));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches(|field| field.to_owned());
        let fields: Vec<String> = selector.fields().map(str::to_owned).collect();
        fields.iter().for_each(|field| drop(selector.exact(field)));
    }
    let flow = yaml::flow(text);
    assert!(flow.opened <= text.len() && flow.deepest <= flow.opened);
    if flow.deepest < 100 {
        yaml::documents(text, 1 << 20).take(100).for_each(drop);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        drop(table::human(now().duration_since(at)));
    }
}

/// Roles and bindings, each after a zero byte; then asked.
pub fn rbac(bytes: &[u8]) {
    let mut access = Access::default();
    let objects: Vec<Value> = parts(bytes, 12).filter_map(json).collect();
    let at = |object: &Value, pointer: &str| {
        object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    for object in &objects {
        access.put(&at(object, "/kind"), object);
    }
    let groups = ["system:authenticated".to_owned(), "dev".to_owned()];
    let who = Subjects { user: "jane", groups: &groups };
    for (verb, resource, subresource) in
        [("get", "pods", ""), ("create", "pods", "eviction"), ("*", "*", "*")]
    {
        let ask = Ask::Resource(ResourceAsk {
            verb,
            group: "",
            resource,
            subresource,
            namespace: "default",
            name: "web",
        });
        let held: Vec<&Rule> = access.rules_for(who, "default").collect();
        assert_eq!(access.allows(who, &ask), held.iter().any(|rule| rule.allows(&ask)));
    }
    for object in &objects {
        let rules = rules_of(object);
        let held: Vec<&Rule> = rules.iter().collect();
        assert!(missing(&held, &rules).is_empty(), "whoever has a rule may give it");
    }
    for object in &objects {
        access.remove(
            &at(object, "/kind"),
            &at(object, "/metadata/namespace"),
            &at(object, "/metadata/name"),
        );
    }
    assert!(access.rules_for(who, "default").next().is_none(), "nothing is left of what went");
    drop(validate::create("Role", &Value::Null));
}
