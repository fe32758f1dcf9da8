//! The join server's decisions: routes, who may have a certificate, how often. No I/O.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant, SystemTime};

use crate::identity::NodePeer;
use crate::model::NodeName;
use crate::telemetry::identity::Refused;

/// Largest body of any request: a CSR is under 1 KiB, two with a key and a chain under 8
/// (users.md C10, CVE-2022-31075).
pub const MAX_BODY_BYTES: usize = 64 << 10;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `GET /ca.crt`.
    CaCertificate,
    /// `GET /edge.crt`.
    EdgeCertificate,
    /// `GET /node/{name}`.
    Node(NodeName),
    /// `POST /identity/node`: ours.
    NodeIdentity,
    /// `GET /bundle.json`: the SPIFFE bundle of the trust domain.
    Bundle,
    Unknown,
}

/// The routes of protocol section 5.3 that this server has, and ours.
#[must_use]
pub fn route(method: &str, path: &str) -> Route {
    match (method, path) {
        ("GET", _) => {}
        ("POST", "/identity/node") => return Route::NodeIdentity,
        _ => return Route::Unknown,
    }
    match path {
        "/ca.crt" => Route::CaCertificate,
        "/bundle.json" => Route::Bundle,
        "/edge.crt" => Route::EdgeCertificate,
        _ => match path.strip_prefix("/node/").map(NodeName::parse) {
            Some(Ok(name)) => Route::Node(name),
            _ => Route::Unknown,
        },
    }
}

/// How the caller of `/edge.crt` shows who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// The node's own certificate: rotation. It is good from then on.
    Certificate { node: NodeName, not_before: SystemTime },
    /// A join token, parts 2 to 4; still to be verified.
    Token { node: NodeName, jwt: String },
}

/// A refusal: HTTP status, what is counted, and the text the caller reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub code: u16,
    pub reason: Refused,
    pub why: String,
}

/// Longest reason, in characters: some repeat what the caller sent.
const MAX_WHY: usize = 600;

impl Denied {
    #[must_use]
    pub fn new(code: u16, reason: Refused, why: impl Into<String>) -> Self {
        let mut why: String = why.into();
        if let Some((end, _)) = why.char_indices().nth(MAX_WHY) {
            why.truncate(end);
            why.push('\u{2026}');
        }
        Self { code, reason, why }
    }
}

/// Is the bearer of a client certificate `node`, still? A connection may outlive its certificate.
///
/// # Errors
/// [`Denied`] with 401 or 403.
pub fn certified(peer: &NodePeer, node: &NodeName, now: SystemTime) -> Result<(), Denied> {
    if peer.valid.not_after <= now {
        return Err(Denied::new(401, Refused::Expired, "the client certificate ended"));
    }
    match peer.identity.node() {
        Some(certified) if certified == *node => Ok(()),
        Some(certified) => {
            let why = format!("the certificate of node {certified} cannot ask for node {node}");
            Err(Denied::new(403, Refused::OtherNode, why))
        }
        None => Err(Denied::new(403, Refused::Chain, "the client certificate is not a node's")),
    }
}

/// Reads the credentials of a request for a certificate. A client certificate decides alone, as
/// in KubeEdge (protocol section 5.3): a token beside it is not looked at.
///
/// # Errors
/// [`Denied`] with 400, 401 or 403.
pub fn credential(
    peer: Option<&NodePeer>,
    node_header: Option<&str>,
    authorization: Option<&str>,
    now: SystemTime,
) -> Result<Credential, Denied> {
    let wrong = |why: String| Denied::new(400, Refused::Malformed, why);
    let header = node_header.ok_or_else(|| wrong("header NodeName is missing".to_owned()))?;
    let node = NodeName::parse(header).map_err(|err| wrong(format!("header NodeName: {err}")))?;
    if let Some(peer) = peer {
        certified(peer, &node, now)?;
        return Ok(Credential::Certificate { node, not_before: peer.valid.not_before });
    }
    let refused = |why: &str| Denied::new(401, Refused::TokenInvalid, why);
    let text = authorization.ok_or_else(|| refused("header Authorization is missing"))?;
    let mut words = text.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("Bearer"), Some(jwt), None) if !jwt.is_empty() => {
            Ok(Credential::Token { node, jwt: jwt.to_owned() })
        }
        _ => Err(refused("header Authorization must be \"Bearer <token>\"")),
    }
}

/// What of an address counts for limits: all of an IPv6 /64 are one peer, every machine has so many.
#[must_use]
pub fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// Token buckets, by peer address ([`peer_of`]) or by node, checked before anything else is done.
#[derive(Debug)]
pub struct RateLimit<K = IpAddr> {
    /// Requests at once.
    burst: f64,
    /// Requests a second, in the long run.
    per_sec: f64,
    buckets: HashMap<K, Bucket>,
    max_peers: usize,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Eq + Hash> RateLimit<K> {
    /// At most `max_peers` are remembered; when all of them are busy, new ones wait.
    #[must_use]
    pub fn new(burst: u32, per_sec: u32, max_peers: usize) -> Self {
        Self { burst: burst.into(), per_sec: per_sec.into(), buckets: HashMap::new(), max_peers }
    }

    /// May `peer` make one more request now?
    pub fn admit(&mut self, peer: K, now: Instant) -> bool {
        if !self.buckets.contains_key(&peer) && self.buckets.len() >= self.max_peers {
            let refill = Duration::from_secs_f64(self.burst / self.per_sec.max(0.001));
            self.buckets.retain(|_, bucket| bucket.at + refill > now);
            if self.buckets.len() >= self.max_peers {
                return false;
            }
        }
        let bucket = self.buckets.entry(peer).or_insert(Bucket { tokens: self.burst, at: now });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * self.per_sec).min(self.burst);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let node = |name| Route::Node(NodeName::parse(name).unwrap());
        for (method, path, want) in [
            ("GET", "/ca.crt", Route::CaCertificate),
            ("GET", "/edge.crt", Route::EdgeCertificate),
            ("GET", "/node/edge-1", node("edge-1")),
            ("GET", "/node/", Route::Unknown),
            ("GET", "/node/a/b", Route::Unknown),
            ("GET", "/node/..%2fsecrets", Route::Unknown),
            ("POST", "/ca.crt", Route::Unknown),
            ("POST", "/identity/node", Route::NodeIdentity),
            ("GET", "/identity/node", Route::Unknown),
            ("GET", "/bundle.json", Route::Bundle),
            ("POST", "/bundle.json", Route::Unknown),
            ("GET", "/", Route::Unknown),
        ] {
            assert_eq!(route(method, path), want, "{method} {path}");
        }
    }

    #[test]
    fn credentials_without_certificate() {
        let now = SystemTime::now();
        let code = |node, auth| credential(None, node, auth, now).map_err(|denied| denied.code);
        for (node, auth, want) in [
            (None, Some("Bearer a.b.c"), Err(400)),
            (Some("Bad Name"), Some("Bearer a.b.c"), Err(400)),
            (Some("edge-1"), None, Err(401)),
            (Some("edge-1"), Some("a.b.c"), Err(401)),
            (Some("edge-1"), Some("Bearer a.b.c d"), Err(401)),
            (Some("edge-1"), Some("Bearer "), Err(401)),
            (Some("edge-1"), Some("Basic a.b.c"), Err(401)),
        ] {
            assert_eq!(code(node, auth), want, "{node:?} {auth:?}");
        }
        let node = NodeName::parse("edge-1").unwrap();
        let want = Credential::Token { node, jwt: "a.b.c".into() };
        assert_eq!(credential(None, Some("edge-1"), Some("Bearer a.b.c"), now), Ok(want));
    }

    #[test]
    fn one_machine_with_many_addresses() {
        let now = Instant::now();
        let mut limit = RateLimit::new(2, 1, 2);
        let mut admit = |address: &str| limit.admit(peer_of(address.parse().unwrap()), now);
        assert!(admit("2001:db8::1") && admit("2001:db8::2"));
        assert!(!admit("2001:db8::3") && !admit("2001:db8::ffff:1:2"), "the same /64");
        assert!(admit("2001:db8:0:1::1"), "another one still finds a place");
        assert!(!admit("192.0.2.1") && !admit("::ffff:192.0.2.1"), "no room for a third");
    }

    #[test]
    fn a_reason_does_not_repeat_whole_bodies() {
        let denied = Denied::new(400, Refused::Malformed, "\u{1}".repeat(60_000));
        assert_eq!(denied.why.chars().count(), MAX_WHY + 1);
        assert_eq!(Denied::new(400, Refused::Malformed, "short").why, "short");
    }

    #[test]
    fn rate_limit() {
        let start = Instant::now();
        let peer = |n| IpAddr::from([10, 0, 0, n]);
        let mut limit = RateLimit::new(2, 1, 2);
        let at = |ms| start + Duration::from_millis(ms);
        for (ms, n, want) in [
            (0, 1, true),
            (0, 1, true),
            (0, 1, false),
            (500, 1, false),
            (1_600, 1, true),
            (1_600, 2, true),
            (1_600, 3, false), // no room to remember a third
            (9_000, 3, true),  // the others are idle now
        ] {
            assert_eq!(limit.admit(peer(n), at(ms)), want, "{n} at {ms} ms");
        }
    }
}
