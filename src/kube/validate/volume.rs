//! Volumes of a pod.

use std::collections::HashSet;

use serde_json::Value;

use super::{Errors, list, names, present, text};

/// `0777`, the widest file mode.
const MODE_MAX: i64 = 0o777;
const HOST_PATH_TYPES: [&str; 7] =
    ["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// The names of the volumes, for the mounts.
pub fn check<'v>(errors: &mut Errors, spec: &'v Value) -> HashSet<&'v str> {
    let mut seen: HashSet<&str> = HashSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let field = format!("spec.volumes[{index}]");
        let name = text(volume, "name");
        if name.is_empty() {
            errors.required(format!("{field}.name"), "");
        } else if !seen.insert(name) {
            errors.duplicate(format!("{field}.name"), name);
        } else {
            errors.invalid_text(&format!("{field}.name"), name, names::dns_label(name));
        }
        source(errors, &field, volume);
    }
    seen
}

fn source(errors: &mut Errors, field: &str, volume: &Value) {
    let sources = volume.as_object().into_iter().flatten();
    let mut sources = sources.filter(|(name, value)| name.as_str() != "name" && !value.is_null());
    let Some((kind, source)) = sources.next() else {
        errors.required(field, "must specify a volume type");
        return;
    };
    for (other, _) in sources {
        errors.forbidden(format!("{field}.{other}"), "may not specify more than 1 volume type");
    }
    let field = format!("{field}.{kind}");
    mode(errors, format!("{field}.defaultMode"), source.get("defaultMode"));
    match kind.as_str() {
        "hostPath" => {
            let path = text(source, "path");
            if path.is_empty() {
                errors.required(format!("{field}.path"), "");
            } else if path.split('/').any(|part| part == "..") {
                errors.invalid(format!("{field}.path"), &path.into(), "must not contain '..'");
            }
            errors.one_of(format!("{field}.type"), text(source, "type"), &HOST_PATH_TYPES);
        }
        "secret" => named(errors, &field, source, "secretName"),
        "configMap" => named(errors, &field, source, "name"),
        "downwardAPI" => downward(errors, &field, source),
        "projected" => {
            for (index, part) in list(source, "sources").iter().enumerate() {
                projected(errors, &format!("{field}.sources[{index}]"), part);
            }
        }
        "persistentVolumeClaim" if text(source, "claimName").is_empty() => {
            errors.required(format!("{field}.claimName"), "");
        }
        _ => {}
    }
}

fn named(errors: &mut Errors, field: &str, source: &Value, name: &str) {
    if text(source, name).is_empty() {
        errors.required(format!("{field}.{name}"), "");
    }
    items(errors, field, source);
}

fn items(errors: &mut Errors, field: &str, source: &Value) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let field = format!("{field}.items[{index}]");
        if text(item, "key").is_empty() {
            errors.required(format!("{field}.key"), "");
        }
        file(errors, &field, item);
    }
}

fn downward(errors: &mut Errors, field: &str, source: &Value) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let field = format!("{field}.items[{index}]");
        file(errors, &field, item);
        if present(item, "fieldRef").is_none() && present(item, "resourceFieldRef").is_none() {
            errors.required(field, "one of fieldRef and resourceFieldRef is required");
        }
    }
}

fn projected(errors: &mut Errors, field: &str, source: &Value) {
    for (kind, part) in source.as_object().into_iter().flatten() {
        let field = format!("{field}.{kind}");
        match kind.as_str() {
            "secret" | "configMap" => named(errors, &field, part, "name"),
            "downwardAPI" => downward(errors, &field, part),
            "serviceAccountToken" => {
                file(errors, &field, part);
                // Ten minutes is the shortest Kubernetes issues.
                if let Some(secs) =
                    part.get("expirationSeconds").and_then(Value::as_i64).filter(|secs| *secs < 600)
                {
                    let detail = "may not specify a duration less than 10 minutes";
                    errors.invalid(format!("{field}.expirationSeconds"), &secs.into(), detail);
                }
            }
            _ => {}
        }
    }
}

/// A file inside a volume: its path stays below the mount.
fn file(errors: &mut Errors, field: &str, item: &Value) {
    let path = text(item, "path");
    if path.is_empty() {
        errors.required(format!("{field}.path"), "");
    }
    relative(errors, format!("{field}.path"), path);
    mode(errors, format!("{field}.mode"), item.get("mode"));
}

/// `path` must not leave the folder it is put in.
pub fn relative(errors: &mut Errors, field: String, path: &str) {
    if path.starts_with('/') {
        errors.invalid(field.clone(), &path.into(), "must be a relative path");
    }
    if path.split('/').any(|part| part == "..") {
        errors.invalid(field, &path.into(), "must not contain '..'");
    }
}

fn mode(errors: &mut Errors, field: String, mode: Option<&Value>) {
    let Some(mode) = mode.and_then(Value::as_i64) else { return };
    if !(0..=MODE_MAX).contains(&mode) {
        errors.invalid(field, &mode.into(), "must be a number between 0 and 0777 (octal), both inclusive");
    }
}
