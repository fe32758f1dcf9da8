//! `docs/CONFIGURATION.md`: every key of both files, from the structs (their doc comments), their
//! `Default`, and what their checks refuse.

use std::fmt::Write;

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::{cell, check};
use crate::config::{CloudCoreConfig, ConfigFile, EdgeCoreConfig};

const PAGE: &str = "docs/CONFIGURATION.md";

const HEAD: &str = "\
# Configuration

Made from the code by a test; do not edit it by hand. Write it anew with
`KUBEEDGE_REGENERATE=1 cargo test --lib app::reference`.

cloudcore reads `/etc/kubeedge/config/cloudcore.yaml`, edgecore `/etc/kubeedge/config/edgecore.yaml`, or the file
that `--config` names; `--set modules.edgeHub.heartbeat=5` changes one key. A file needs only the keys that differ
from the defaults: `--minconfig` prints such a file, `--defaultconfig` one with every key. Keys are KubeEdge's where
KubeEdge has one.

A wrong type, an unknown key or a value that is refused ends the program at its start, with one line that names the
file, the line and the key. `Refused` below gives examples of such values, each with what the program says to it.
";

/// A struct of the file, found on the way through it.
struct Section {
    path: String,
    about: String,
    rows: Vec<Row>,
}

struct Row {
    key: String,
    kind: String,
    default: String,
    unit: &'static str,
    meaning: String,
    refused: String,
}

/// The schema that a reference leads to, or itself.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
    name.and_then(|name| root.get("$defs")?.get(name)).unwrap_or(schema)
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Words an enumeration may be, each with what it means.
fn words(schema: &Value) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let mut all: Vec<(String, String)> = Vec::new();
    for one in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        let meaning = cell(text(one, "description"));
        let names = one
            .get("const")
            .into_iter()
            .chain(one.get("enum").and_then(Value::as_array).into_iter().flatten());
        all.extend(names.filter_map(word).map(|name| (name, meaning.clone())));
    }
    let plain = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    all.extend(plain.filter_map(word).map(|name| (name, String::new())));
    all
}

fn kind(schema: &Value) -> String {
    let names = words(schema);
    if !names.is_empty() {
        return names.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    }
    match text(schema, "type") {
        "string" => "text".to_owned(),
        "boolean" => "`true`, `false`".to_owned(),
        "integer" => "whole number".to_owned(),
        "object" => "map of text to text".to_owned(),
        "array" => {
            // Structs in a list are references; they have sections of their own.
            let items = schema.get("items").filter(|items| items.get("$ref").is_none());
            items.map_or_else(|| "list of sections".to_owned(), |items| format!("list of {}", kind(items)))
        }
        other => panic!("{other:?} is no type of a key: {schema}"),
    }
}

/// The unit, which is in the name or begins the meaning.
fn unit(key: &str, meaning: &str) -> &'static str {
    let begins = |word: &str| meaning.starts_with(word);
    if key.ends_with("Secs") || key.ends_with("Seconds") || begins("Seconds") {
        "seconds"
    } else if key.ends_with("Bytes") {
        "bytes"
    } else if begins("Days") {
        "days"
    } else if begins("Hours") {
        "hours"
    } else if begins("Go duration") {
        "`10s`, `5m`, .."
    } else {
        ""
    }
}

fn shown(default: &Value) -> String {
    match default {
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::Array(list) if list.is_empty() => "empty".to_owned(),
        Value::Object(map) if map.is_empty() => "empty".to_owned(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

/// Values that may be wrong, to see what the file's check says.
fn odd_values(schema: &Value) -> Vec<Value> {
    let most = |schema: &Value| match text(schema, "format") {
        "uint8" => json!(u8::MAX),
        "uint16" => json!(u16::MAX),
        "uint32" => json!(u32::MAX),
        _ => json!(u64::MAX),
    };
    match text(schema, "type") {
        "string" => vec![json!(""), json!("a b/c")],
        "boolean" => vec![json!(false), json!(true)],
        "integer" => vec![json!(0), most(schema)],
        "array" => vec![json!(["a b"]), json!([{}])],
        "object" => vec![json!({"": "a"})],
        _ => Vec::new(),
    }
}

/// What the program says to odd values of the key, the rest of the file being as shipped.
fn refused<T: ConfigFile>(path: &str, schema: &Value) -> String {
    let mut said: Vec<(String, Vec<String>)> = Vec::new();
    for odd in odd_values(schema) {
        let mut file = serde_json::to_value(T::default()).unwrap();
        let pointer = format!("/{}", path.replace('.', "/"));
        let Some(place) = file.pointer_mut(&pointer) else { continue };
        *place = odd.clone();
        let Ok(config) = serde_json::from_value::<T>(file) else { continue };
        let Err(err) = config.validate() else { continue };
        if !err.key.starts_with(path) {
            continue;
        }
        let why = err.why.split(", found ").next().unwrap_or_default();
        // What is repeated of the value says nothing new.
        let quoted = odd.as_str().map(|text| format!("{text:?} ")).unwrap_or_default();
        let why = why.strip_prefix(&quoted).unwrap_or(why).to_owned();
        match said.iter_mut().find(|(same, _)| *same == why) {
            Some((_, values)) => values.push(shown(&odd)),
            None => said.push((why, vec![shown(&odd)])),
        }
    }
    let lines = said.iter().map(|(why, values)| format!("{}: {why}", values.join(", ")));
    lines.collect::<Vec<_>>().join("<br>")
}

/// Goes through a struct; its sections come after it.
fn walk<T: ConfigFile>(root: &Value, path: &str, schema: &Value, default: &Value, all: &mut Vec<Section>) {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let index = all.len();
    all.push(Section { path: path.to_owned(), about: cell(text(schema, "description")), rows: Vec::new() });
    for (key, property) in properties {
        let own = resolve(root, property);
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let value = default.get(key).unwrap_or(&Value::Null);
        let mut meaning = cell(text(property, "description"));
        if own.get("properties").is_some() {
            walk::<T>(root, &below, own, value, all);
            continue;
        }
        for (name, what) in words(own).iter().filter(|(_, what)| !what.is_empty()) {
            write!(meaning, " `{name}`: {what}").unwrap();
        }
        assert!(!meaning.is_empty(), "{below} of {} has no doc comment", T::PROGRAM);
        let items = own.get("items").map(|items| resolve(root, items));
        let row = Row {
            key: key.clone(),
            kind: kind(own),
            default: shown(value),
            unit: unit(key, &meaning),
            meaning,
            refused: refused::<T>(&below, own),
        };
        all[index].rows.push(row);
        if let Some(items) = items.filter(|items| items.get("properties").is_some()) {
            let one = json!({});
            let filled = defaults_of(items);
            walk::<T>(root, &format!("{below}[]"), items, filled.as_ref().unwrap_or(&one), all);
        }
    }
}

/// Defaults of the fields of a struct in a list.
fn defaults_of(schema: &Value) -> Option<Value> {
    let properties = schema.get("properties")?.as_object()?;
    let default = |(key, field): (&String, &Value)| Some((key.clone(), field.get("default")?.clone()));
    Some(Value::Object(properties.iter().filter_map(default).collect()))
}

fn file<T: ConfigFile + JsonSchema>(page: &mut String) {
    let root = schemars::schema_for!(T).to_value();
    let mut sections = Vec::new();
    walk::<T>(&root, "", &root, &serde_json::to_value(T::default()).unwrap(), &mut sections);
    write!(page, "\n# {}.yaml\n", T::PROGRAM).unwrap();
    for section in sections.iter().filter(|section| !section.rows.is_empty()) {
        let Section { path, about, rows } = section;
        let title = if path.is_empty() { "Top of the file".to_owned() } else { format!("`{path}`") };
        let anchor = format!("{}-{}", T::PROGRAM, path.replace(['.', '[', ']'], "-").to_lowercase());
        write!(page, "\n<a id=\"{}\"></a>\n## {title}\n\n", anchor.trim_end_matches('-')).unwrap();
        if !about.is_empty() {
            write!(page, "{about}\n\n").unwrap();
        }
        page.push_str("| key | type | default | unit | meaning | refused |\n|---|---|---|---|---|---|\n");
        for Row { key, kind, default, unit, meaning, refused } in rows {
            writeln!(page, "| `{key}` | {kind} | {default} | {unit} | {meaning} | {} |", cell(refused))
                .unwrap();
        }
    }
    write!(
        page,
        "\n## Keys of KubeEdge that {} accepts and does not act on\n\nEach gives one warning at the start.\n\n",
        T::PROGRAM
    )
    .unwrap();
    for key in T::FOREIGN_KEYS {
        writeln!(page, "- `{key}`").unwrap();
    }
}

#[test]
fn the_page_is_what_the_code_says() {
    let mut page = HEAD.to_owned();
    file::<CloudCoreConfig>(&mut page);
    file::<EdgeCoreConfig>(&mut page);
    check(PAGE, &page);
}

/// Every key of the shipped files is on the page: nothing is lost on the way through the schema.
#[test]
fn the_page_has_every_key_of_the_shipped_files() {
    fn keys(value: &yaml_serde::Value, into: &mut Vec<String>) {
        if let yaml_serde::Value::Mapping(map) = value {
            for (key, below) in map {
                into.extend(key.as_str().map(str::to_owned));
                keys(below, into);
            }
        }
    }
    for (defaults, page) in [
        (CloudCoreConfig::DEFAULTS, {
            let mut page = String::new();
            file::<CloudCoreConfig>(&mut page);
            page
        }),
        (EdgeCoreConfig::DEFAULTS, {
            let mut page = String::new();
            file::<EdgeCoreConfig>(&mut page);
            page
        }),
    ] {
        let mut all = Vec::new();
        keys(&yaml_serde::from_str(defaults).unwrap(), &mut all);
        assert!(all.len() > 40, "{}", all.len());
        for key in all {
            let there = [format!("| `{key}` |"), format!("{key}`\n"), format!("{key}.")];
            assert!(there.iter().any(|form| page.contains(form)), "{key}");
        }
    }
}
