//! L2: MQTT without sockets: packets, topics, and the broker as a state machine.

pub mod client;
pub mod codec;
mod packet;

pub use packet::{
    ConnAck, Connect, Filter, MessageProperties, Packet, PacketId, Publish, QoS, Reason, RetainHandling,
    Subscribe, Unsubscribe, Version, Will,
};
