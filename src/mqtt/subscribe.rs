//! SUBSCRIBE and UNSUBSCRIBE.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::acks::Answer;
use super::broker::{Broker, Effect};
use super::packet::{Filter, Reason, RetainHandling, Subscribe, Unsubscribe, Version};
use super::promise::need;
use super::session::{Scan, filter_bytes};
use super::topic::check_filter;
use super::trie::{Options, SessionIndex};

impl Broker {
    pub(super) fn subscribe(&mut self, index: SessionIndex, subscribe: Subscribe, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(index) else { return };
        let Some(version) = session.link.as_ref().map(|link| link.version) else { return };
        let v5 = version == Version::V5;
        let id = subscribe.subscription_id.filter(|_| v5).map(NonZeroU32::new);
        let shared_and_local = |filter: &Filter| filter.no_local && filter.filter.starts_with("$share/");
        if subscribe.filters.is_empty()
            || id == Some(None)
            || v5 && subscribe.filters.iter().any(shared_and_local)
        {
            // [MQTT-3.8.3-2], [MQTT-3.8.2.1.2], [MQTT-3.8.3-4]
            return self.protocol_error(index, Reason::PROTOCOL_ERROR);
        }
        let id = id.flatten();
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut added = Vec::new();
        let mut scans = Vec::new();
        for filter in subscribe.filters {
            let (reason, new, scan) = self.subscribe_to(index, &filter, id, v5);
            reasons.push(reason);
            if new {
                added.push(filter.filter);
            }
            scans.extend(scan);
        }
        let mut wanted = None;
        if reasons.iter().any(|reason| !reason.is_failure())
            && self.sessions.get(index).is_some_and(super::session::Session::is_durable)
        {
            let promise = need(&mut self.promises, &mut wanted);
            self.save_session(index, Some(promise));
        }
        let packet_id = subscribe.id;
        self.answer(index, packet_id, Answer::SubAck { reasons, added }, wanted, effects);
        if let Some(session) = self.sessions.get_mut(index) {
            session.scans.extend(scans);
        }
        self.pump(index, effects);
    }

    /// Reason for SUBACK, whether the filter is new, and the retained messages it asks for.
    fn subscribe_to(
        &mut self,
        index: SessionIndex,
        wish: &Filter,
        id: Option<NonZeroU32>,
        v5: bool,
    ) -> (Reason, bool, Option<Scan>) {
        let refused = |reason: Reason| (if v5 { reason } else { Reason::UNSPECIFIED }, false, None);
        let Ok(parts) = check_filter(&wish.filter, &self.limits) else {
            return refused(Reason::TOPIC_FILTER_INVALID);
        };
        let most = self.limits.subscriptions_per_session;
        let Some(session) = self.sessions.get_mut(index) else { return refused(Reason::UNSPECIFIED) };
        let Some(link) = session.link.as_deref() else { return refused(Reason::UNSPECIFIED) };
        if !link.access.may_subscribe(parts.filter) {
            return refused(self.limits.subscribe_refusal);
        }
        let options = Options {
            qos: wish.qos,
            no_local: v5 && wish.no_local,
            retain_as_published: v5 && wish.retain_as_published,
            id,
        };
        let known = session.subscriptions.get_key_value(wish.filter.as_str()).map(|(key, _)| key.clone());
        let new = known.is_none();
        if new && session.subscriptions.len() >= most {
            return refused(Reason::QUOTA_EXCEEDED);
        }
        let bytes = if new { filter_bytes(&wish.filter) } else { 0 };
        let more = session.held_bytes() + bytes;
        let all = self.used.session_bytes - session.counted_bytes + more;
        if new && (more > self.limits.session_bytes || all > self.limits.sessions_bytes) {
            return refused(Reason::QUOTA_EXCEEDED);
        }
        let filter: Arc<str> = known.unwrap_or_else(|| wish.filter.as_str().into());
        session.filter_bytes += bytes;
        session.subscriptions.insert(filter.clone(), options);
        self.count_session(index);
        self.trie.insert(&filter, index, options);
        let asks = match wish.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => new || !v5,
            RetainHandling::Never => !v5,
        };
        if let Some(session) = self.sessions.get_mut(index) {
            session.scans.retain(|scan| scan.filter != filter);
        }
        let scan = (asks && parts.group.is_none()).then_some(Scan { filter, after: None, options });
        (Reason(wish.qos as u8), new, scan)
    }

    pub(super) fn unsubscribe(
        &mut self,
        index: SessionIndex,
        packet: Unsubscribe,
        effects: &mut Vec<Effect>,
    ) {
        if packet.filters.is_empty() {
            return self.protocol_error(index, Reason::PROTOCOL_ERROR); // [MQTT-3.10.3-2]
        }
        let mut reasons = Vec::with_capacity(packet.filters.len());
        for filter in &packet.filters {
            let removed = self.remove_subscription(index, filter);
            reasons.push(if removed {
                Reason::SUCCESS
            } else if check_filter(filter, &self.limits).is_err() {
                Reason::TOPIC_FILTER_INVALID
            } else {
                Reason::NO_SUBSCRIPTION_EXISTED
            });
        }
        let mut wanted = None;
        if reasons.contains(&Reason::SUCCESS)
            && self.sessions.get(index).is_some_and(super::session::Session::is_durable)
        {
            let promise = need(&mut self.promises, &mut wanted);
            self.save_session(index, Some(promise));
        }
        self.answer(index, packet.id, Answer::UnsubAck(reasons), wanted, effects);
    }

    pub(super) fn remove_subscription(&mut self, index: SessionIndex, filter: &str) -> bool {
        let Some(session) = self.sessions.get_mut(index) else { return false };
        if session.subscriptions.remove(filter).is_none() {
            return false;
        }
        session.filter_bytes = session.filter_bytes.saturating_sub(filter_bytes(filter));
        session.scans.retain(|scan| *scan.filter != *filter);
        if session.subscriptions.is_empty() {
            session.subscriptions.shrink_to_fit();
        }
        self.count_session(index);
        self.trie.remove(filter, index)
    }
}
