//! The few MQTT 3.1.1 packets a load needs, written and read by hand: what is measured must not
//! share code with what measures.

/// Types of packets, the upper half of the first byte (MQTT 3.1.1, section 2.2.1).
pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;

/// A packet a broker sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The return code; 0 is yes.
    Connected(u8),
    /// Return codes, one per filter: the granted QoS, or 0x80.
    Subscribed(&'a [u8]),
    Publish {
        topic: &'a [u8],
        qos: u8,
        again: bool,
        id: u16,
        payload: &'a [u8],
    },
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Ack {
        kind: u8,
        id: u16,
    },
    Other(u8),
}

/// The first packet of `bytes` and its length; `None`: not all of it is there yet.
///
/// # Errors
/// What is wrong with it.
pub fn next(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, String> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let (mut length, mut at) = (0usize, 1usize);
    loop {
        let Some(byte) = bytes.get(at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at > 4 {
            return Err("a remaining length of more than four bytes".into());
        }
    }
    let Some(body) = bytes.get(at..at + length) else { return Ok(None) };
    let frame = read(*first, body).ok_or_else(|| format!("a packet 0x{first:02x} that is cut short"))?;
    Ok(Some((frame, at + length)))
}

fn read(first: u8, body: &[u8]) -> Option<Frame<'_>> {
    let kind = first >> 4;
    Some(match kind {
        2 => Frame::Connected(*body.get(1)?),
        3 => {
            let qos = (first >> 1) & 3;
            let (topic, rest) = text(body)?;
            let (id, payload) = if qos == 0 { (0, rest) } else { (number(rest)?, rest.get(2..)?) };
            Frame::Publish { topic, qos, again: first & 8 != 0, id, payload }
        }
        PUBACK..=PUBCOMP => Frame::Ack { kind, id: number(body)? },
        9 => Frame::Subscribed(body.get(2..)?),
        other => Frame::Other(other),
    })
}

fn number(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    bytes.get(2..)?.split_at_checked(number(bytes)?.into())
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn head(out: &mut Vec<u8>, first: u8, mut length: usize) {
    out.push(first);
    loop {
        let byte = u8::try_from(length & 0x7f).unwrap();
        length >>= 7;
        out.push(if length == 0 { byte } else { byte | 0x80 });
        if length == 0 {
            return;
        }
    }
}

/// CONNECT with a clean session.
pub fn connect(out: &mut Vec<u8>, client: &str, keep_alive_secs: u16) {
    head(out, 0x10, 10 + 2 + client.len());
    put_text(out, "MQTT");
    out.extend_from_slice(&[4, 2]);
    out.extend_from_slice(&keep_alive_secs.to_be_bytes());
    put_text(out, client);
}

pub fn subscribe(out: &mut Vec<u8>, id: u16, filter: &str, qos: u8) {
    head(out, 0x82, 2 + 2 + filter.len() + 1);
    out.extend_from_slice(&id.to_be_bytes());
    put_text(out, filter);
    out.push(qos);
}

/// `id` is not written for QoS 0.
pub fn publish(out: &mut Vec<u8>, topic: &str, qos: u8, retain: bool, id: u16, payload: &[u8]) {
    let id_length = if qos == 0 { 0 } else { 2 };
    head(out, 0x30 | qos << 1 | u8::from(retain), 2 + topic.len() + id_length + payload.len());
    put_text(out, topic);
    if qos > 0 {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(payload);
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
pub fn ack(out: &mut Vec<u8>, kind: u8, id: u16) {
    let flags = if kind == PUBREL { 2 } else { 0 };
    out.extend_from_slice(&[kind << 4 | flags, 2]);
    out.extend_from_slice(&id.to_be_bytes());
}

pub fn disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xe0, 0]);
}
