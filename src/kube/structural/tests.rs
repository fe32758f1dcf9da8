use proptest::prelude::*;
use serde_json::json;

use super::*;

const SCHEMA: &str = "
type: object
properties:
  apiVersion: {type: string}
  kind: {type: string}
  metadata: {type: object}
  spec:
    type: object
    required: [mode]
    properties:
      mode: {type: string, enum: [fast, slow], default: slow}
      node: {type: string, pattern: '^[a-z]*$', minLength: 2, maxLength: 4}
      port: {type: integer, minimum: 0, maximum: 65535}
      cycle: {type: integer, format: int64}
      ratio: {type: number}
      on: {type: boolean}
      note: {type: string, nullable: true}
      labels: {type: object, additionalProperties: {type: string}}
      free: {type: object, x-kubernetes-preserve-unknown-fields: true}
      empty: {type: object}
      names: {type: array, minItems: 1, maxItems: 2, items: {type: string}}
      list:
        type: array
        x-kubernetes-list-type: map
        x-kubernetes-list-map-keys: [name]
        items:
          type: object
          required: [name]
          properties:
            name: {type: string}
            unit: {type: string, default: C}
";

fn read(text: &str) -> Result<Schema, String> {
    let schema: Schema = yaml_serde::from_str(text).map_err(|err| err.to_string())?;
    schema.check_structure().map_err(|err| err.to_string())?;
    Ok(schema)
}

fn schema() -> Schema {
    read(SCHEMA).unwrap()
}

/// `field: message` of everything wrong with a spec, and the reasons.
fn wrong(spec: Value) -> (Vec<String>, Vec<&'static str>) {
    let errors = schema().errors(&json!({"spec": spec}));
    errors.into_iter().map(|err| (format!("{}: {}", err.field, err.message), err.reason)).unzip()
}

/// As kube-openapi's validation in kube-apiserver 1.32 says it.
#[test]
fn errors_are_in_kubernetes_words() {
    for (spec, message, reason) in [
        (json!({}), "spec.mode: Required value", "FieldValueRequired"),
        (
            json!({"mode": "odd"}),
            "spec.mode: Unsupported value: \"odd\": supported values: \"fast\", \"slow\"",
            "FieldValueNotSupported",
        ),
        (
            json!({"mode": "fast", "node": "AB"}),
            "spec.node: Invalid value: \"AB\": spec.node in body should match '^[a-z]*$'",
            "FieldValueInvalid",
        ),
        (
            json!({"mode": "fast", "node": "a"}),
            "spec.node: Invalid value: \"a\": spec.node in body should be at least 2 chars long",
            "FieldValueInvalid",
        ),
        (
            json!({"mode": "fast", "node": "abcde"}),
            "spec.node: Too long: may not be more than 4 bytes",
            "FieldValueTooLong",
        ),
        (
            json!({"mode": "fast", "port": -1}),
            "spec.port: Invalid value: -1: spec.port in body should be greater than or equal to 0",
            "FieldValueInvalid",
        ),
        (
            json!({"mode": "fast", "port": 70000}),
            "spec.port: Invalid value: 70000: spec.port in body should be less than or equal to 65535",
            "FieldValueInvalid",
        ),
        (
            json!({"mode": "fast", "port": "1"}),
            "spec.port: Invalid value: \"string\": spec.port in body must be of type integer: \"string\"",
            "FieldValueTypeInvalid",
        ),
        (
            json!({"mode": "fast", "port": 1.5}),
            "spec.port: Invalid value: \"number\": spec.port in body must be of type integer: \"number\"",
            "FieldValueTypeInvalid",
        ),
        (
            json!({"mode": "fast", "cycle": "1s"}),
            "spec.cycle: Invalid value: \"string\": spec.cycle in body must be of type integer: \"string\"",
            "FieldValueTypeInvalid",
        ),
        (
            json!({"mode": "fast", "cycle": 1.5}),
            "spec.cycle: Invalid value: \"double\": spec.cycle in body must be of type int64: \"double\"",
            "FieldValueTypeInvalid",
        ),
        (
            json!({"mode": "fast", "on": "true"}),
            "spec.on: Invalid value: \"string\": spec.on in body must be of type boolean: \"string\"",
            "FieldValueTypeInvalid",
        ),
        (
            json!({"mode": "fast", "free": []}),
            "spec.free: Invalid value: \"array\": spec.free in body must be of type object: \"array\"",
            "FieldValueTypeInvalid",
        ),
        (
            json!({"mode": "fast", "labels": {"a": 1}}),
            "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
            "FieldValueTypeInvalid",
        ),
        (
            json!({"mode": "fast", "names": []}),
            "spec.names: Invalid value: 0: spec.names in body should have at least 1 items",
            "FieldValueInvalid",
        ),
        (
            json!({"mode": "fast", "names": ["a", "b", "c"]}),
            "spec.names: Too many: 3: must have at most 2 items",
            "FieldValueTooMany",
        ),
        (
            json!({"mode": "fast", "names": ["a", null]}),
            "spec.names[1]: Invalid value: \"null\": spec.names[1] in body must be of type string: \"null\"",
            "FieldValueTypeInvalid",
        ),
        (
            json!({"mode": "fast", "list": [{"name": "a"}, {"unit": "b"}]}),
            "spec.list[1].name: Required value",
            "FieldValueRequired",
        ),
        (
            json!({"mode": "fast", "list": [{"name": "a"}, {"name": "b"}, {"name": "a", "unit": "F"}]}),
            "spec.list[2]: Duplicate value: map[string]interface {}{\"name\":\"a\"}",
            "FieldValueDuplicate",
        ),
    ] {
        assert_eq!(wrong(spec.clone()), (vec![message.to_owned()], vec![reason]), "{spec}");
    }
    assert_eq!(
        wrong(json!("x")).0,
        ["spec: Invalid value: \"string\": spec in body must be of type object: \"string\""]
    );
}

#[test]
fn a_wrong_type_of_an_enum_is_named_twice_as_in_kubernetes() {
    assert_eq!(
        wrong(json!({"mode": 3})).0,
        [
            "spec.mode: Invalid value: \"integer\": spec.mode in body must be of type string: \"integer\"",
            "spec.mode: Unsupported value: 3: supported values: \"fast\", \"slow\"",
        ]
    );
}

#[test]
fn good_values_are_fine() {
    for spec in [
        json!({"mode": "fast", "node": "edge", "port": 65535, "cycle": 1000.0, "ratio": 3, "on": false}),
        json!({"mode": "slow", "ratio": 0.5, "note": null, "free": {"a": [1, {"b": null}]}, "empty": {}}),
        json!({"mode": "slow", "names": ["a"], "list": [{"name": "a"}, {"name": "b"}], "labels": {}}),
    ] {
        assert_eq!(wrong(spec.clone()).0, Vec::<String>::new(), "{spec}");
    }
    assert!(schema().errors(&json!({"metadata": {"anything": 1}})).is_empty(), "metadata has its own rules");
}

#[test]
fn what_is_unknown_goes_and_is_named() {
    let mut object = json!({
        "apiVersion": "v1", "kind": "K", "metadata": {"name": "n", "x": 1}, "statsu": {},
        "spec": {
            "mode": "fast", "zeal": 1, "mode.of": 2, "empty": {"not": 1}, "free": {"any": {"thing": null}},
            "labels": {"a": "b"}, "list": [{"name": "a"}, {"name": "b", "unti": "C"}],
        },
    });
    let unknown = schema().prune(&mut object);
    let want = ["spec.empty.not", "spec.list[1].unti", "spec.mode.of", "spec.zeal", "statsu"];
    assert_eq!(unknown, want);
    let want = json!({
        "apiVersion": "v1", "kind": "K", "metadata": {"name": "n", "x": 1},
        "spec": {
            "mode": "fast", "empty": {}, "free": {"any": {"thing": null}},
            "labels": {"a": "b"}, "list": [{"name": "a"}, {"name": "b"}],
        },
    });
    assert_eq!(object, want);
}

#[test]
fn null_is_absent_unless_it_is_a_value() {
    let mut object =
        json!({"spec": {"mode": null, "note": null, "labels": {"a": null}, "free": {"a": null}}});
    assert_eq!(schema().prune(&mut object), Vec::<String>::new());
    assert_eq!(object, json!({"spec": {"note": null, "labels": {}, "free": {"a": null}}}));
    schema().set_defaults(&mut object);
    assert_eq!(object["spec"]["mode"], "slow");
}

#[test]
fn defaults_reach_into_lists() {
    let mut object = json!({"spec": {"list": [{"name": "a"}, {"name": "b", "unit": "F"}]}});
    schema().set_defaults(&mut object);
    let want = json!({"mode": "slow", "list": [{"name": "a", "unit": "C"}, {"name": "b", "unit": "F"}]});
    assert_eq!(object["spec"], want);
    let mut bare = json!({});
    schema().set_defaults(&mut bare);
    assert_eq!(bare, json!({}), "a default below an absent object makes no object");
}

#[test]
fn what_a_cluster_would_not_take_is_refused() {
    for (text, want) in [
        ("properties: {}", "has no type"),
        ("{type: object, properties: {a: {}}}", "a: has no type"),
        ("{type: string, properties: {a: {type: string}}}", "has properties but is no object"),
        ("{type: object, properties: {l: {type: array}}}", "l: is an array without items"),
        ("{type: object, required: [a]}", "requires a property it does not know"),
        ("{type: object, properties: {a: {type: integer, default: x}}}", "a: has a default"),
        (
            "{type: object, properties: {a: {type: string}}, additionalProperties: {type: string}}",
            "has both properties and additionalProperties",
        ),
        (
            "{type: array, x-kubernetes-list-type: map, items: {type: object}}",
            "keys exactly when its type is map",
        ),
        (
            "{type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [n], items: {type: object, properties: {n: {type: string}}}}",
            "a key of a list must be required",
        ),
        ("{type: array, items: {type: array}}", "[]: is an array without items"),
        ("{type: object, oneOf: []}", "unknown field `oneOf`"),
        ("{type: integer, minimun: 1}", "unknown field `minimun`"),
        ("{type: string, pattern: '('}", "open group"),
        ("{type: text}", "unknown variant `text`"),
    ] {
        let err = read(text).expect_err(text);
        assert!(err.contains(want), "{text}: {err}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("spec"),
        Just("mode"),
        Just("list"),
        Just("name"),
        Just("free"),
        Just("labels"),
        Just("note"),
        Just("port"),
        Just("names"),
        Just("metadata"),
        Just("odd.one"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..5)
                .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    /// Whatever comes, tidying ends, and what is tidy stays as it is.
    #[test]
    fn tidying_twice_is_tidying_once(mut object in any_json()) {
        let schema = schema();
        schema.prune(&mut object);
        schema.set_defaults(&mut object);
        let once = object.clone();
        prop_assert_eq!(schema.prune(&mut object), Vec::<String>::new());
        schema.set_defaults(&mut object);
        prop_assert_eq!(&object, &once);
        prop_assert!(schema.errors(&object).iter().all(|err| !err.message.is_empty()));
    }
}
