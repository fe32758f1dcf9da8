//! L2: MQTT without sockets: packets, topics, and the broker as a state machine.
//!
//! [`Broker::handle`] takes what happens (packets, lost connections, answers of the disk) and says
//! what is to be done. The transport owns sockets, timers and the store. Start reading in
//! `broker.rs`; a message goes `inbound.rs` -> `outbound.rs` -> `session.rs`. A publisher that is
//! faster than its subscribers is held back while they read (`flow.rs`).

mod acks;
mod alias;
mod broker;
pub mod client;
pub mod codec;
mod connect;
mod figures;
mod flow;
mod inbound;
mod limits;
mod load;
mod local;
mod message;
mod outbound;
mod packet;
mod promise;
mod retained;
pub(crate) mod rows;
mod session;
mod shared;
mod size;
mod stored;
mod subscribe;
#[cfg(test)]
mod tests;
mod topic;
pub(crate) mod trie;
mod will;
mod writes;

pub use broker::{Access, Broker, ConnId, Effect, Input};
pub use figures::{Closed, Counters, Dropped, Figures};
pub use limits::Limits;
pub use load::Loaded;
pub use message::{Message, SubscriptionIds, TopicAlias};
pub use packet::{
    ConnAck, Connect, Filter, MessageProperties, Packet, PacketId, Publish, QoS, Reason, RetainHandling,
    Subscribe, Unsubscribe, Version, Will,
};
pub use rows::PREFIXES;
pub use size::packet_bytes;
pub use topic::{BadTopic, check_filter, check_topic, matches};
