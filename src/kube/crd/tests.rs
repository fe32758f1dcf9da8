use serde_json::json;

use super::*;

const LAMP: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lamps.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Lamp, listKind: LampList, plural: lamps, singular: lamp, shortNames: [la]}
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .spec.room}]
    additionalPrinterColumns:
    - {name: Room, type: string, jsonPath: .spec.room}
    - {name: Seen, type: date, jsonPath: .status.seen}
    - {name: Watts, type: integer, jsonPath: .spec.watts}
    - {name: Ratio, type: number, jsonPath: .spec.ratio}
    - {name: 'On', type: boolean, jsonPath: .spec.on}
    - {name: First, type: string, jsonPath: '.spec.bulbs[0].name', priority: 1}
    - {name: Bulbs, type: string, jsonPath: '.spec.bulbs[*].name'}
    - {name: Colours, type: string, jsonPath: '.spec.bulbs[*].colour.value'}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

fn cells(object: Value) -> Vec<Value> {
    Crd::parse(LAMP).unwrap().cells(&object, "2026-11-22T20:00:00Z".parse().unwrap())
}

#[test]
fn columns_show_what_their_paths_lead_to() {
    let lamp = json!({
        "metadata": {"name": "l"},
        "spec": {
            "room": "hall", "watts": 7, "ratio": 0.5, "on": true,
            "bulbs": [
                {"name": "a", "colour": {"value": "red"}}, {"name": "b"}, {"name": "", "colour": {"value": 3}},
            ],
        },
        "status": {"seen": "2026-11-22T19:59:15Z"},
    });
    let want = json!(["l", "hall", "45s", 7, 0.5, true, "a", "a b -", "red - 3"]);
    assert_eq!(Value::Array(cells(lamp)), want);
}

#[test]
fn what_is_not_there_is_blank() {
    let want = json!(["l", null, null, null, null, null, null, null, null]);
    assert_eq!(Value::Array(cells(json!({"metadata": {"name": "l"}}))), want);
    let odd = json!({
        "metadata": {"name": "l"}, "status": {"seen": "noon"},
        "spec": {"room": "", "watts": "7", "on": "yes", "bulbs": []},
    });
    let want = json!(["l", "", "<invalid>", null, null, null, null, null, null]);
    assert_eq!(Value::Array(cells(odd)), want);
    assert_eq!(cells(json!({"status": {"seen": ""}}))[2], "<unknown>");
}

#[test]
fn many_values_do_not_break_the_table() {
    let bulbs: Vec<Value> = (0..100).map(|index| json!({"name": format!("bülb-{index}")})).collect();
    let cell = cells(json!({"spec": {"bulbs": bulbs}}))[7].clone();
    let text = cell.as_str().unwrap();
    assert!(text.starts_with("bülb-0 bülb-1 ") && text.ends_with("..."), "{text}");
    assert_eq!(text.chars().count(), MAX_JOINED + 3);
}

#[test]
fn a_kind_without_columns_shows_its_age() {
    let start = LAMP.find("    additionalPrinterColumns").unwrap();
    let end = LAMP.find("    schema:").unwrap();
    let bare = format!("{}{}", &LAMP[..start], &LAMP[end..]);
    let crd = Crd::parse(&bare).unwrap();
    let object = json!({"metadata": {"name": "l", "creationTimestamp": "2026-11-22T19:58:00Z"}});
    let cells = crd.cells(&object, "2026-11-22T20:00:00Z".parse().unwrap());
    assert_eq!((crd.columns[0].name.as_str(), Value::Array(cells)), ("Age", json!(["l", "2m"])));
}

#[test]
fn what_stands_in_the_file_is_read() {
    let crd = Crd::parse(LAMP).unwrap();
    assert_eq!((crd.group.as_str(), crd.version.as_str(), crd.namespaced), ("example.com", "v1", true));
    assert_eq!((crd.names.kind.as_str(), crd.names.short_names), ("Lamp", vec!["la".to_owned()]));
    assert_eq!((crd.selectable, crd.has_status), (vec!["spec.room".to_owned()], false));
    let with_status = LAMP.replace("    schema:", "    subresources: {status: {}}\n    schema:");
    assert!(Crd::parse(&with_status).unwrap().has_status);
}

#[test]
fn what_cannot_be_served_is_refused_with_its_place() {
    for (from, to, want) in [
        ("apiextensions.k8s.io/v1\n", "apiextensions.k8s.io/v1beta1\n", "is no CustomResourceDefinition"),
        ("name: lamps.example.com", "name: lamp.example.com", "metadata.name: is not the plural"),
        ("served: true", "served: false", "one version must be served"),
        ("storage: true", "storage: false", "is not the stored one"),
        ("scope: Namespaced", "scope: Everywhere", "spec.scope: "),
        ("plural: lamps, ", "", "missing field `plural`"),
        ("jsonPath: .spec.watts", "jsonPath: spec.watts", "is no path of names"),
        ("jsonPath: .spec.watts", "jsonPath: '.spec.bulbs[?(@.a==1)]'", "is no path of names"),
        ("type: date", "type: time", "unknown variant `time`"),
        ("x-kubernetes-preserve-unknown-fields: true", "x-kubernetes-int-or-string: true", "unknown field"),
        ("spec: {type: object,", "spec: {", "spec: has no type"),
    ] {
        assert!(LAMP.contains(from), "{from}");
        let err = Crd::parse(&LAMP.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(err.contains(want), "{to}: {err}");
    }
    assert!(Crd::parse("a: [").is_err() && Crd::parse("").is_err());
}
