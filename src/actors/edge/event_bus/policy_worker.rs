//! Tells the actor when the cloud's policies changed.

use std::rc::Rc;

use super::listen_worker::Gate;
use super::wire::Event;
use crate::bus::identity::Policies;

/// Runs until the writer of `policies` is gone.
pub async fn watch(mut policies: Policies, gate: Rc<Gate>) {
    while policies.changed().await.is_ok() {
        gate.inbox.push(Event::Policies);
    }
}
