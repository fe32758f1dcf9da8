//! Kubernetes' `metav1.Status` as it travels in replies and API errors.

use serde::{Deserialize, Serialize};

/// `metav1.Status`, the part that KubeEdge and kubectl read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// `Success` or `Failure`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Machine-readable word, see [`Reason`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// HTTP code; 0 when absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// What the failure is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// `StatusCause` objects, kept as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "is_zero32")]
    pub retry_after_seconds: u32,
}

/// Go's `StatusError` as JSON: `{"ErrStatus": {"metadata": {}, ...}}` (protocol section 6.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrStatus {
    #[serde(rename = "ErrStatus")]
    pub status: WireStatus,
}

/// A [`Status`] with the empty `metadata` that Go always prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireStatus {
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(flatten)]
    pub inner: Status,
}

impl From<Status> for ErrStatus {
    fn from(inner: Status) -> Self {
        Self { status: WireStatus { metadata: serde_json::Map::new(), inner } }
    }
}

/// The reasons this project acts on, with their HTTP codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    AlreadyExists,
    Conflict,
    Expired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    NotAcceptable,
    Invalid,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    Timeout,
}

impl Reason {
    /// The word in `Status.reason` and the HTTP code.
    #[must_use]
    pub fn wire(self) -> (&'static str, u16) {
        match self {
            Self::BadRequest => ("BadRequest", 400),
            Self::Unauthorized => ("Unauthorized", 401),
            Self::Forbidden => ("Forbidden", 403),
            Self::NotFound => ("NotFound", 404),
            Self::MethodNotAllowed => ("MethodNotAllowed", 405),
            Self::NotAcceptable => ("NotAcceptable", 406),
            Self::AlreadyExists => ("AlreadyExists", 409),
            Self::Conflict => ("Conflict", 409),
            Self::Expired => ("Expired", 410),
            Self::RequestEntityTooLarge => ("RequestEntityTooLarge", 413),
            Self::UnsupportedMediaType => ("UnsupportedMediaType", 415),
            Self::Invalid => ("Invalid", 422),
            Self::TooManyRequests => ("TooManyRequests", 429),
            Self::InternalError => ("InternalError", 500),
            Self::ServiceUnavailable => ("ServiceUnavailable", 503),
            Self::Timeout => ("Timeout", 504),
        }
    }
}

impl Status {
    /// A failure with the code that belongs to `reason`.
    #[must_use]
    pub fn failure(reason: Reason, message: impl Into<String>) -> Self {
        let (word, code) = reason.wire();
        Self {
            status: "Failure".to_owned(),
            message: message.into(),
            reason: word.to_owned(),
            details: None,
            code,
        }
    }

    /// Is this the failure `reason`?
    #[must_use]
    pub fn is(&self, reason: Reason) -> bool {
        self.reason == reason.wire().0
    }
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

fn is_zero32(value: &u32) -> bool {
    *value == 0
}
