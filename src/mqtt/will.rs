//! Wills (mqtt-v5.0-os 3.1.2.5): messages of clients that went without saying goodbye.

use std::sync::Arc;

use super::broker::{Access, Broker, Effect};
use super::message::{Message, USER_PROPERTY_BYTES};
use super::packet::Will;
use super::size;
use super::trie::SessionIndex;

impl Will {
    /// What it costs in memory.
    pub(super) fn bytes(&self) -> usize {
        let properties = size::properties_bytes(&self.properties) as usize;
        self.topic.len() + self.payload.len() + properties + self.properties.user.len() * USER_PROPERTY_BYTES
    }
}

impl Broker {
    /// Counts what a session's filters and will cost now. To be called when they have changed.
    pub(super) fn count_session(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let held = session.held_bytes();
        self.used.session_bytes = self.used.session_bytes - session.counted_bytes + held;
        session.counted_bytes = held;
    }

    /// Publishes the will of a session if its client may still publish there.
    pub(super) fn publish_will(
        &mut self,
        index: SessionIndex,
        access: &dyn Access,
        effects: &mut Vec<Effect>,
    ) {
        let topic =
            self.sessions.get(index).and_then(|session| session.will.as_ref()).map(|will| &will.topic);
        if topic.is_some_and(|topic| !access.may_publish(topic)) {
            self.count.dropped.not_publishable += 1;
            if let Some(session) = self.sessions.get_mut(index) {
                session.will = None;
            }
            self.count_session(index);
            return;
        }
        self.will_is_due(index, effects);
    }

    /// Publishes the will of a session, if there is one.
    pub(super) fn will_is_due(&mut self, index: SessionIndex, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.will_at = None;
        let Some(will) = session.will.take() else { return };
        self.count_session(index);
        self.count.wills += 1;
        let message = Arc::new(Message::of_will(*will, self.now));
        let mut wanted = None;
        self.accept(&message, Some(index), &mut wanted, effects);
        self.settle_wanted(wanted, effects);
    }
}
