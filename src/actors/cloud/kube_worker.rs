//! How controllers call the API server: each call with a deadline, core kinds without a table of
//! plurals, events as `kubectl describe` shows them.

use std::time::Duration;

use ::kube::Client;
use ::kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PostParams};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kube::time::whole_second;

/// For one call, answer included.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("no answer within {DEADLINE:?}")]
    Late,
    #[error(transparent)]
    Api(#[from] ::kube::Error),
}

impl CallError {
    /// The HTTP status the API server answered with.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(::kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

/// # Errors
/// [`CallError`].
pub async fn in_time<T>(call: impl Future<Output = Result<T, ::kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallError::Late),
    }
}

/// A kind of version `v1` whose plural follows from the singular.
pub fn resource(group: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind))
}

/// What `kubectl describe` shows below an object.
pub struct Told<'a> {
    /// Reference to the object: `kind`, `name`, `uid` and, where it has one, `namespace`.
    pub about: Value,
    /// Component that speaks.
    pub component: &'a str,
    /// `Normal` or `Warning`.
    pub kind: &'a str,
    pub reason: &'a str,
    pub message: &'a str,
}

/// Writes an event. Losing one loses nothing else, so a failure is only logged.
pub async fn tell(client: &Client, told: Told<'_>) {
    let text = |key: &str| told.about.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = text("name");
    let namespace = Some(text("namespace")).filter(|it| !it.is_empty()).unwrap_or("default");
    let now = Timestamp::now();
    let at = whole_second(now).to_string();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
        "involvedObject": told.about,
        "type": told.kind, "reason": told.reason, "message": told.message, "count": 1,
        "firstTimestamp": at, "lastTimestamp": at,
        "source": {"component": told.component},
        "reportingComponent": told.component, "reportingInstance": "",
    });
    let Ok(event) = serde_json::from_value::<DynamicObject>(event) else { return };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource("", "Event"));
    if let Err(error) = in_time(api.create(&PostParams::default(), &event)).await {
        tracing::warn!(namespace, name, reason = told.reason, %error, "event not written");
    }
}
