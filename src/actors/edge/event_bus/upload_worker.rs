//! Sends uploads, and comes back when the cloud has read them.

use std::time::Duration;

use super::uploads::Upload;
use crate::bus::Link;
use crate::bus::edge_hub::{Class, Request, SendError, SendUpstream};
use crate::model::{Body, Envelope, ObjectKey, group, operation, source};

const SEND_DEADLINE: Duration = Duration::from_secs(5);
const BARRIER_TIMEOUT: Duration = Duration::from_secs(30);

/// The way to the cloud.
#[derive(Clone)]
pub struct Cloud {
    pub send: Link<SendUpstream>,
    pub request: Link<Request>,
    pub node: String,
}

impl Cloud {
    /// Sends in order, then asks something small: frames are read in order, so its answer proves
    /// that they arrived. One that is too large for the cloud is left out: it would never go.
    ///
    /// # Errors
    /// Why they have to go again.
    pub async fn upload(&self, uploads: Vec<Upload>) -> Result<(), String> {
        for upload in uploads {
            let message = SendUpstream { envelope: upload.envelope(), class: Class::Device };
            match self.send.ask(message, SEND_DEADLINE).await {
                Ok(Ok(())) => {}
                Ok(Err(err @ (SendError::TooLarge { .. } | SendError::Unprintable(_)))) => {
                    tracing::warn!(topic = %upload.topic, error = %err, "an upload is given up");
                }
                Ok(Err(err)) => return Err(err.to_string()),
                Err(err) => return Err(err.to_string()),
            }
        }
        let lease = ObjectKey::namespaced("kube-node-lease", "lease", &self.node);
        let question = Envelope::new(
            source::EDGED,
            group::META,
            operation::QUERY,
            lease.into(),
            Body::Null,
            super::now_unix_ms(),
        );
        let request = Request { envelope: question, class: Class::Device, timeout: BARRIER_TIMEOUT };
        match self.request.ask(request, BARRIER_TIMEOUT + SEND_DEADLINE).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(err)) => Err(err.to_string()),
            Err(err) => Err(err.to_string()),
        }
    }
}
