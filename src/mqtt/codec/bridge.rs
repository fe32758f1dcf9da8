//! The packets that ntex-mqtt reads and writes: connecting, answers to subscriptions, disconnecting.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use ntex_bytes::{BytePages, ByteString, Bytes as NtexBytes, BytesMut};
use ntex_codec::Encoder as _;
use ntex_mqtt::QoS as NtexQoS;
use ntex_mqtt::error::DecodeError;
use ntex_mqtt::{v3::codec as v3, v5::codec as v5};

use super::fields::{Reader, check_text, put_remaining_length, qos_number};
use super::publish::check_topic;
use super::{CodecError, OutBuf};
use crate::mqtt::{ConnAck, Connect, MessageProperties, Packet, QoS, Reason, RetainHandling, Version, Will};

/// Reads a CONNECT of either version.
pub(super) fn decode_connect(content: &[u8]) -> Result<Connect, CodecError> {
    let version = check_connect(content)?;
    let refused = |err: DecodeError| CodecError { answer: Some(version), ..refusal(err) };
    let connect = match version {
        Version::V3 => match read(&v3::Codec::new(), 0x10, content).map_err(refused)? {
            Some(v3::Decoded::Packet(v3::Packet::Connect(connect), _)) => from_v3(*connect),
            _ => return Err(CodecError::malformed("not a CONNECT")),
        },
        Version::V5 => match read(&v5::Codec::new(), 0x10, content).map_err(refused)? {
            Some(v5::Decoded::Packet(v5::Packet::Connect(connect), _)) => from_v5(*connect),
            _ => return Err(CodecError::malformed("not a CONNECT")),
        },
    };
    check_texts(&connect).map_err(|err| CodecError { answer: Some(version), ..err })?;
    Ok(connect)
}

/// What ntex-mqtt leaves unchecked: names of other protocols, flags that contradict each other.
fn check_connect(content: &[u8]) -> Result<Version, CodecError> {
    let mut reader = Reader::new(content);
    let name = reader.text()?;
    let level = reader.byte()?;
    let version = match (name, level) {
        ("MQTT", 4) => Version::V3,
        ("MQTT", 5) => Version::V5,
        ("MQTT", _) | ("MQIsdp", _) => {
            // A client of a later version understands the answer of 5 at best.
            let answer = Some(if level > 5 { Version::V5 } else { Version::V3 });
            let err = CodecError::new(Reason::UNSUPPORTED_VERSION, "the protocol version is not supported");
            return Err(CodecError { answer, ..err });
        }
        _ => return Err(CodecError::malformed("the protocol is not MQTT")),
    };
    let flags = reader.byte()?;
    reader.u16()?;
    if flags & 1 != 0 {
        return Err(CodecError::malformed("reserved flags are set"));
    }
    if flags & 0b100 == 0 && flags & 0b11_1000 != 0 {
        return Err(CodecError::malformed("flags of a will without a will"));
    }
    if version == Version::V3 && flags & 0b1100_0000 == 0b0100_0000 {
        return Err(CodecError::malformed("a password without a user name"));
    }
    Ok(version)
}

fn check_texts(connect: &Connect) -> Result<(), CodecError> {
    check_text(&connect.client_id)?;
    check_text(connect.username.as_deref().unwrap_or_default())?;
    if let Some(will) = &connect.will {
        check_text(&will.topic)?;
        check_topic(&will.topic)?;
        if will.topic.is_empty() {
            return Err(CodecError::new(Reason::TOPIC_NAME_INVALID, "the topic of the will is empty"));
        }
        if let Some(topic) = &will.properties.response_topic {
            check_topic(topic)?;
        }
    }
    Ok(())
}

fn read<C: ntex_codec::Decoder<Error = DecodeError>>(
    codec: &C,
    first: u8,
    content: &[u8],
) -> Result<Option<C::Item>, DecodeError> {
    let mut header = vec![first];
    put_remaining_length(content.len(), &mut header);
    let mut whole = BytesMut::with_capacity(header.len() + content.len());
    whole.extend_from_slice(&header);
    whole.extend_from_slice(content);
    codec.decode(&mut whole)
}

fn refusal(err: DecodeError) -> CodecError {
    match err {
        DecodeError::InvalidClientId => {
            CodecError::new(Reason::CLIENT_ID_NOT_VALID, "a client without identifier keeps no session")
        }
        DecodeError::UnsupportedProtocolLevel => {
            CodecError::new(Reason::UNSUPPORTED_VERSION, "the protocol version is not supported")
        }
        DecodeError::Utf8Error => CodecError::malformed("a text is not UTF-8"),
        DecodeError::InvalidLength => CodecError::malformed("a length is wrong"),
        DecodeError::ConnectReservedFlagSet | DecodeError::ConnAckReservedFlagSet => {
            CodecError::malformed("reserved flags are set")
        }
        DecodeError::UnsupportedPacketType => CodecError::protocol("no such packet"),
        _ => CodecError::malformed("the packet is malformed"),
    }
}

fn from_v3(connect: v3::Connect) -> Connect {
    Connect {
        version: Version::V3,
        client_id: text(&connect.client_id),
        clean_start: connect.clean_session,
        keep_alive_secs: connect.keep_alive,
        username: connect.username.as_ref().map(text),
        password: connect.password.as_ref().map(bytes),
        will: connect.last_will.map(|will| Will {
            topic: text(&will.topic),
            payload: bytes(&will.message),
            qos: from_qos(will.qos),
            retain: will.retain,
            delay_secs: 0,
            properties: MessageProperties::default(),
        }),
        session_expiry_secs: None,
        receive_maximum: None,
        maximum_packet_bytes: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        authentication_method: None,
    }
}

fn from_v5(connect: v5::Connect) -> Connect {
    Connect {
        version: Version::V5,
        client_id: text(&connect.client_id),
        clean_start: connect.clean_start,
        keep_alive_secs: connect.keep_alive,
        username: connect.username.as_ref().map(text),
        password: connect.password.as_ref().map(bytes),
        will: connect.last_will.map(|will| Will {
            topic: text(&will.topic),
            payload: bytes(&will.message),
            qos: from_qos(will.qos),
            retain: will.retain,
            delay_secs: will.will_delay_interval_sec.unwrap_or(0),
            properties: MessageProperties {
                is_utf8_payload: will.is_utf8_payload,
                expiry_secs: will.message_expiry_interval.map(NonZeroU32::get),
                content_type: will.content_type.as_ref().map(text),
                response_topic: will.response_topic.as_ref().map(text),
                correlation_data: will.correlation_data.as_ref().map(bytes),
                user: will.user_properties.iter().map(|(key, value)| (text(key), text(value))).collect(),
            },
        }),
        session_expiry_secs: Some(connect.session_expiry_interval_secs).filter(|secs| *secs > 0),
        receive_maximum: connect.receive_max,
        maximum_packet_bytes: connect.max_packet_size.map(NonZeroU32::get),
        topic_alias_maximum: connect.topic_alias_max,
        request_problem_information: connect.request_problem_info,
        authentication_method: connect.auth_method.as_ref().map(text),
    }
}

/// Reads the rest: what a client gets from its server, DISCONNECT and AUTH.
pub(super) fn decode(first: u8, content: &[u8], version: Version) -> Result<Packet, CodecError> {
    let odd = CodecError::protocol("no such packet");
    match version {
        Version::V3 => match read(&v3::Codec::new(), first, content).map_err(refusal)? {
            Some(v3::Decoded::Packet(packet, _)) => packet_of_v3(packet, content).ok_or(odd),
            _ => Err(odd),
        },
        Version::V5 => match read(&v5::Codec::new(), first, content).map_err(refusal)? {
            Some(v5::Decoded::Packet(packet, _)) => packet_of_v5(packet).ok_or(odd),
            _ => Err(odd),
        },
    }
}

fn packet_of_v3(packet: v3::Packet, content: &[u8]) -> Option<Packet> {
    Some(match packet {
        v3::Packet::ConnectAck(ack) => {
            let code = u8::from(ack.return_code);
            Packet::ConnAck(Box::new(ConnAck {
                session_present: ack.session_present,
                reason: from_return_code(code),
                ..no_properties()
            }))
        }
        v3::Packet::SubscribeAck { packet_id, status } => Packet::SubAck {
            id: packet_id,
            reasons: status
                .into_iter()
                .map(|code| match code {
                    v3::SubscribeReturnCode::Success(qos) => Reason(u8::from(qos)),
                    v3::SubscribeReturnCode::Failure => Reason::UNSPECIFIED,
                })
                .collect(),
        },
        v3::Packet::UnsubscribeAck { packet_id } => Packet::UnsubAck { id: packet_id, reasons: Vec::new() },
        v3::Packet::Disconnect if content.is_empty() => {
            Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs: None }
        }
        _ => return None,
    })
}

fn packet_of_v5(packet: v5::Packet) -> Option<Packet> {
    Some(match packet {
        v5::Packet::ConnectAck(ack) => Packet::ConnAck(Box::new(ConnAck {
            session_present: ack.session_present,
            reason: Reason(u8::from(ack.reason_code)),
            assigned_client_id: ack.assigned_client_id.as_ref().map(text),
            session_expiry_secs: ack.session_expiry_interval_secs,
            receive_maximum: Some(ack.receive_max),
            maximum_packet_bytes: ack.max_packet_size,
            topic_alias_maximum: Some(ack.topic_alias_max),
            server_keep_alive_secs: ack.server_keepalive_sec,
            reason_text: ack.reason_string.as_ref().map(text),
        })),
        v5::Packet::SubscribeAck(ack) => Packet::SubAck {
            id: ack.packet_id,
            reasons: ack.status.into_iter().map(|code| Reason(u8::from(code))).collect(),
        },
        v5::Packet::UnsubscribeAck(ack) => Packet::UnsubAck {
            id: ack.packet_id,
            reasons: ack.status.into_iter().map(|code| Reason(u8::from(code))).collect(),
        },
        v5::Packet::Disconnect(end) => Packet::Disconnect {
            reason: Reason(u8::from(end.reason_code)),
            session_expiry_secs: end.session_expiry_interval_secs,
        },
        v5::Packet::Auth(_) => Packet::Auth,
        _ => return None,
    })
}

fn no_properties() -> ConnAck {
    ConnAck {
        session_present: false,
        reason: Reason::SUCCESS,
        assigned_client_id: None,
        session_expiry_secs: None,
        receive_maximum: None,
        maximum_packet_bytes: None,
        topic_alias_maximum: None,
        server_keep_alive_secs: None,
        reason_text: None,
    }
}

/// Return codes of 3.1.1 (table 3.1) as reasons.
fn from_return_code(code: u8) -> Reason {
    match code {
        0 => Reason::SUCCESS,
        1 => Reason::UNSUPPORTED_VERSION,
        2 => Reason::CLIENT_ID_NOT_VALID,
        3 => Reason::SERVER_UNAVAILABLE,
        4 => Reason::BAD_USER_OR_PASSWORD,
        _ => Reason::NOT_AUTHORIZED,
    }
}

fn to_return_code(reason: Reason) -> v3::ConnectAckReason {
    match reason {
        Reason::SUCCESS => v3::ConnectAckReason::ConnectionAccepted,
        Reason::UNSUPPORTED_VERSION => v3::ConnectAckReason::UnacceptableProtocolVersion,
        Reason::CLIENT_ID_NOT_VALID => v3::ConnectAckReason::IdentifierRejected,
        Reason::BAD_USER_OR_PASSWORD => v3::ConnectAckReason::BadUserNameOrPassword,
        Reason::NOT_AUTHORIZED => v3::ConnectAckReason::NotAuthorized,
        _ => v3::ConnectAckReason::ServiceUnavailable,
    }
}

/// Writes what [`super::encode`] does not write itself.
pub(super) fn encode(packet: &Packet, version: Version, out: &mut OutBuf) -> Result<(), CodecError> {
    let mut pages = BytePages::default();
    let written = match version {
        Version::V3 => {
            let Some(packet) = to_v3(packet) else { return Ok(()) };
            v3::Codec::new().encodev(v3::Encoded::Packet(packet), &mut pages).is_ok()
        }
        Version::V5 => {
            let Some(packet) = to_v5(packet) else { return Ok(()) };
            v5::Codec::new().encodev(v5::Encoded::Packet(packet), &mut pages).is_ok()
        }
    };
    if !written {
        return Err(CodecError::new(Reason::IMPLEMENTATION_SPECIFIC, "the packet cannot be encoded"));
    }
    out.put(&pages.freeze());
    Ok(())
}

/// `None` for what 3.1.1 does not say.
fn to_v3(packet: &Packet) -> Option<v3::Packet> {
    Some(match packet {
        Packet::Connect(connect) => v3::Packet::Connect(Box::new(v3::Connect {
            clean_session: connect.clean_start,
            keep_alive: connect.keep_alive_secs,
            last_will: connect.will.as_ref().map(|will| v3::LastWill {
                qos: to_qos(will.qos),
                retain: will.retain,
                topic: ByteString::from(will.topic.as_str()),
                message: ntex_bytes(&will.payload),
            }),
            client_id: ByteString::from(connect.client_id.as_str()),
            username: connect.username.as_deref().map(ByteString::from),
            password: connect.password.as_ref().map(ntex_bytes),
        })),
        Packet::ConnAck(ack) => v3::Packet::ConnectAck(v3::ConnectAck {
            return_code: to_return_code(ack.reason),
            session_present: ack.session_present && ack.reason == Reason::SUCCESS,
        }),
        Packet::Subscribe(subscribe) => v3::Packet::Subscribe {
            packet_id: subscribe.id,
            topic_filters: subscribe
                .filters
                .iter()
                .map(|filter| (ByteString::from(filter.filter.as_str()), to_qos(filter.qos)))
                .collect(),
        },
        Packet::SubAck { id, reasons } => v3::Packet::SubscribeAck {
            packet_id: *id,
            status: reasons
                .iter()
                .map(|reason| match NtexQoS::try_from(reason.0) {
                    Ok(qos) => v3::SubscribeReturnCode::Success(qos),
                    Err(_) => v3::SubscribeReturnCode::Failure,
                })
                .collect(),
        },
        Packet::Unsubscribe(unsubscribe) => v3::Packet::Unsubscribe {
            packet_id: unsubscribe.id,
            topic_filters: unsubscribe.filters.iter().map(|f| ByteString::from(f.as_str())).collect(),
        },
        Packet::UnsubAck { id, .. } => v3::Packet::UnsubscribeAck { packet_id: *id },
        // A server of 3.1.1 just closes the connection.
        Packet::Disconnect { reason, .. } if !reason.is_failure() => v3::Packet::Disconnect,
        _ => return None,
    })
}

fn to_v5(packet: &Packet) -> Option<v5::Packet> {
    Some(match packet {
        Packet::Connect(connect) => v5::Packet::Connect(Box::new(connect_to_v5(connect))),
        Packet::ConnAck(ack) => v5::Packet::ConnectAck(Box::new(v5::ConnectAck {
            session_present: ack.session_present,
            reason_code: v5::ConnectAckReason::try_from(ack.reason.0)
                .unwrap_or(v5::ConnectAckReason::UnspecifiedError),
            session_expiry_interval_secs: ack.session_expiry_secs,
            receive_max: ack.receive_maximum.unwrap_or(NonZeroU16::MAX),
            max_packet_size: ack.maximum_packet_bytes,
            assigned_client_id: ack.assigned_client_id.as_deref().map(ByteString::from),
            topic_alias_max: ack.topic_alias_maximum.unwrap_or(0),
            server_keepalive_sec: ack.server_keep_alive_secs,
            reason_string: ack.reason_text.as_deref().map(ByteString::from),
            ..v5::ConnectAck::default()
        })),
        Packet::Subscribe(subscribe) => v5::Packet::Subscribe(v5::Subscribe {
            packet_id: subscribe.id,
            id: subscribe.subscription_id.and_then(NonZeroU32::new),
            user_properties: Vec::new(),
            topic_filters: subscribe
                .filters
                .iter()
                .map(|filter| {
                    let options = v5::SubscriptionOptions {
                        qos: to_qos(filter.qos),
                        no_local: filter.no_local,
                        retain_as_published: filter.retain_as_published,
                        retain_handling: match filter.retain_handling {
                            RetainHandling::Always => v5::RetainHandling::AtSubscribe,
                            RetainHandling::IfNew => v5::RetainHandling::AtSubscribeNew,
                            RetainHandling::Never => v5::RetainHandling::NoAtSubscribe,
                        },
                    };
                    (ByteString::from(filter.filter.as_str()), options)
                })
                .collect(),
        }),
        Packet::SubAck { id, reasons } => v5::Packet::SubscribeAck(v5::SubscribeAck {
            packet_id: *id,
            properties: Vec::new(),
            reason_string: None,
            status: reasons
                .iter()
                .map(|reason| {
                    let unknown = v5::SubscribeAckReason::UnspecifiedError;
                    v5::SubscribeAckReason::try_from(reason.0).unwrap_or(unknown)
                })
                .collect(),
        }),
        Packet::Unsubscribe(unsubscribe) => v5::Packet::Unsubscribe(v5::Unsubscribe {
            packet_id: unsubscribe.id,
            user_properties: Vec::new(),
            topic_filters: unsubscribe.filters.iter().map(|f| ByteString::from(f.as_str())).collect(),
        }),
        Packet::UnsubAck { id, reasons } => v5::Packet::UnsubscribeAck(v5::UnsubscribeAck {
            packet_id: *id,
            properties: Vec::new(),
            reason_string: None,
            status: reasons
                .iter()
                .map(|reason| {
                    let unknown = v5::UnsubscribeAckReason::UnspecifiedError;
                    v5::UnsubscribeAckReason::try_from(reason.0).unwrap_or(unknown)
                })
                .collect(),
        }),
        Packet::Disconnect { reason, session_expiry_secs } => {
            let unknown = v5::DisconnectReasonCode::UnspecifiedError;
            let code = v5::DisconnectReasonCode::try_from(reason.0).unwrap_or(unknown);
            let mut end = v5::Disconnect::new(code);
            end.session_expiry_interval_secs = *session_expiry_secs;
            v5::Packet::Disconnect(end)
        }
        // Authentication methods are refused at CONNECT, so nothing is ever said in them.
        _ => return None,
    })
}

fn connect_to_v5(connect: &Connect) -> v5::Connect {
    v5::Connect {
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive_secs,
        session_expiry_interval_secs: connect.session_expiry_secs.unwrap_or(0),
        auth_method: connect.authentication_method.as_deref().map(ByteString::from),
        request_problem_info: connect.request_problem_information,
        receive_max: connect.receive_maximum,
        topic_alias_max: connect.topic_alias_maximum,
        max_packet_size: connect.maximum_packet_bytes.and_then(NonZeroU32::new),
        last_will: connect.will.as_ref().map(|will| v5::LastWill {
            qos: to_qos(will.qos),
            retain: will.retain,
            topic: ByteString::from(will.topic.as_str()),
            message: ntex_bytes(&will.payload),
            will_delay_interval_sec: Some(will.delay_secs).filter(|secs| *secs > 0),
            correlation_data: will.properties.correlation_data.as_ref().map(ntex_bytes),
            message_expiry_interval: will.properties.expiry_secs.and_then(NonZeroU32::new),
            content_type: will.properties.content_type.as_deref().map(ByteString::from),
            user_properties: will
                .properties
                .user
                .iter()
                .map(|(key, value)| (ByteString::from(key.as_str()), ByteString::from(value.as_str())))
                .collect(),
            is_utf8_payload: will.properties.is_utf8_payload,
            response_topic: will.properties.response_topic.as_deref().map(ByteString::from),
        }),
        client_id: ByteString::from(connect.client_id.as_str()),
        username: connect.username.as_deref().map(ByteString::from),
        password: connect.password.as_ref().map(ntex_bytes),
        ..v5::Connect::default()
    }
}

fn text(text: &ByteString) -> String {
    text.as_str().to_owned()
}

fn bytes(bytes: &NtexBytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn ntex_bytes(bytes: &Bytes) -> NtexBytes {
    NtexBytes::copy_from_slice(bytes)
}

fn from_qos(qos: NtexQoS) -> QoS {
    match qos {
        NtexQoS::AtMostOnce => QoS::AtMostOnce,
        NtexQoS::AtLeastOnce => QoS::AtLeastOnce,
        NtexQoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

fn to_qos(qos: QoS) -> NtexQoS {
    NtexQoS::try_from(qos_number(qos)).unwrap_or(NtexQoS::AtMostOnce)
}
