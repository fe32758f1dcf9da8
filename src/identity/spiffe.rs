//! SPIFFE IDs (protocol section 18; SPIFFE-ID standard, section 2).

use std::fmt;

/// A checked `spiffe://{trust domain}/{path}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeId {
    text: String,
    path_at: usize,
}

impl SpiffeId {
    /// Longest ID, in bytes.
    pub const MAX_BYTES: usize = 2048;

    /// # Errors
    /// The rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > Self::MAX_BYTES {
            return Err("a SPIFFE ID has at most 2048 bytes");
        }
        let Some(rest) = text.strip_prefix("spiffe://") else {
            return Err("a SPIFFE ID begins with spiffe://");
        };
        let domain = rest.split('/').next().unwrap_or_default();
        check_trust_domain(domain)?;
        for segment in rest.split('/').skip(1) {
            let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
            if segment.is_empty() || segment == "." || segment == ".." || !segment.bytes().all(legal) {
                return Err("path segments are letters, digits, '.', '-', '_', none empty, '.' or '..'");
            }
        }
        Ok(Self { text: text.to_owned(), path_at: text.len() - (rest.len() - domain.len()) })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.text.get(..self.path_at).and_then(|head| head.strip_prefix("spiffe://")).unwrap_or_default()
    }

    /// With its leading slash; empty for the ID of the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check_trust_domain(domain: &str) -> Result<(), &'static str> {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
    if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(legal) {
        return Err("a trust domain is 1 to 255 lower-case letters, digits, '.', '-' and '_'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids() {
        for (text, domain, path) in [
            ("spiffe://kubeedge.local/node/edge-1", "kubeedge.local", "/node/edge-1"),
            ("spiffe://kubeedge.local", "kubeedge.local", ""),
            ("spiffe://a_b-c.9/ns/Default/sa/x_y", "a_b-c.9", "/ns/Default/sa/x_y"),
        ] {
            let id = SpiffeId::parse(text).expect(text);
            assert_eq!((id.trust_domain(), id.path(), id.as_str()), (domain, path, text));
        }
        for bad in [
            "",
            "http://a/b",
            "SPIFFE://a/b",
            "spiffe://",
            "spiffe:///a",
            "spiffe://A/b",
            "spiffe://a:1/b",
            "spiffe://u@a/b",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/../b",
            "spiffe://a/.",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/%41",
            "spiffe://a/é",
            &format!("spiffe://{}/b", "a".repeat(256)),
            &format!("spiffe://a/{}", "b".repeat(2048)),
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "(spiffe://)?.{0,40}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            }
        }
    }
}
