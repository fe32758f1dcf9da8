//! Custom resources: kinds whose schema, checks and columns stand in `config/crds/`.
//!
//! The files are those a real cluster gets, so that both servers take and refuse the same.

use std::sync::LazyLock;

use serde_json::Value;

use super::body;
use super::errors::ApiError;
use super::kinds::Kind;
use crate::kube::crd::{Crd, CrdError};
use crate::kube::schema::{self, Report};
use crate::kube::validate::{self, FieldError};

/// A definition, read once.
type Definition = LazyLock<Result<Crd, CrdError>>;

static DEVICE: Definition = LazyLock::new(|| Crd::parse(include_str!("../../config/crds/devices.yaml")));
static DEVICE_MODEL: Definition =
    LazyLock::new(|| Crd::parse(include_str!("../../config/crds/devicemodels.yaml")));
static DEVICE_STATUS: Definition =
    LazyLock::new(|| Crd::parse(include_str!("../../config/crds/devicestatuses.yaml")));
static WORKLOAD_IDENTITY: Definition =
    LazyLock::new(|| Crd::parse(include_str!("../../config/crds/workloadidentities.yaml")));
static IMAGE_POLICY: Definition =
    LazyLock::new(|| Crd::parse(include_str!("../../config/crds/imagepolicies.yaml")));
static TOPIC_POLICY: Definition =
    LazyLock::new(|| Crd::parse(include_str!("../../config/crds/topicpolicies.yaml")));

fn definition(kind: &str) -> Option<&'static Definition> {
    match kind {
        "Device" => Some(&DEVICE),
        "DeviceModel" => Some(&DEVICE_MODEL),
        "DeviceStatus" => Some(&DEVICE_STATUS),
        "WorkloadIdentity" => Some(&WORKLOAD_IDENTITY),
        "ImagePolicy" => Some(&IMAGE_POLICY),
        "TopicPolicy" => Some(&TOPIC_POLICY),
        _ => None,
    }
}

/// The definition of a kind; `None` if it is built in.
///
/// # Errors
/// 500 when the definition in the program is broken.
pub fn of(kind: &Kind) -> Result<Option<&'static Crd>, ApiError> {
    let Some(definition) = definition(kind.kind) else { return Ok(None) };
    match &**definition {
        Ok(crd) => Ok(Some(crd)),
        Err(err) => Err(ApiError::internal(format!("the definition of {}: {err}", kind.kind))),
    }
}

fn known(kind: &str) -> Option<&'static Crd> {
    definition(kind).and_then(|definition| definition.as_ref().ok())
}

/// Removes nulls and unknown fields, and reports them. Wrong types below `metadata` are reported
/// too; those elsewhere are found by [`create`] and [`update`], as in kube-apiserver.
pub fn tidy(crd: &Crd, object: &mut Value) -> Report {
    let mut report = Report::default();
    if let Some(metadata) = object.get_mut("metadata").filter(|metadata| !metadata.is_null()) {
        body::strip_nulls(metadata);
        report = schema::check_metadata(metadata);
    }
    for path in report.unknown_fields.iter().rev() {
        body::prune(object, path);
    }
    report.unknown_fields.extend(crd.schema.prune(object));
    report.unknown_fields.sort();
    report
}

/// Fills in the defaults of the schema.
pub fn set_defaults(kind: &str, object: &mut Value) {
    if let Some(crd) = known(kind) {
        crd.schema.set_defaults(object);
    }
}

/// What is wrong with a new object.
#[must_use]
pub fn create(kind: &str, object: &Value) -> Vec<FieldError> {
    with_schema(kind, object, validate::create(kind, object))
}

/// What is wrong with a changed object.
#[must_use]
pub fn update(kind: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    with_schema(kind, new, validate::update(kind, old, new))
}

fn with_schema(kind: &str, object: &Value, mut errors: Vec<FieldError>) -> Vec<FieldError> {
    if let Some(crd) = known(kind) {
        errors.extend(crd.schema.errors(object));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::kinds::{KINDS, Sub};
    use crate::model::identity::IDENTITY_GROUP;

    fn is_custom(kind: &Kind) -> bool {
        ["devices.kubeedge.io", IDENTITY_GROUP].contains(&kind.group)
    }

    /// The table of kinds and the files must say the same.
    #[test]
    fn the_definitions_are_those_of_the_table() {
        let customs: Vec<&Kind> = KINDS.iter().filter(|kind| is_custom(kind)).collect();
        assert_eq!(customs.len(), 6);
        for kind in customs {
            let crd = of(kind).unwrap().unwrap();
            assert_eq!(
                (&*crd.group, &*crd.version, &*crd.names.kind, &*crd.names.plural, &*crd.names.singular),
                (kind.group, kind.version, kind.kind, kind.plural, kind.singular)
            );
            assert_eq!(crd.names.list_kind, format!("{}List", kind.kind));
            assert_eq!(crd.names.short_names, kind.short_names, "{}", kind.kind);
            assert_eq!(crd.names.categories, kind.categories, "{}", kind.kind);
            assert_eq!((crd.namespaced, crd.has_status), (kind.namespaced, kind.has(Sub::Status)));
            let fields: Vec<&str> = kind.fields.iter().map(|field| field.label).collect();
            assert_eq!(crd.selectable, fields, "{}", kind.kind);
        }
    }

    /// By the types of Kubernetes' own client: no field that a cluster does not know.
    #[test]
    fn a_cluster_can_read_the_definitions() {
        use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/crds");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 6, "every file is served: {files:?}");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let mut unknown = Vec::new();
            let read: CustomResourceDefinition =
                serde_ignored::deserialize(yaml_serde::Deserializer::from_str(&text), |path| {
                    unknown.push(path.to_string());
                })
                .unwrap();
            assert_eq!(unknown, Vec::<String>::new(), "{}", file.display());
            let name = format!("{}.yaml", read.spec.names.plural);
            assert!(file.ends_with(&name), "{} holds {name}", file.display());
            for version in &read.spec.versions {
                let root = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
                assert!(root.properties.as_ref().unwrap().contains_key("metadata"));
            }
        }
    }

    #[test]
    fn built_in_kinds_have_none() {
        for kind in KINDS.iter().filter(|kind| !is_custom(kind)) {
            assert!(of(kind).unwrap().is_none(), "{}", kind.kind);
        }
    }
}
