//! How a node without a session shows who it is: by a token, by a certificate of its factory, or by
//! the key of its last certificate. No I/O.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::join::{Denied, certified};
use super::revoked::{self, Revoked};
use crate::identity::{
    FactoryRoots, JoinClaims, JoinTokens, NodePeer, REENTRY_CONTEXT, SvidIssuer, TokenError, TrustBundle,
    X509POP_CONTEXT, check_jwt_key, proven, validity, verify_proof, verify_x509_svid,
};
use crate::model::NodeName;
use crate::model::identity::{AttestationRequest, Evidence, Proof, RenewalRequest};
use crate::telemetry::identity::Refused;

/// What a node wants signed, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub csr: Vec<u8>,
    pub ca_csr: Vec<u8>,
    pub jwt_key: Value,
    /// The request as a proof signs it.
    pub proven: Vec<u8>,
}

impl Wanted {
    /// # Errors
    /// [`Denied`] with 400 naming the field.
    pub fn read(request: &RenewalRequest) -> Result<Self, Denied> {
        let wrong = |why: String| Denied::new(400, Refused::Malformed, why);
        let der = |field: &str, text: &str| {
            STANDARD.decode(text).map_err(|_| wrong(format!("{field} is not base64")))
        };
        check_jwt_key(&request.jwt_key).map_err(|why| wrong(format!("jwtKey: {why}")))?;
        Ok(Self {
            csr: der("csr", &request.csr)?,
            ca_csr: der("caCsr", &request.ca_csr)?,
            jwt_key: request.jwt_key.clone(),
            proven: proven(request),
        })
    }
}

/// Reads the body of `POST /identity/node`.
///
/// # Errors
/// [`Denied`] with 400.
pub fn read(body: &[u8]) -> Result<(NodeName, Evidence, Wanted), Denied> {
    let wrong = |why: String| Denied::new(400, Refused::Malformed, why);
    let asked: AttestationRequest =
        serde_json::from_slice(body).map_err(|err| wrong(format!("the body is no request: {err}")))?;
    let node = NodeName::parse(&asked.node).map_err(|err| wrong(format!("node: {err}")))?;
    let wanted = Wanted::read(&asked.request)?;
    Ok((node, asked.evidence, wanted))
}

/// What evidence is held against.
pub struct World<'a> {
    pub tokens: &'a JoinTokens,
    /// `None`: `identity.factoryCaFile` is not set.
    pub factory: Option<&'a FactoryRoots>,
    pub bundle: &'a TrustBundle,
    /// So long after its end an SVID still counts.
    pub grace: Duration,
    pub revoked: &'a Revoked,
    pub now: SystemTime,
}

/// What convinced the cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A token, not yet taken.
    Token(JoinClaims),
    Factory,
    /// Serial number of the old certificate.
    Reentry(String),
    Renewal(String),
}

impl Way {
    /// For log and audit.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Token(_) => "joinToken",
            Self::Factory => "x509pop",
            Self::Reentry(_) => "svid",
            Self::Renewal(_) => "certificate",
        }
    }
}

/// Evidence that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub way: Way,
    /// What is signed must not be good before.
    pub not_before_min: Option<SystemTime>,
}

/// Is the caller `node`? `asked` is what its proof must be over ([`Wanted::proven`]). Its TLS client certificate, where there is one, decides alone.
///
/// # Errors
/// [`Denied`] with 400, 401 or 403.
pub fn judge(
    world: &World<'_>,
    peer: Option<&NodePeer>,
    node: &NodeName,
    evidence: &Evidence,
    asked: &[u8],
) -> Result<Shown, Denied> {
    if let Some(peer) = peer {
        certified(peer, node, world.now)?;
        let not_before_min = revoked::check(world.revoked, node, Some(peer.valid.not_before))?;
        return Ok(Shown { way: Way::Renewal(peer.serial_hex.clone()), not_before_min });
    }
    match evidence {
        Evidence::JoinToken { token: jwt } => {
            let claims = token(world.tokens, jwt, node, Reusable::Never, world.now)?;
            let not_before_min = revoked::check(world.revoked, node, None)?;
            Ok(Shown { way: Way::Token(claims), not_before_min })
        }
        Evidence::X509pop { proof } => {
            let Some(factory) = world.factory else {
                let why = "factory certificates are not accepted here (identity.factoryCaFile is not set)";
                return Err(Denied::new(401, Refused::Disabled, why));
            };
            let chain = chain_of(X509POP_CONTEXT, node, asked, proof)?;
            let certified = factory
                .node_of(&chain, world.now)
                .map_err(|err| Denied::new(401, Refused::Chain, err.to_string()))?;
            if certified != *node {
                let why = format!("the factory certificate of {certified} cannot ask for node {node}");
                return Err(Denied::new(403, Refused::OtherNode, why));
            }
            let not_before_min = revoked::check(world.revoked, node, None)?;
            Ok(Shown { way: Way::Factory, not_before_min })
        }
        Evidence::Svid { proof } => reentry(world, node, asked, proof),
    }
}

/// The node's last SVID, which may have ended within the grace.
fn reentry(world: &World<'_>, node: &NodeName, asked: &[u8], proof: &Proof) -> Result<Shown, Denied> {
    let chain = chain_of(REENTRY_CONTEXT, node, asked, proof)?;
    let bad = |why: String| Denied::new(401, Refused::Chain, why);
    let leaf = chain.first().ok_or_else(|| bad("the proof has no certificate".to_owned()))?;
    let ends = validity(leaf).map_err(|err| bad(err.to_string()))?.not_after;
    // An ended certificate is judged as of its last second: what signed it may have ended since.
    let then = match ends.checked_sub(Duration::from_secs(1)) {
        Some(last) if ends <= world.now => last,
        _ => world.now,
    };
    let svid = verify_x509_svid(&chain, world.bundle, then).map_err(|err| bad(err.to_string()))?;
    if svid.issuer != SvidIssuer::Cloud {
        return Err(bad("a node's own CA does not sign for nodes".to_owned()));
    }
    match svid.peer.node() {
        Some(certified) if certified == *node => {}
        Some(certified) => {
            let why = format!("the certificate of node {certified} cannot ask for node {node}");
            return Err(Denied::new(403, Refused::OtherNode, why));
        }
        None => return Err(bad("the certificate is not a node's".to_owned())),
    }
    let not_before_min = revoked::check(world.revoked, node, Some(svid.not_before))?;
    let late = world.now.duration_since(ends).unwrap_or_default();
    if late > world.grace {
        let why = format!(
            "the certificate of node {node} ended {} s ago, later than identity.reentryGraceSecs ({} s) allows: \
             join again with a new token",
            late.as_secs(),
            world.grace.as_secs()
        );
        return Err(Denied::new(401, Refused::GraceOver, why));
    }
    Ok(Shown { way: Way::Reentry(svid.serial_hex), not_before_min })
}

fn chain_of(context: &str, node: &NodeName, asked: &[u8], proof: &Proof) -> Result<Vec<Vec<u8>>, Denied> {
    verify_proof(context, node, asked, proof).map_err(|err| Denied::new(401, Refused::Proof, err.to_string()))
}

/// Does a route take reusable tokens?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reusable {
    /// Nodes of ours have better ways.
    Never,
    /// `identity.reusableTokens`.
    If(bool),
}

/// Verifies a join token for a node. Whether it was used or revoked is looked up elsewhere.
///
/// # Errors
/// [`Denied`] with 401.
pub fn token(
    tokens: &JoinTokens,
    jwt: &str,
    node: &NodeName,
    reusable: Reusable,
    now: SystemTime,
) -> Result<JoinClaims, Denied> {
    let claims = tokens.verify(jwt, now).map_err(|err| {
        let reason = if err == TokenError::Expired { Refused::TokenExpired } else { Refused::TokenInvalid };
        Denied::new(401, reason, err.to_string())
    })?;
    claims.admits(node).map_err(|err| {
        let bound = claims.node.as_ref().map(ToString::to_string).unwrap_or_default();
        Denied::new(401, Refused::OtherNode, format!("{err}: it is for {bound}"))
    })?;
    if claims.reusable {
        let why = match reusable {
            Reusable::If(true) => return Ok(claims),
            Reusable::If(false) => "reusable tokens are not accepted here (identity.reusableTokens is off)",
            Reusable::Never => "reusable tokens are for KubeEdge's own edges: make one with `keadm gettoken`",
        };
        return Err(Denied::new(401, Refused::TokenReusable, why));
    }
    Ok(claims)
}

#[cfg(test)]
#[path = "attest_tests.rs"]
mod tests;
