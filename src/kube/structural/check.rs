//! What is wrong with a value: the checks of one node of a schema.

use std::collections::BTreeSet;
use std::fmt::Display;

use serde_json::{Map, Value};

use super::{At, FieldError, ListType, Schema, Type, keys_of};

impl Schema {
    pub(super) fn find_errors(&self, at: &At<'_>, value: &Value, errors: &mut Vec<FieldError>) {
        if value.is_null() && self.nullable {
            return;
        }
        if let Some((expected, got)) = self.wrong_type(value) {
            let said = format!("must be of type {expected}: {got:?}");
            add(errors, "FieldValueTypeInvalid", at, format!("Invalid value: {got:?}: {at} in body {said}"));
        } else {
            match value {
                Value::Object(members) => self.check_members(at, members, errors),
                Value::Array(items) => self.check_items(at, items, errors),
                Value::String(text) => self.check_text(at, text, errors),
                Value::Number(_) => self.check_number(at, value, errors),
                _ => {}
            }
        }
        if !self.allowed.is_empty() && !self.allowed.contains(value) {
            let allowed: Vec<String> = self.allowed.iter().map(Value::to_string).collect();
            let message = format!("Unsupported value: {value}: supported values: {}", allowed.join(", "));
            add(errors, "FieldValueNotSupported", at, message);
        }
    }

    /// The type that is wanted and the one that is there. With a format, kube-apiserver names the
    /// format instead of the type for everything but texts and lists.
    fn wrong_type(&self, value: &Value) -> Option<(&str, &'static str)> {
        let is_whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
        let (wanted, fits) = match self.kind? {
            Type::Object => ("object", value.is_object()),
            Type::Array => ("array", value.is_array()),
            Type::String => ("string", value.is_string()),
            Type::Integer => ("integer", value.is_i64() || value.is_u64() || is_whole),
            Type::Number => ("number", value.is_number()),
            Type::Boolean => ("boolean", value.is_boolean()),
        };
        if fits {
            return None;
        }
        Some(match (&self.format, value) {
            (None, _) | (_, Value::Null | Value::String(_) | Value::Array(_)) => (wanted, type_of(value)),
            (Some(format), Value::Number(number)) => {
                (format, if number.is_f64() { "double" } else { "int64" })
            }
            (Some(format), _) => (format, ""),
        })
    }

    fn check_members(&self, at: &At<'_>, members: &Map<String, Value>, errors: &mut Vec<FieldError>) {
        for (name, member) in members {
            if let Some(schema) = self.member(name) {
                schema.find_errors(&At::Member(at, name), member, errors);
            }
        }
        for name in self.required.iter().filter(|name| !members.contains_key(*name)) {
            add(errors, "FieldValueRequired", &At::Member(at, name), "Required value".to_owned());
        }
    }

    fn check_items(&self, at: &At<'_>, items: &[Value], errors: &mut Vec<FieldError>) {
        if let Some(most) = self.max_items
            && items.len() > most
        {
            let message = format!("Too many: {}: must have at most {most} items", items.len());
            add(errors, "FieldValueTooMany", at, message);
        }
        if let Some(least) = self.min_items
            && items.len() < least
        {
            invalid(errors, at, items.len(), format!("should have at least {least} items"));
        }
        if let Some(schema) = &self.items {
            for (index, item) in items.iter().enumerate() {
                schema.find_errors(&At::Item(at, Some(index)), item, errors);
            }
        }
        if self.list_type == ListType::Map {
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let Some(key) = keys_of(item, &self.map_keys).map(|key| go_map(&key)) else { continue };
                if seen.contains(&key) {
                    let message = format!("Duplicate value: {key}");
                    add(errors, "FieldValueDuplicate", &At::Item(at, Some(index)), message);
                }
                seen.insert(key);
            }
        }
    }

    fn check_text(&self, at: &At<'_>, text: &str, errors: &mut Vec<FieldError>) {
        let length = text.chars().count();
        if let Some(most) = self.max_length
            && length > most
        {
            add(errors, "FieldValueTooLong", at, format!("Too long: may not be more than {most} bytes"));
        }
        if let Some(least) = self.min_length
            && length < least
        {
            invalid(errors, at, format!("{text:?}"), format!("should be at least {least} chars long"));
        }
        if let Some(pattern) = &self.pattern
            && !pattern.0.is_match(text)
        {
            invalid(errors, at, format!("{text:?}"), format!("should match '{}'", pattern.0));
        }
    }

    fn check_number(&self, at: &At<'_>, value: &Value, errors: &mut Vec<FieldError>) {
        let Some(number) = value.as_f64() else { return };
        if let Some(least) = self.minimum
            && number < least
        {
            invalid(errors, at, value, format!("should be greater than or equal to {least}"));
        }
        if let Some(most) = self.maximum
            && number > most
        {
            invalid(errors, at, value, format!("should be less than or equal to {most}"));
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A map as Go prints it, which is how kube-apiserver names a duplicate.
fn go_map(map: &Map<String, Value>) -> String {
    let members: Vec<String> = map.iter().map(|(key, value)| format!("{key:?}:{value}")).collect();
    format!("map[string]interface {{}}{{{}}}", members.join(", "))
}

fn invalid(errors: &mut Vec<FieldError>, at: &At<'_>, value: impl Display, why: String) {
    add(errors, "FieldValueInvalid", at, format!("Invalid value: {value}: {at} in body {why}"));
}

fn add(errors: &mut Vec<FieldError>, reason: &'static str, at: &At<'_>, message: String) {
    errors.push(FieldError { reason, field: at.to_string(), message });
}
