//! What the gate's verdict means for a pod.

use super::super::gate::IMAGE_DENIED;
use super::super::gate::seals::{SEAL_INVALID, Verdict};
use super::PodState;

/// Nothing of the pod starts. What runs is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Of waiting containers.
    pub reason: &'static str,
    pub message: String,
    /// The pod is not what the cloud sealed; otherwise that is not known yet.
    pub refused: bool,
}

impl PodState {
    /// Takes the gate's verdict. A refusal is an event, once.
    pub fn hold(&mut self, verdict: &Verdict) {
        let held = match verdict {
            Verdict::Fine => None,
            Verdict::Wait(why) => {
                Some(Held { reason: "ContainerCreating", message: (*why).to_owned(), refused: false })
            }
            Verdict::Refused(why) => Some(Held { reason: SEAL_INVALID, message: why.clone(), refused: true }),
        };
        let held = held.filter(|_| !self.ending() && self.memory.terminal.is_none());
        if held == self.memory.held {
            return;
        }
        if let Some(refused) = held.as_ref().filter(|held| held.refused) {
            self.note(true, SEAL_INVALID, refused.message.clone(), None);
        }
        self.memory.held = held;
    }

    /// Credentials or policies changed: what the gate refused is tried again at once.
    pub fn gate_changed(&mut self) {
        for memory in self.memory.containers.values_mut() {
            let refused =
                |(reason, _): &(String, String)| [IMAGE_DENIED, SEAL_INVALID].contains(&reason.as_str());
            if memory.error.as_ref().is_some_and(refused) {
                memory.tries.hurry();
            }
        }
    }
}

/// Reason and text of the event about a container that did not start.
pub(super) fn event_of(reason: &str, message: &str) -> (&'static str, String) {
    match reason {
        IMAGE_DENIED => (IMAGE_DENIED, message.to_owned()),
        SEAL_INVALID => (SEAL_INVALID, message.to_owned()),
        _ => ("Failed", format!("Error: {message}")),
    }
}
