//! Names that were checked once and are trusted afterwards.

use std::fmt;

/// A Kubernetes node name: an RFC 1123 subdomain of at most 253 characters.
///
/// It comes from a verified certificate on the cloud side and from the config file on the edge,
/// and is part of paths, subjects and store keys, so nothing unchecked may become one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct NodeName(String);

/// Why a text is not a name. `Display` names the text and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid node name: {rule}")]
pub struct InvalidName {
    pub text: String,
    pub rule: &'static str,
}

impl NodeName {
    /// Longest allowed name, in bytes (RFC 1123 subdomain as Kubernetes reads it).
    pub const MAX_BYTES: usize = 253;

    /// # Errors
    /// [`InvalidName`] for anything that is not lower-case letters, digits, `-` and `.`, each
    /// dot-separated part beginning and ending with a letter or digit.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let fail = |rule| {
            let text: String = text.chars().take(Self::MAX_BYTES + 1).collect();
            Err(InvalidName { text, rule })
        };
        if text.is_empty() {
            return fail("it is empty");
        }
        if text.len() > Self::MAX_BYTES {
            return fail("it is longer than 253 characters");
        }
        for part in text.split('.') {
            let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
            if part.is_empty() || !part.bytes().all(legal) {
                return fail("parts must be lower-case letters, digits and '-', separated by '.'");
            }
            if part.starts_with('-') || part.ends_with('-') {
                return fail("parts must begin and end with a letter or digit");
            }
        }
        Ok(Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for NodeName {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["edge-1", "a", "0", "edge.factory-2.example.com"] {
            assert!(NodeName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "Edge", "-a", "a-", "a..b", "a/b", "a b", "é", &"a".repeat(254)] {
            assert!(NodeName::parse(bad).is_err(), "{bad}");
        }
    }
}
