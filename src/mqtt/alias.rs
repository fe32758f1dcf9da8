//! Topic aliases (mqtt-v5.0-os 3.3.2.3.4). Inbound ones are looked up, outbound ones chosen.

use std::hash::BuildHasher;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::message::TopicAlias;
use super::packet::Reason;

/// Finds the alias of `topic` among those in use, or the place where it gets one. Each topic has
/// one place; a topic that shares it takes it over, so busy topics have theirs most of the time
/// without any book-keeping.
#[must_use]
pub fn choose(slots: &[Option<Arc<str>>], topic: &Arc<str>) -> (TopicAlias, Option<usize>) {
    let hash = foldhash::fast::FixedState::default().hash_one(&**topic);
    let Some(place) = hash.checked_rem(slots.len() as u64).and_then(|place| usize::try_from(place).ok())
    else {
        return (TopicAlias::None, None);
    };
    let Some(alias) = u16::try_from(place + 1).ok().and_then(NonZeroU16::new) else {
        return (TopicAlias::None, None);
    };
    match slots.get(place) {
        Some(Some(known)) if Arc::ptr_eq(known, topic) || **known == **topic => {
            (TopicAlias::Known(alias), None)
        }
        Some(_) => (TopicAlias::New(alias), Some(place)),
        None => (TopicAlias::None, None),
    }
}

/// The topic of an incoming PUBLISH.
///
/// # Errors
/// The reason to close the connection with: an alias out of range or never set, no topic at all.
pub fn resolve(
    slots: &mut Vec<Option<Arc<str>>>,
    most: u16,
    topic: Arc<str>,
    alias: Option<NonZeroU16>,
) -> Result<Arc<str>, Reason> {
    let Some(alias) = alias else {
        return if topic.is_empty() { Err(Reason::PROTOCOL_ERROR) } else { Ok(topic) };
    };
    if alias.get() > most {
        return Err(Reason::TOPIC_ALIAS_INVALID); // [MQTT-3.3.2-9]
    }
    let place = usize::from(alias.get()) - 1;
    if topic.is_empty() {
        return slots.get(place).cloned().flatten().ok_or(Reason::TOPIC_ALIAS_INVALID);
    }
    if slots.len() <= place {
        slots.resize(place + 1, None);
    }
    if let Some(slot) = slots.get_mut(place) {
        *slot = Some(topic.clone());
    }
    Ok(topic)
}
