//! From the texts of a folder to objects of the API. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::identity::sha256_hex;
use crate::kube::yaml;

/// Annotation that holds the [`Manifest::digest`] an object was last made or changed from.
pub const DIGEST: &str = "kubeedge.io/manifest-digest";

/// Most bytes of a file's documents once aliases are followed.
const MAX_GROWN: usize = 4 << 20;
/// Deepest nesting of brackets; objects have a dozen.
const MAX_NESTED: usize = 500;

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub name: String,
    pub text: String,
}

/// Names an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub api_version: String,
    pub kind: String,
    /// Empty when the document names none.
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// One document.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub key: Key,
    /// Of the document: what tells a change.
    pub digest: String,
    /// With the annotation [`DIGEST`].
    pub object: Value,
}

/// What a folder says.
#[derive(Debug, Default, PartialEq)]
pub struct Wanted {
    /// What others need comes first, else in the order of files and documents.
    pub manifests: Vec<Manifest>,
    /// `file: what is wrong`.
    pub wrong: Vec<String>,
}

/// Reads files, which come sorted by name. Of two documents about one object the later counts.
#[must_use]
pub fn read(files: &[File]) -> Wanted {
    let mut wanted = Wanted::default();
    let mut places: BTreeMap<Key, usize> = BTreeMap::new();
    for file in files {
        let documents = match documents(&file.text) {
            Ok(documents) => documents,
            Err(why) => {
                wanted.wrong.push(format!("{}: {why}", file.name));
                continue;
            }
        };
        for (number, document) in documents.into_iter().enumerate() {
            match manifest(document) {
                Err(why) => wanted.wrong.push(format!("{}: document {}: {why}", file.name, number + 1)),
                Ok(manifest) => {
                    match places.get(&manifest.key).and_then(|at| wanted.manifests.get_mut(*at)) {
                        Some(earlier) => *earlier = manifest,
                        None => {
                            places.insert(manifest.key.clone(), wanted.manifests.len());
                            wanted.manifests.push(manifest);
                        }
                    }
                }
            }
        }
    }
    wanted.manifests.sort_by_key(|manifest| rank(&manifest.key.kind));
    wanted
}

/// The documents of one file, lists taken apart. One that cannot be read makes the file unreadable:
/// half a file is nothing to act on.
fn documents(text: &str) -> Result<Vec<Value>, String> {
    if yaml::flow(text).deepest > MAX_NESTED {
        return Err(format!("more than {MAX_NESTED} brackets stand in each other"));
    }
    let mut all = Vec::new();
    for document in yaml::documents(text, MAX_GROWN) {
        match document? {
            Value::Null => {}
            Value::Object(mut list) if list.get("kind").and_then(Value::as_str) == Some("List") => {
                match list.remove("items") {
                    Some(Value::Array(items)) => all.extend(items),
                    _ => return Err("List: items is no list".to_owned()),
                }
            }
            value => all.push(value),
        }
    }
    Ok(all)
}

fn manifest(mut object: Value) -> Result<Manifest, String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let key = Key {
        api_version: text("/apiVersion"),
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
    };
    for (field, value) in
        [("apiVersion", &key.api_version), ("kind", &key.kind), ("metadata.name", &key.name)]
    {
        if value.is_empty() {
            return Err(format!("{field} is missing"));
        }
    }
    // Keys of a serde_json map are sorted: the same document has the same text.
    let digest = sha256_hex(object.to_string().as_bytes());
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or("metadata is missing")?;
    match metadata.entry("annotations").or_insert_with(|| json!({})) {
        Value::Object(annotations) => {
            annotations.insert(DIGEST.to_owned(), Value::String(digest.clone()));
        }
        missing @ Value::Null => *missing = json!({ DIGEST: digest }),
        _ => return Err("metadata.annotations is no map".to_owned()),
    }
    Ok(Manifest { key, digest, object })
}

/// Others are in the first, or are of a kind it defines, or name it.
fn rank(kind: &str) -> u8 {
    match kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" | "Secret" | "ConfigMap" | "DeviceModel" | "ClusterRole" | "Role" => 2,
        _ => 3,
    }
}
