//! SUBSCRIBE and UNSUBSCRIBE (sections 3.8 and 3.10).

use super::CodecError;
use super::fields::{Reader, once, property, qos};
use crate::mqtt::{Filter, Packet, RetainHandling, Subscribe, Unsubscribe, Version};

/// Entries of one SUBSCRIBE or UNSUBSCRIBE; each costs memory far beyond its three bytes.
const MAX_FILTERS: usize = 4_096;

pub(super) fn decode(content: &[u8], version: Version) -> Result<Packet, CodecError> {
    let mut reader = Reader::new(content);
    let id = reader.packet_id()?;
    let mut subscription_id = None;
    if version == Version::V5 {
        let mut properties = reader.properties()?;
        while !properties.is_empty() {
            match properties.byte()? {
                property::SUBSCRIPTION_ID => {
                    let number = properties.var_int()?;
                    if number == 0 {
                        return Err(CodecError::protocol("subscription identifier 0"));
                    }
                    once(&mut subscription_id, number)?;
                }
                property::USER => {
                    properties.text()?;
                    properties.text()?;
                }
                _ => return Err(CodecError::malformed("a property that does not belong to SUBSCRIBE")),
            }
        }
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = reader.text()?.to_owned();
        filters.push(options(filter, reader.byte()?, version)?);
        if filters.len() > MAX_FILTERS {
            return Err(CodecError::protocol("too many filters in one packet"));
        }
    }
    if filters.is_empty() {
        return Err(CodecError::protocol("SUBSCRIBE without a filter"));
    }
    Ok(Packet::Subscribe(Box::new(Subscribe { id, subscription_id, filters })))
}

fn options(filter: String, byte: u8, version: Version) -> Result<Filter, CodecError> {
    let reserved = if version == Version::V5 { 0b1100_0000 } else { 0b1111_1100 };
    if byte & reserved != 0 {
        return Err(CodecError::malformed("reserved bits of a subscription are set"));
    }
    let retain_handling = match byte >> 4 {
        0 => RetainHandling::Always,
        1 => RetainHandling::IfNew,
        2 => RetainHandling::Never,
        _ => return Err(CodecError::protocol("retain handling 3")),
    };
    Ok(Filter {
        filter,
        qos: qos(byte & 3)?,
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        retain_handling,
    })
}

pub(super) fn decode_unsubscribe(content: &[u8], version: Version) -> Result<Packet, CodecError> {
    let mut reader = Reader::new(content);
    let id = reader.packet_id()?;
    if version == Version::V5 {
        let mut properties = reader.properties()?;
        while !properties.is_empty() {
            if properties.byte()? != property::USER {
                return Err(CodecError::malformed("a property that does not belong to UNSUBSCRIBE"));
            }
            properties.text()?;
            properties.text()?;
        }
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(reader.text()?.to_owned());
        if filters.len() > MAX_FILTERS {
            return Err(CodecError::protocol("too many filters in one packet"));
        }
    }
    if filters.is_empty() {
        return Err(CodecError::protocol("UNSUBSCRIBE without a filter"));
    }
    Ok(Packet::Unsubscribe(Box::new(Unsubscribe { id, filters })))
}
