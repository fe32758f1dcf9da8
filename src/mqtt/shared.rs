//! Shared subscriptions (mqtt-v5.0-os 4.8.2): one member of a group gets each message.

use super::broker::{Broker, Effect};
use super::message::{Message, SubscriptionIds};
use super::outbound::Target;
use super::packet::QoS;
use super::trie::{GroupAt, SessionIndex};
use super::writes::RowKey;

impl Broker {
    /// Whose turn it is: connected members with room first, in turn; then, for QoS 1 and 2, a
    /// connected one that is busy; then one whose session waits for it.
    pub(super) fn choose(
        &mut self,
        at: GroupAt,
        message: &Message,
        not: Option<SessionIndex>,
    ) -> Option<Target> {
        let group = self.trie.group(at)?;
        let count = group.members.len();
        let mut best: Option<(u8, usize)> = None;
        for step in 0..count {
            let place = (group.next + step) % count;
            let Some(member) = group.members.get(place) else { continue };
            let Some(session) = self.sessions.get(member.session) else { continue };
            if Some(member.session) == not {
                continue;
            }
            let qos = message.qos.min(member.options.qos);
            let rank = match session.link.as_deref() {
                Some(link) if !link.access.may_receive(&message.topic) => continue,
                Some(link) if link.unsent < self.limits.unsent_bytes && session.sent < link.window => 0,
                Some(_) => 1,
                None if qos > QoS::AtMostOnce && session.queue.len() < self.limits.queued_messages => 2,
                None => continue,
            };
            if best.is_none_or(|(other, _)| rank < other) {
                best = Some((rank, place));
            }
            if rank == 0 {
                break;
            }
        }
        let (_, place) = best?;
        group.next = (place + 1) % count;
        let member = group.members.get(place)?;
        let (session, options) = (member.session, member.options);
        let shared = Some(group.filter.clone());
        Some(Target {
            session,
            qos: options.qos,
            retain: options.retain_as_published && message.retain,
            subscription_ids: options.id.map_or(SubscriptionIds::None, SubscriptionIds::One),
            shared,
        })
    }

    /// Gives the first message of an ending session to another member of its group.
    pub(super) fn redistribute(&mut self, index: SessionIndex, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(index) else { return };
        let at = session.at(index);
        let Some(entry) = session.queue.front() else { return };
        let (message, shared, serial) = (entry.message.clone(), entry.shared.clone(), entry.serial);
        // Who waits for the old row waits for the new one.
        let promises = self.writes.steal_promises(&RowKey::Queued { session: at, serial });
        self.drop_entry(index, 0, effects);
        let target = match (&message, shared.and_then(|filter| self.trie.group_of(&filter))) {
            (Some(message), Some(group)) if !message.is_expired(self.now) => {
                self.choose(group, message, Some(index))
            }
            _ => None,
        };
        let mut wanted = None;
        if let (Some(message), Some(target)) = (message, target) {
            self.deliver(&message, target, None, Some(&mut wanted), effects);
        }
        match wanted {
            // Kept when the new row is: the old promises settle with it.
            Some(promise) => self.chain(promise, promises, effects),
            None => {
                for promise in promises {
                    self.settle(promise, true, effects);
                }
            }
        }
    }
}
