//! The client certificate a node shows in a TLS handshake that succeeded.

use super::key::hex;
use super::peer::parse;
use super::{IdentityError, PeerIdentity, Validity, sha256_hex, validity};

/// Whose certificate it is, until when it is good, and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePeer {
    pub identity: PeerIdentity,
    pub valid: Validity,
    /// Lower-case hex.
    pub serial_hex: String,
}

impl NodePeer {
    /// Reads a chain, leaf first, that TLS has verified. A leaf that may have come from a node's own
    /// intermediate CA (path length 0) is refused: a node signs for its workloads, never for nodes.
    /// Our TLS servers refuse it before; this holds for whatever server asked rustls alone, too.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] for such a chain and for a leaf that leaves room for doubt.
    pub fn read<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, IdentityError> {
        let fail = |why: &str| IdentityError::Certificate(why.to_owned());
        let mut chain = chain.into_iter();
        let leaf = chain.next().ok_or_else(|| fail("there is none"))?;
        for der in chain {
            let constraints =
                parse(der)?.basic_constraints().map(|it| it.map(|it| it.value.path_len_constraint));
            match constraints {
                Ok(Some(Some(0))) => return Err(fail("it comes from a node's own CA")),
                Ok(_) => {}
                Err(_) => return Err(fail("its chain holds broken basic constraints")),
            }
        }
        let serial_hex = hex(parse(leaf)?.raw_serial());
        Ok(Self { identity: PeerIdentity::from_der(leaf)?, valid: validity(leaf)?, serial_hex })
    }
}

/// Main facts of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertFacts {
    /// Lower-case hex.
    pub serial_hex: String,
    pub valid: Validity,
    /// Lower-case hex of the public key's SHA-256.
    pub key_hash: String,
}

/// Reads a certificate (DER) that was verified or signed here.
///
/// # Errors
/// [`IdentityError::Certificate`] if it is none.
pub fn cert_facts(der: &[u8]) -> Result<CertFacts, IdentityError> {
    let cert = parse(der)?;
    Ok(CertFacts {
        serial_hex: hex(cert.raw_serial()),
        valid: validity(der)?,
        key_hash: sha256_hex(cert.public_key().raw),
    })
}
