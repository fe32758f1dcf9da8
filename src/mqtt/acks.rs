//! Answers of one connection in the order of what they answer [MQTT-4.6.0-2], [MQTT-4.6.0-3].

use std::collections::VecDeque;

use super::packet::{Packet, PacketId, Reason, Version};

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    PubAck(Reason),
    PubRec(Reason),
    PubComp(Reason),
    SubAck {
        reasons: Vec<Reason>,
        /// Filters that are new with it: taken back if it cannot be made durable.
        added: Vec<String>,
    },
    UnsubAck(Vec<Reason>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Ready,
    Failed,
}

#[derive(Debug)]
struct Ack {
    id: PacketId,
    answer: Answer,
    state: State,
}

/// The next answer to write.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    Send(Packet),
    /// Tell the client that its subscription failed, and forget `added`.
    Unsubscribe {
        packet: Packet,
        added: Vec<String>,
    },
}

#[derive(Debug, Default)]
pub struct Acks {
    /// Number of the first one in `list`.
    base: u64,
    list: VecDeque<Ack>,
}

impl Acks {
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds an answer that waits; returns its number.
    pub fn wait(&mut self, id: PacketId, answer: Answer) -> u64 {
        self.list.push_back(Ack { id, answer, state: State::Waiting });
        self.base + self.list.len() as u64 - 1
    }

    /// Adds an answer that waits only for its turn.
    pub fn push(&mut self, id: PacketId, answer: Answer) {
        self.list.push_back(Ack { id, answer, state: State::Ready });
    }

    /// What an answer waited for has come or failed. `false`: it failed, and this version has no
    /// word for it; the connection must end now, before a later message is taken.
    #[must_use]
    pub fn settle(&mut self, number: u64, ok: bool, version: Version) -> bool {
        let place = number.checked_sub(self.base).and_then(|place| usize::try_from(place).ok());
        let Some(ack) = place.and_then(|place| self.list.get_mut(place)) else { return true };
        ack.state = if ok { State::Ready } else { State::Failed };
        ok || ack.answer.can_fail(version)
    }

    /// Takes the first answer if it need not wait any longer.
    pub fn take(&mut self, version: Version) -> Option<Due> {
        let ready = self.list.front().is_some_and(|ack| ack.state != State::Waiting);
        let Ack { id, answer, state } = if ready { self.list.pop_front()? } else { return None };
        self.base += 1;
        if self.list.is_empty() && self.list.capacity() > 64 {
            self.list = VecDeque::new();
        }
        Some(if state == State::Ready { Due::Send(answer.packet(id)) } else { answer.failed(id, version) })
    }
}

impl Answer {
    #[must_use]
    pub fn packet(self, id: PacketId) -> Packet {
        match self {
            Self::PubAck(reason) => Packet::PubAck { id, reason },
            Self::PubRec(reason) => Packet::PubRec { id, reason },
            Self::PubComp(reason) => Packet::PubComp { id, reason },
            Self::SubAck { reasons, .. } => Packet::SubAck { id, reasons },
            Self::UnsubAck(reasons) => Packet::UnsubAck { id, reasons },
        }
    }

    fn can_fail(&self, version: Version) -> bool {
        match self {
            Self::SubAck { .. } => true,
            Self::PubAck(_) | Self::PubRec(_) | Self::UnsubAck(_) => version == Version::V5,
            Self::PubComp(_) => false,
        }
    }

    fn failed(self, id: PacketId, version: Version) -> Due {
        let reason = Reason::IMPLEMENTATION_SPECIFIC;
        Due::Send(match self {
            Self::PubAck(_) => Packet::PubAck { id, reason },
            Self::PubRec(_) => Packet::PubRec { id, reason },
            Self::PubComp(_) => Packet::PubComp { id, reason },
            Self::UnsubAck(reasons) => Packet::UnsubAck { id, reasons: vec![reason; reasons.len()] },
            Self::SubAck { reasons, added } => {
                let reason = if version == Version::V5 { reason } else { Reason::UNSPECIFIED };
                let reasons = reasons.into_iter().map(|was| if was.is_failure() { was } else { reason });
                return Due::Unsubscribe { packet: Packet::SubAck { id, reasons: reasons.collect() }, added };
            }
        })
    }
}

/// Does this answer end an exchange the client started (its quota grows by one)?
#[must_use]
pub fn ends_exchange(packet: &Packet) -> bool {
    match packet {
        Packet::PubAck { .. } | Packet::PubComp { .. } => true,
        Packet::PubRec { reason, .. } => reason.is_failure(),
        _ => false,
    }
}
