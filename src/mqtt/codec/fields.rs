//! Fields of packets: numbers, texts, properties (mqtt-v5.0 sections 1.5 and 2.2.2).

use std::num::NonZeroU16;

use super::CodecError;
use crate::mqtt::QoS;

/// Property identifiers we write or act on.
pub(super) mod property {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0B;
    pub const REASON_STRING: u8 = 0x1F;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const USER: u8 = 0x26;
}

const SHORT: CodecError = CodecError::malformed("the packet ends too early");

/// Reads fields off the front. Never panics, whatever the bytes are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// # Errors
    /// When something is left.
    pub fn end(self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError::malformed("the packet is too long")) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn byte(&mut self) -> Result<u8, CodecError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn packet_id(&mut self) -> Result<NonZeroU16, CodecError> {
        NonZeroU16::new(self.u16()?).ok_or(CodecError::malformed("packet identifier 0"))
    }

    /// A variable byte integer.
    pub fn var_int(&mut self) -> Result<u32, CodecError> {
        let mut number = 0_u32;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(CodecError::malformed("a number has more than four bytes"))
    }

    pub fn binary(&mut self) -> Result<&'a [u8], CodecError> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }

    /// UTF-8 without U+0000.
    pub fn text(&mut self) -> Result<&'a str, CodecError> {
        let text =
            std::str::from_utf8(self.binary()?).map_err(|_| CodecError::malformed("a text is not UTF-8"))?;
        check_text(text)?;
        Ok(text)
    }

    pub fn properties(&mut self) -> Result<Reader<'a>, CodecError> {
        let length = usize::try_from(self.var_int()?).unwrap_or(usize::MAX);
        self.take(length).map(Reader)
    }
}

/// # Errors
/// For a text with U+0000 (MQTT-1.5.4-2).
pub(super) fn check_text(text: &str) -> Result<(), CodecError> {
    if text.as_bytes().contains(&0) {
        return Err(CodecError::malformed("a text holds U+0000"));
    }
    Ok(())
}

/// Quality of service by its number.
pub(super) fn qos(number: u8) -> Result<QoS, CodecError> {
    match number {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        2 => Ok(QoS::ExactlyOnce),
        _ => Err(CodecError::malformed("QoS 3")),
    }
}

pub(super) const fn qos_number(qos: QoS) -> u8 {
    match qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => 2,
    }
}

/// A property that may stand only once.
pub(super) fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), CodecError> {
    if slot.replace(value).is_some() {
        return Err(CodecError::protocol("a property stands twice"));
    }
    Ok(())
}

/// Properties of acknowledgements: a reason and what users add.
pub(super) fn skip_reason_properties(reader: &mut Reader<'_>) -> Result<(), CodecError> {
    let mut properties = reader.properties()?;
    let mut reason = None;
    while !properties.is_empty() {
        match properties.byte()? {
            property::REASON_STRING => once(&mut reason, properties.text()?)?,
            property::USER => {
                properties.text()?;
                properties.text()?;
            }
            _ => return Err(CodecError::malformed("a property that does not belong here")),
        }
    }
    Ok(())
}

/// Writes a variable byte integer; what is longer than four bytes is refused before.
pub(super) fn put_remaining_length(mut number: usize, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = (number & 0x7F).to_le_bytes();
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Writes a length and as many bytes. What is longer than 65,535 is cut: texts are checked when they
/// come in.
pub(super) fn put_binary(bytes: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(length)).unwrap_or_default());
}
