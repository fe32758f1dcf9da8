//! What the worker of a pod tells Edged.

use std::sync::Arc;

use actix::Message;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::action::Note;

#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct WorkerReport {
    pub pod: Arc<Pod>,
    pub news: News,
}

#[derive(Debug)]
pub enum News {
    /// A container or sandbox of this pod: events about it are for this worker.
    Owns(String),
    Note(Note),
    /// What there is to say of the pod now.
    Status(Arc<PodStatus>),
    /// The containers are dead and released: host ports and such are free again.
    Ended,
    /// Nothing is left; the worker may go.
    Finished,
}
