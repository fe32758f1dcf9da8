//! CustomResourceDefinitions: names, schema and printer columns of a kind, read from its file.

mod path;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::structural::Schema;
use super::table::human;
use path::JsonPath;

/// Longest text of a cell that joins several values, characters.
const MAX_JOINED: usize = 64;

/// The served version of a CustomResourceDefinition.
#[derive(Debug, Clone)]
pub struct Crd {
    pub group: String,
    pub version: String,
    pub names: Names,
    pub namespaced: bool,
    /// Fields that selectors may name, such as `spec.nodeName`.
    pub selectable: Vec<String>,
    /// `status` has a subresource of its own.
    pub has_status: bool,
    /// What `kubectl get` prints after the name.
    pub columns: Vec<PrinterColumn>,
    pub schema: Schema,
}

/// `spec.names`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Names {
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    #[serde(default)]
    pub short_names: Vec<String>,
    #[serde(default)]
    pub categories: Vec<String>,
}

/// One of `additionalPrinterColumns`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PrinterColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: CellType,
    #[serde(default)]
    pub format: String,
    #[serde(default)]
    pub description: String,
    /// 0 always, more only with `-o wide`.
    #[serde(default)]
    pub priority: u8,
    json_path: JsonPath,
}

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CellType {
    String,
    Integer,
    Number,
    Boolean,
    Date,
}

impl CellType {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Date => "date",
        }
    }
}

/// Why a CustomResourceDefinition cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct CrdError {
    /// The place in the file; empty for the whole.
    pub at: String,
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    metadata: FileMetadata,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMetadata {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Spec {
    group: String,
    scope: Scope,
    names: Names,
    versions: Vec<Version>,
}

#[derive(PartialEq, Deserialize)]
enum Scope {
    Namespaced,
    Cluster,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Version {
    name: String,
    served: bool,
    storage: bool,
    #[serde(default)]
    selectable_fields: Vec<Selectable>,
    #[serde(default)]
    subresources: Subresources,
    #[serde(default)]
    additional_printer_columns: Vec<PrinterColumn>,
    schema: Schemas,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selectable {
    json_path: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Subresources {
    status: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Schemas {
    #[serde(rename = "openAPIV3Schema")]
    open_api: Schema,
}

impl Crd {
    /// Reads the YAML of a CustomResourceDefinition of `apiextensions.k8s.io/v1`.
    ///
    /// # Errors
    /// [`CrdError`] naming the place, also for whatever a cluster could but we cannot serve.
    pub fn parse(text: &str) -> Result<Self, CrdError> {
        let file: File = serde_path_to_error::deserialize(yaml_serde::Deserializer::from_str(text))
            .map_err(|err| CrdError { at: err.path().to_string(), why: err.inner().to_string() })?;
        let wrong = |at: &str, why: &str| CrdError { at: at.to_owned(), why: why.to_owned() };
        let (spec, names) = (file.spec, "metadata.name");
        if file.api_version != "apiextensions.k8s.io/v1" || file.kind != "CustomResourceDefinition" {
            return Err(wrong("kind", "is no CustomResourceDefinition of apiextensions.k8s.io/v1"));
        }
        if file.metadata.name != format!("{}.{}", spec.names.plural, spec.group) {
            return Err(wrong(names, "is not the plural and the group"));
        }
        let mut served = spec.versions.into_iter().filter(|version| version.served);
        let (Some(version), None) = (served.next(), served.next()) else {
            return Err(wrong("spec.versions", "one version must be served"));
        };
        if !version.storage {
            return Err(wrong("spec.versions", "the served version is not the stored one"));
        }
        let schema = version.schema.open_api;
        schema.check_structure().map_err(|err| CrdError { at: err.at, why: err.why.to_owned() })?;
        let plain = |field: Selectable| field.json_path.trim_start_matches('.').to_owned();
        let mut columns = version.additional_printer_columns;
        if columns.is_empty() {
            columns.push(PrinterColumn::age());
        }
        Ok(Self {
            group: spec.group,
            version: version.name,
            names: spec.names,
            namespaced: spec.scope == Scope::Namespaced,
            selectable: version.selectable_fields.into_iter().map(plain).collect(),
            has_status: version.subresources.status.is_some(),
            columns,
            schema,
        })
    }

    /// The cells of one object: its name, then one for each column.
    #[must_use]
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = object.pointer("/metadata/name").cloned().unwrap_or_default();
        std::iter::once(name).chain(self.columns.iter().map(|column| column.cell(object, now))).collect()
    }
}

impl PrinterColumn {
    fn age() -> Self {
        Self {
            name: "Age".into(),
            kind: CellType::Date,
            format: String::new(),
            description: "Time since the object was created.".into(),
            priority: 0,
            json_path: JsonPath::creation(),
        }
    }

    /// A path that goes through all items of a list shows them all, a dash for those without a
    /// value, so that two such columns can be read side by side. (kube-apiserver shows the first.)
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.json_path.find(object);
        if self.json_path.is_many() {
            let texts: Vec<String> = found.into_iter().map(joined).collect();
            return if texts.is_empty() { Value::Null } else { cut(&texts.join(" ")).into() };
        }
        let Some(value) = found.into_iter().flatten().next() else { return Value::Null };
        match self.kind {
            CellType::String => text(value).into(),
            CellType::Integer if value.is_i64() || value.is_u64() => value.clone(),
            CellType::Number if value.is_number() => value.clone(),
            CellType::Boolean if value.is_boolean() => value.clone(),
            CellType::Date => date(value, now),
            CellType::Integer | CellType::Number | CellType::Boolean => Value::Null,
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn joined(value: Option<&Value>) -> String {
    let found = value.map(text).filter(|text| !text.is_empty());
    found.unwrap_or_else(|| "-".to_owned())
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_JOINED) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// How long ago.
fn date(value: &Value, now: Timestamp) -> Value {
    let Some(text) = value.as_str() else { return Value::Null };
    if text.is_empty() {
        return "<unknown>".into();
    }
    match text.parse::<Timestamp>() {
        Ok(then) => human(now.duration_since(then)).into(),
        Err(_) => "<invalid>".into(),
    }
}
