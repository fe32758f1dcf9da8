//! Messages for the cloud (protocol section 7.7).

use serde::{Deserialize, Serialize};

use crate::model::{Body, Envelope, Resource, group, operation, source};

/// Key prefix of waiting uploads.
pub const PREFIX: &str = "upload/";

/// One message as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub topic: String,
    /// As text: the wire carries a JSON string. What is no UTF-8 is replaced, as Go does it.
    pub payload: String,
    /// Unix milliseconds.
    pub timestamp_ms: i64,
}

impl Upload {
    #[must_use]
    pub fn new(topic: &str, payload: &[u8], timestamp_ms: i64) -> Self {
        let payload = String::from_utf8_lossy(payload).into_owned();
        Self { topic: topic.to_owned(), payload, timestamp_ms }
    }

    /// The message to the cloud; the resource is the topic as it is.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        let resource = Resource::Other(self.topic.clone());
        let body = Body::Text(self.payload.clone());
        Envelope::new(source::EVENT_BUS, group::USER, operation::UPLOAD, resource, body, self.timestamp_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cloud_gets_the_raw_topic_and_the_payload_as_text() {
        let envelope = Upload::new("default/user/a b/#?", b"{\"v\": \xFF}", 5).envelope();
        let route = &envelope.route;
        assert_eq!(
            (route.source.as_str(), route.group.as_str(), route.operation.as_str()),
            ("bus", "user", "upload")
        );
        assert_eq!(route.resource.to_string(), "default/user/a b/#?");
        assert_eq!(envelope.body, Body::Text("{\"v\": \u{FFFD}}".into()));
    }
}
