//! What a request is refused with: `metav1.Status` bodies with Kubernetes' own words.

use serde_json::{Value, json};

use super::kinds::Kind;
use crate::kube::validate::FieldError;
use crate::model::{Reason, Status, StatusDetails};

/// A refusal. The status is what the client reads; kubectl prints its `message`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", status.message)]
pub struct ApiError {
    pub status: Box<Status>,
}

impl ApiError {
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: Box::new(Status::failure(reason, message)) }
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::InternalError, message)
    }

    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// No such path. The details are empty but there: kubectl debug reads them without looking.
    #[must_use]
    pub fn no_route() -> Self {
        let mut err = Self::new(Reason::NotFound, "the server could not find the requested resource");
        err.status.details = Some(StatusDetails::default());
        err
    }

    /// No such subresource. Those that users of kubectl look for first say where to look instead.
    #[must_use]
    pub fn no_subresource(kind: &Kind, subresource: &str) -> Self {
        let instead = match (kind.plural, subresource) {
            ("pods", "log") => "the log is on the pod's node, below /var/log/pods (podLogsDir)",
            ("pods", "exec" | "attach" | "portforward") => "use the container runtime on the pod's node",
            _ => return Self::no_route(),
        };
        let mut err = Self::no_route();
        err.status.message = format!("{}/{subresource} is not served yet: {instead}", kind.plural);
        err
    }

    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
    }

    #[must_use]
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::about(kind, name, Reason::NotFound, format!("{} \"{name}\" not found", kind.qualified()))
    }

    #[must_use]
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified());
        Self::about(kind, name, Reason::AlreadyExists, message)
    }

    /// `why` follows "Operation cannot be fulfilled on ...".
    #[must_use]
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified());
        Self::about(kind, name, Reason::Conflict, message)
    }

    /// The optimistic lock was lost.
    #[must_use]
    pub fn stale(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    #[must_use]
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified());
        Self::about(kind, name, Reason::Forbidden, message)
    }

    /// Fields that are wrong, each one named.
    #[must_use]
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let mut lines: Vec<String> =
            errors.iter().map(|err| format!("{}: {}", err.field, err.message)).collect();
        lines.dedup();
        let list = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let shown = match kind.group {
            "" => kind.kind.to_owned(),
            group => format!("{}.{group}", kind.kind),
        };
        let mut err =
            Self::about(kind, name, Reason::Invalid, format!("{shown} \"{name}\" is invalid: {list}"));
        if let Some(details) = &mut err.status.details {
            kind.kind.clone_into(&mut details.kind);
        }
        err.causes(
            errors
                .iter()
                .map(|err| json!({"reason": err.reason, "message": err.message, "field": err.field})),
        )
    }

    /// One wrong field.
    #[must_use]
    pub fn invalid_field(kind: &Kind, name: &str, field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let reason = match message.split(':').next() {
            Some("Required value") => "FieldValueRequired",
            Some("Forbidden") => "FieldValueForbidden",
            Some("Unsupported value") => "FieldValueNotSupported",
            _ => "FieldValueInvalid",
        };
        Self::invalid(kind, name, &[FieldError { reason, field: field.to_owned(), message }])
    }

    /// The history does not reach back to what was asked.
    #[must_use]
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(Reason::Expired, format!("too old resource version: {asked} ({oldest})"))
    }

    /// The client knows more than this server ever acknowledged.
    #[must_use]
    pub fn too_new(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut err = Self::new(Reason::Timeout, message);
        err.status.details = Some(StatusDetails { retry_after_seconds: 1, ..StatusDetails::default() });
        err.causes([json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"})])
    }

    #[must_use]
    pub fn unsupported_media(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::new(Reason::UnsupportedMediaType, message)
    }

    #[must_use]
    pub fn busy(message: impl Into<String>) -> Self {
        let mut err = Self::new(Reason::TooManyRequests, message);
        err.status.details = Some(StatusDetails { retry_after_seconds: 1, ..StatusDetails::default() });
        err
    }

    /// Adds `StatusCause` objects.
    #[must_use]
    pub fn causes(mut self, causes: impl IntoIterator<Item = Value>) -> Self {
        self.status.details.get_or_insert_default().causes.extend(causes);
        self
    }

    fn about(kind: &Kind, name: &str, reason: Reason, message: String) -> Self {
        let mut err = Self::new(reason, message);
        err.status.details = Some(StatusDetails {
            name: name.to_owned(),
            group: kind.group.to_owned(),
            kind: kind.plural.to_owned(),
            ..StatusDetails::default()
        });
        err
    }

    /// The body clients read.
    #[must_use]
    pub fn body(&self) -> Value {
        status_body(&self.status)
    }

    #[must_use]
    pub fn code(&self) -> u16 {
        self.status.code
    }
}

/// A `Status` with `kind`, `apiVersion` and the empty `metadata` that Go prints.
#[must_use]
pub fn status_body(status: &Status) -> Value {
    let mut body = serde_json::to_value(status).unwrap_or_else(|_| json!({}));
    if let Some(map) = body.as_object_mut() {
        map.insert("kind".into(), json!("Status"));
        map.insert("apiVersion".into(), json!("v1"));
        map.insert("metadata".into(), json!({}));
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::kinds;

    #[test]
    fn words_are_kubernetes_words() {
        let pods = kinds::find("", "v1", "pods").unwrap();
        let leases = kinds::find("coordination.k8s.io", "v1", "leases").unwrap();
        for (err, code, message) in [
            (ApiError::not_found(pods, "a"), 404, "pods \"a\" not found"),
            (ApiError::not_found(leases, "a"), 404, "leases.coordination.k8s.io \"a\" not found"),
            (ApiError::already_exists(pods, "a"), 409, "pods \"a\" already exists"),
            (
                ApiError::invalid_field(pods, "a", "spec.x", "Required value: say something"),
                422,
                "Pod \"a\" is invalid: spec.x: Required value: say something",
            ),
            (ApiError::expired(3, 9), 410, "too old resource version: 3 (9)"),
        ] {
            assert_eq!((err.code(), err.to_string().as_str()), (code, message));
        }
    }

    #[test]
    fn causes_name_the_field() {
        let pods = kinds::find("", "v1", "pods").unwrap();
        let body = ApiError::invalid_field(pods, "a", "spec.x", "Invalid value: 3").body();
        assert_eq!(body["details"]["causes"][0]["field"], "spec.x");
        assert_eq!(body["details"]["causes"][0]["reason"], "FieldValueInvalid");
        assert_eq!(body["details"]["kind"], "Pod");
        assert_eq!(body["kind"], "Status");
    }
}
