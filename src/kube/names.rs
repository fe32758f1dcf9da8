//! Syntax of names, label keys and label values, with Kubernetes' error texts.
//!
//! Source of the rules: kubernetes.io, "Object Names and IDs" and "Labels and Selectors".

/// Longest DNS label, label value and name part of a label key.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain (most object names, prefixes of label keys).
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_TEXT: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_PARTS: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME_TEXT: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const PORT_NAME_TEXT: &str = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// `ends` at both ends, `inside` between; not empty.
fn shaped(text: &str, ends: fn(u8) -> bool, inside: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if ends(*first) && ends(*last))
        && bytes.iter().all(|byte| inside(*byte))
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn lower_dash(byte: u8) -> bool {
    lower(byte) || byte == b'-'
}

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// What is wrong with `text` as an RFC 1123 label (namespaces, containers, volumes).
#[must_use]
pub fn dns_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !shaped(text, lower, lower_dash) {
        errors.push(LABEL_TEXT.to_owned());
    }
    errors
}

/// What is wrong with `text` as one part of a path (roles and their bindings).
#[must_use]
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    let illegal = ['/', '%'].into_iter().filter(|part| text.contains(*part));
    illegal.map(|part| format!("may not contain '{part}'")).collect()
}

/// What is wrong with `text` as an RFC 1123 subdomain (most object names).
#[must_use]
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !text.split('.').all(|part| shaped(part, lower, lower_dash)) {
        errors.push(SUBDOMAIN_TEXT.to_owned());
    }
    errors
}

/// What is wrong with `text` as a label or annotation key (`example.com/name`).
#[must_use]
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, rest)) if rest.contains('/') => return vec![QUALIFIED_PARTS.to_owned()],
        Some((prefix, name)) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns_subdomain(prefix).into_iter().map(|error| format!("prefix part {error}")));
            }
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !shaped(name, alphanumeric, label_byte) {
        errors.push(QUALIFIED_TEXT.to_owned());
    }
    errors
}

/// What is wrong with `text` as the value of a label.
#[must_use]
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !text.is_empty() && !shaped(text, alphanumeric, label_byte) {
        errors.push(VALUE_TEXT.to_owned());
    }
    errors
}

/// What is wrong with `text` as a key of a configmap or secret (it becomes a file name).
#[must_use]
pub fn config_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if text.is_empty() || !text.bytes().all(label_byte) {
        errors.push(CONFIG_KEY_TEXT.to_owned());
    } else if text == "." || text == ".." {
        errors.push(format!("must not be '{text}'"));
    } else if text.starts_with("..") {
        errors.push("must not start with '..'".to_owned());
    }
    errors
}

/// What is wrong with `text` as the name of an environment variable (the relaxed rule of 1.32+).
#[must_use]
pub fn env_name(text: &str) -> Vec<String> {
    let fine = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=');
    if fine { Vec::new() } else { vec![ENV_NAME_TEXT.to_owned()] }
}

/// What is wrong with `text` as the name of a port (RFC 6335, section 5.1).
#[must_use]
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push(too_long(15));
    }
    if !text.bytes().all(lower_dash) {
        errors.push(PORT_NAME_TEXT.to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_names() {
        type Rule = fn(&str) -> Vec<String>;
        let long = "a".repeat(64);
        let longer = "a".repeat(254);
        for (rule, rule_name, good, bad) in [
            (
                dns_label as Rule,
                "label",
                vec!["a", "a-1", "0"],
                vec!["", "-a", "a-", "A", "a.b", "a_b", long.as_str()],
            ),
            (
                dns_subdomain,
                "subdomain",
                vec!["a.b", "a", long.as_str()],
                vec!["", ".", "a..b", "A", &longer, "a/b"],
            ),
            (
                qualified_name,
                "key",
                vec!["a", "a.b/C_d"],
                vec!["", "/a", "a/", "a/b/c", "-a", "é", "A/b", &long],
            ),
            (path_segment, "segment", vec!["system:a-B", "..."], vec![".", "..", "a/b", "a%b"]),
            (label_value, "value", vec!["", "a", "A.b-c_d"], vec!["-", "a b", "é", &long]),
            (config_key, "config key", vec!["a", ".a", "-"], vec!["", ".", "..", "..a", "a/b", &longer]),
            (env_name, "env", vec!["A", "1a.b", "a b"], vec!["", "a=b", "é", "a\n"]),
            (port_name, "port", vec!["http", "h-2"], vec!["", "1", "-a", "a--b", "A", "abcdefghijklmnop"]),
        ] {
            for text in good {
                assert_eq!(rule(text), Vec::<String>::new(), "{rule_name} {text:?}");
            }
            for text in bad {
                assert_ne!(rule(text), Vec::<String>::new(), "{rule_name} {text:?}");
            }
        }
    }
}
