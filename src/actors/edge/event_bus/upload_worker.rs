//! Sends uploads, and comes back when the cloud has read them.

use std::time::Duration;

use super::uploads::Upload;
use crate::bus::Link;
use crate::bus::edge_hub::{Class, Request, SendError, SendUpstream};
use crate::model::{Body, Envelope, ObjectKey, group, operation, source};

const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// For the question behind the uploads, and for the uploads before it on the slowest of links, bytes a second.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(30);
const SLOWEST_LINK: usize = 4 << 10;

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
        let bytes: usize = uploads.iter().map(|upload| upload.payload.len()).sum();
        let timeout =
            BARRIER_TIMEOUT + Duration::from_secs(u64::try_from(bytes / SLOWEST_LINK).unwrap_or_default());
        for upload in uploads {
            let message =
                SendUpstream { envelope: upload.envelope(), class: Class::Device, comes_again: true };
            match self.send.ask(message, SEND_DEADLINE).await {
                Ok(Ok(())) => {}
                Ok(Err(err @ (SendError::TooLarge { .. } | SendError::Unprintable(_)))) => {
                    let topic: String = upload.topic.chars().take(80).collect();
                    tracing::warn!(topic, error = %err, "an upload is given up");
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
        let request = Request { envelope: question, class: Class::Device, timeout };
        match self.request.ask(request, timeout + SEND_DEADLINE).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(err)) => Err(err.to_string()),
            Err(err) => Err(err.to_string()),
        }
    }
}
