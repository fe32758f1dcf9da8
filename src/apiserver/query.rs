//! Query parameters, Accept and Content-Type.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use super::errors::ApiError;
use super::kinds::Kind;
use super::paths;
use crate::kube::selector::{FieldSelector, LabelSelector};
use crate::model::Reason;

/// How unknown fields of a body are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// Every parameter this server understands.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub watch: bool,
    pub resource_version: Option<u64>,
    pub version_match: Option<VersionMatch>,
    pub bookmarks: bool,
    pub send_initial_events: bool,
    pub timeout_secs: Option<u64>,
    pub limit: Option<usize>,
    pub continue_token: Option<String>,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub dry_run: bool,
    pub validation: FieldValidation,
    pub grace_period_secs: Option<i64>,
    pub propagation: Option<String>,
    pub include_object: Option<String>,
}

impl Query {
    /// Parses `a=b&c=d`.
    ///
    /// # Errors
    /// 400 naming the parameter.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = (|| Some((form_decode(key)?, form_decode(value)?)))();
            let Some((key, value)) = decoded else {
                return Err(ApiError::bad_request(format!(
                    "query parameter {key:?} is not UTF-8 when decoded"
                )));
            };
            query.set(&key, value)?;
        }
        if query.send_initial_events && !query.watch {
            return Err(ApiError::bad_request("sendInitialEvents is forbidden for list"));
        }
        if query.version_match.is_some() && query.resource_version.is_none() && !query.send_initial_events {
            return Err(ApiError::bad_request(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        Ok(query)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), ApiError> {
        let bad = |what: &str| ApiError::bad_request(format!("query parameter {key}={value:?}: {what}"));
        match key {
            "watch" => self.watch = truthy(&value),
            "allowWatchBookmarks" => self.bookmarks = truthy(&value),
            "sendInitialEvents" => self.send_initial_events = truthy(&value),
            "resourceVersion" if value.is_empty() => {}
            "resourceVersion" => {
                let version = value.parse().map_err(|_| bad("not a resource version"))?;
                self.resource_version = Some(version);
            }
            "resourceVersionMatch" => {
                self.version_match = match value.as_str() {
                    "" => None,
                    "Exact" => Some(VersionMatch::Exact),
                    "NotOlderThan" => Some(VersionMatch::NotOlderThan),
                    _ => return Err(bad("supported values: \"Exact\", \"NotOlderThan\"")),
                }
            }
            "timeoutSeconds" => self.timeout_secs = Some(value.parse().map_err(|_| bad("not a number"))?),
            "limit" => {
                let limit: usize = value.parse().map_err(|_| bad("not a number"))?;
                self.limit = (limit > 0).then_some(limit);
            }
            "continue" => self.continue_token = (!value.is_empty()).then_some(value),
            "labelSelector" => {
                self.labels = LabelSelector::parse(&value)
                    .map_err(|why| ApiError::bad_request(format!("unable to parse requirement: {why}")))?;
            }
            "fieldSelector" => {
                self.fields = FieldSelector::parse(&value).map_err(ApiError::bad_request)?;
            }
            "dryRun" => {
                self.dry_run = match value.as_str() {
                    "All" => true,
                    "" => false,
                    _ => return Err(bad("supported values: \"All\"")),
                }
            }
            "fieldValidation" => {
                self.validation = match value.as_str() {
                    "Strict" => FieldValidation::Strict,
                    "Warn" | "" => FieldValidation::Warn,
                    "Ignore" => FieldValidation::Ignore,
                    _ => return Err(bad("supported values: \"Ignore\", \"Strict\", \"Warn\"")),
                }
            }
            "gracePeriodSeconds" => {
                self.grace_period_secs = Some(value.parse().map_err(|_| bad("not a number"))?);
            }
            "propagationPolicy" => self.propagation = Some(value),
            "includeObject" => self.include_object = Some(value),
            // fieldManager, pretty, timeout, force and whatever comes: nothing depends on them.
            _ => {}
        }
        Ok(())
    }

    /// Refuses field selectors the kind cannot answer.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn check_fields(&self, kind: &Kind) -> Result<(), ApiError> {
        for name in self.fields.fields() {
            let known = name == "metadata.name"
                || name == "metadata.namespace"
                || kind.fields.iter().any(|field| field.label == name);
            if !known {
                return Err(ApiError::bad_request(format!(
                    "field label not supported: {name} (kind {})",
                    kind.kind
                )));
            }
        }
        Ok(())
    }
}

fn truthy(value: &str) -> bool {
    !matches!(value, "false" | "0")
}

fn form_decode(text: &str) -> Option<String> {
    paths::decode(&text.replace('+', " "))
}

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Object,
    Table,
    /// `PartialObjectMetadata` or its list.
    Partial,
}

/// The encoding of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
}

/// What the client wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub shape: Shape,
    pub encoding: Encoding,
}

/// Picks the first of the Accept list that this server can write. Clients that list protobuf
/// first get the JSON they list after it.
///
/// # Errors
/// 406 when nothing fits.
pub fn wanted(headers: &HeaderMap) -> Result<Wanted, ApiError> {
    let Some(accept) = headers.get(ACCEPT).and_then(|value| value.to_str().ok()) else {
        return Ok(Wanted { shape: Shape::Object, encoding: Encoding::Json });
    };
    for item in accept.split(',') {
        let mut params = item.split(';').map(str::trim);
        let encoding = match params.next() {
            Some("application/json" | "*/*" | "application/*" | "") => Encoding::Json,
            Some("application/yaml") => Encoding::Yaml,
            _ => continue,
        };
        let (mut shape, mut version, mut group) = (Shape::Object, "v1", "meta.k8s.io");
        let mut known = true;
        for param in params {
            match param.split_once('=') {
                Some(("as", "Table")) => shape = Shape::Table,
                Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) => shape = Shape::Partial,
                Some(("as", _)) => known = false,
                Some(("v", value)) => version = value,
                Some(("g", value)) => group = value,
                _ => {}
            }
        }
        if known && (shape == Shape::Object || (version == "v1" && group == "meta.k8s.io")) {
            return Ok(Wanted { shape, encoding });
        }
    }
    Err(ApiError::new(
        Reason::NotAcceptable,
        "only the following media types are accepted: application/json, application/yaml",
    ))
}

/// Does the client read aggregated discovery `v2`? Older spellings get the legacy documents:
/// kubectl 1.27 finds no resources in a v2 answer.
#[must_use]
pub fn wants_aggregated_discovery(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|item| {
        let has = |param: &str| item.split(';').any(|part| part.trim() == param);
        has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList")
    })
}

/// Does the client read `/openapi/v2` as protobuf? Nothing else is written there.
#[must_use]
pub fn wants_openapi_v2(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("com.github.proto-openapi.spec.v2")
}

/// `Content-Type` without parameters; JSON when there is none.
#[must_use]
pub fn content_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text.split(';').next().map(str::trim) {
        None | Some("") => "application/json",
        Some(kind) => kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn accept(text: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(text));
        headers
    }

    #[test]
    fn accept_is_negotiated() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (text, shape, encoding) in [
            (table, Shape::Table, Encoding::Json),
            ("application/vnd.kubernetes.protobuf,application/json", Shape::Object, Encoding::Json),
            ("application/json, */*", Shape::Object, Encoding::Json),
            ("application/yaml", Shape::Object, Encoding::Yaml),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Shape::Partial,
                Encoding::Json,
            ),
            ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", Shape::Object, Encoding::Json),
        ] {
            assert_eq!(wanted(&accept(text)).unwrap(), Wanted { shape, encoding }, "{text}");
        }
        assert_eq!(wanted(&accept("text/html")).unwrap_err().code(), 406);
    }

    #[test]
    fn only_v2_gets_aggregated_discovery() {
        for (text, want) in [
            ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", true),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
                false,
            ),
            ("application/json, */*", false),
        ] {
            assert_eq!(wants_aggregated_discovery(&accept(text)), want, "{text}");
        }
    }

    #[test]
    fn parameters() {
        let query =
            Query::parse("watch=true&resourceVersion=7&timeoutSeconds=3&allowWatchBookmarks=1").unwrap();
        assert!(query.watch && query.bookmarks);
        assert_eq!((query.resource_version, query.timeout_secs), (Some(7), Some(3)));
        for bad in ["resourceVersion=x", "limit=-1", "fieldValidation=Maybe", "dryRun=Some", "a=%ff"] {
            assert_eq!(Query::parse(bad).unwrap_err().code(), 400, "{bad}");
        }
    }
}
