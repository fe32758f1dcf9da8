//! Structural schemas: what a CustomResourceDefinition says about the objects of its kind.
//!
//! The rules and the words of the errors are those of kube-apiserver 1.32 for custom resources
//! (kubernetes.io, "Extend the Kubernetes API with CustomResourceDefinitions"). A keyword that is
//! not enforced here does not parse: nothing is promised by a schema and then ignored.

mod check;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use regex_lite::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::validate::FieldError;

/// Members of every object that have rules of their own.
const ENVELOPE: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// A schema of one value and all that is below it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Schema {
    /// For readers only.
    pub description: String,
    #[serde(rename = "type")]
    kind: Option<Type>,
    format: Option<String>,
    nullable: bool,
    properties: BTreeMap<String, Schema>,
    additional_properties: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
    required: Vec<String>,
    #[serde(rename = "enum")]
    allowed: Vec<Value>,
    pattern: Option<Pattern>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    min_length: Option<usize>,
    max_length: Option<usize>,
    min_items: Option<usize>,
    max_items: Option<usize>,
    default: Option<Value>,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    preserve: bool,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: ListType,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    map_keys: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ListType {
    #[default]
    Atomic,
    /// Items are told apart by `map_keys`.
    Map,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Pattern(Regex);

impl TryFrom<String> for Pattern {
    type Error = regex_lite::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Regex::new(&text).map(Self)
    }
}

/// A schema that a cluster would not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct SchemaError {
    /// `spec.properties[].name`; empty for the root.
    pub at: String,
    pub why: &'static str,
}

impl Schema {
    /// Checks what a cluster asks of a structural schema.
    ///
    /// # Errors
    /// [`SchemaError`] naming the place.
    pub fn check_structure(&self) -> Result<(), SchemaError> {
        self.structure(&At::Root)
    }

    fn structure(&self, at: &At<'_>) -> Result<(), SchemaError> {
        let wrong = |why| Err(SchemaError { at: at.to_string(), why });
        let Some(kind) = self.kind else { return wrong("has no type") };
        let has_members = !self.properties.is_empty() || self.additional_properties.is_some();
        if kind != Type::Object && (has_members || self.preserve || !self.required.is_empty()) {
            return wrong("has properties but is no object");
        }
        if self.additional_properties.is_some() && !self.properties.is_empty() {
            return wrong("has both properties and additionalProperties");
        }
        if self.required.iter().any(|name| !self.properties.contains_key(name)) {
            return wrong("requires a property it does not know");
        }
        if (kind == Type::Array) != self.items.is_some() {
            return wrong("is an array without items, or items without an array");
        }
        if let Some(items) = &self.items {
            if (self.list_type == ListType::Map) == self.map_keys.is_empty() {
                return wrong("a list has keys exactly when its type is map");
            }
            let is_kept = |key: &String| {
                items.required.contains(key)
                    || items.properties.get(key).is_some_and(|schema| schema.default.is_some())
            };
            if !self.map_keys.iter().all(is_kept) {
                return wrong("a key of a list must be required or have a default");
            }
            items.structure(&At::Item(at, None))?;
        }
        if let Some(default) = &self.default {
            let mut errors = Vec::new();
            self.find_errors(at, default, &mut errors);
            if !errors.is_empty() {
                return wrong("has a default that it does not allow");
            }
        }
        for (name, schema) in &self.properties {
            schema.structure(&At::Member(at, name))?;
        }
        self.additional_properties.iter().try_for_each(|schema| schema.structure(&At::Member(at, "*")))
    }

    /// Removes what the schema does not know, and nulls where null is no value. Returns the paths
    /// of the unknown fields, sorted.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.prune_below(&At::Root, object, &mut unknown);
        unknown.sort();
        unknown
    }

    fn prune_below(&self, at: &At<'_>, value: &mut Value, unknown: &mut Vec<String>) {
        match value {
            Value::Object(members) => members.retain(|name, member| {
                if matches!(at, At::Root) && ENVELOPE.contains(&name.as_str()) {
                    return true;
                }
                let here = At::Member(at, name);
                let Some(schema) = self.member(name) else {
                    if !self.preserve {
                        unknown.push(here.to_string());
                    }
                    return self.preserve;
                };
                if member.is_null() && !schema.nullable {
                    return false;
                }
                schema.prune_below(&here, member, unknown);
                true
            }),
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    schema.prune_below(&At::Item(at, Some(index)), item, unknown);
                }
            }
            _ => {}
        }
    }

    fn member(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(self.additional_properties.as_deref())
    }

    /// Fills in defaults of fields that are absent.
    pub fn set_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(members) => {
                for (name, schema) in &self.properties {
                    if let Some(default) = &schema.default
                        && !members.contains_key(name)
                    {
                        members.insert(name.clone(), default.clone());
                    }
                }
                for (name, member) in members {
                    if let Some(schema) = self.member(name) {
                        schema.set_defaults(member);
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                items.iter_mut().for_each(|item| schema.set_defaults(item));
            }
            _ => {}
        }
    }

    /// What is wrong with an object, in Kubernetes' words.
    #[must_use]
    pub fn errors(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.find_errors(&At::Root, object, &mut errors);
        errors
    }
}

/// Where a walk is: `spec.properties[0].name`.
enum At<'a> {
    Root,
    Member(&'a At<'a>, &'a str),
    /// `None`: any item.
    Item(&'a At<'a>, Option<usize>),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(Self::Root, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, Some(index)) => write!(f, "{parent}[{index}]"),
            Self::Item(parent, None) => write!(f, "{parent}[]"),
        }
    }
}

/// Items of a list by the fields that tell them apart.
fn keys_of(item: &Value, keys: &[String]) -> Option<Map<String, Value>> {
    let item = item.as_object()?;
    keys.iter().map(|key| Some((key.clone(), item.get(key)?.clone()))).collect()
}
