//! Metrics of identity (design section 4): when certificates end, what was issued and refused, and
//! what the audit log took.

use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Counter, Unit, counter, describe_counter, describe_gauge, gauge};

const EXPIRY: &str = "kubeedge_identity_svid_expiry_seconds";
const LIFETIME: &str = "kubeedge_identity_svid_lifetime_seconds";
const ISSUED: &str = "kubeedge_identity_issued_total";
const REFUSED: &str = "kubeedge_identity_refused_total";
const AUDIT_RECORDS: &str = "kubeedge_identity_audit_records_total";
const AUDIT_DROPPED: &str = "kubeedge_identity_audit_dropped_total";

/// When the certificate of a kind ends. There is no gauge before the first certificate: it would
/// look expired.
#[derive(Debug, Clone, Copy)]
pub struct IdentityMetrics {
    kind: &'static str,
}

impl IdentityMetrics {
    /// Of this node's certificate.
    #[must_use]
    pub fn node() -> Self {
        Self::of("node")
    }

    /// Of cloudcore's server certificate.
    #[must_use]
    pub fn cloud() -> Self {
        Self::of("cloud")
    }

    /// Of cloudcore's issuing CA.
    #[must_use]
    pub fn issuing_ca() -> Self {
        Self::of("issuing_ca")
    }

    /// Of this node's intermediate CA, which signs its workloads.
    #[must_use]
    pub fn node_ca() -> Self {
        Self::of("node_ca")
    }

    /// Of the root CA in use.
    #[must_use]
    pub fn root() -> Self {
        Self::of("root")
    }

    fn of(kind: &'static str) -> Self {
        describe_gauge!(EXPIRY, Unit::Seconds, "When the certificate ends, unix time, by kind");
        describe_gauge!(LIFETIME, Unit::Seconds, "How long the certificate lives as a whole, by kind");
        Self { kind }
    }

    /// A certificate was loaded or renewed; it is valid in this time.
    pub fn set_validity(&self, begin: SystemTime, end: SystemTime) {
        let since = end.duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!(EXPIRY, "kind" => self.kind).set(since.as_secs_f64());
        let life = end.duration_since(begin).unwrap_or_default();
        gauge!(LIFETIME, "kind" => self.kind).set(life.as_secs_f64());
    }
}

/// What is issued: label `kind` of `kubeedge_identity_issued_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issued {
    /// A node's SVID.
    Node,
    /// A node's intermediate CA.
    NodeCa,
    /// The SVID of a node of KubeEdge's (`GET /edge.crt`).
    GoNode,
    /// A certificate of cloudcore's own: server, client, signer.
    Cloud,
    /// The issuing CA.
    IssuingCa,
    X509Svid,
    JwtSvid,
    /// Answered again because the answer was lost: same token, key and node.
    Repeated,
}

impl Issued {
    pub const ALL: [Self; 8] = [
        Self::Node,
        Self::NodeCa,
        Self::GoNode,
        Self::Cloud,
        Self::IssuingCa,
        Self::X509Svid,
        Self::JwtSvid,
        Self::Repeated,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::NodeCa => "node_ca",
            Self::GoNode => "go_node",
            Self::Cloud => "cloud",
            Self::IssuingCa => "issuing_ca",
            Self::X509Svid => "x509_svid",
            Self::JwtSvid => "jwt_svid",
            Self::Repeated => "repeated",
        }
    }
}

/// Why something was turned away: label `reason` of `kubeedge_identity_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A token that is none, or whose signature is not ours.
    TokenInvalid,
    TokenExpired,
    TokenUsed,
    TokenRevoked,
    /// A reusable token where they are off.
    TokenReusable,
    /// Token, certificate or request of another node.
    OtherNode,
    /// A certificate request with names or fields it must not have.
    Request,
    /// A signature that must prove a key does not.
    Proof,
    /// A chain that leads to no root of ours, or that is malformed.
    Chain,
    Expired,
    NotYetValid,
    OtherTrustDomain,
    Revoked,
    Cloned,
    /// Longer gone than the grace allows.
    GraceOver,
    /// The caller is no process of a pod, or changed while it was looked at.
    NotAttested,
    /// The caller is known and has no identity.
    NoIdentity,
    Seal,
    StaticPod,
    ImagePolicy,
    Topic,
    /// A peer that a local door does not admit.
    Door,
    /// A bound was reached: callers, streams, sizes.
    Limit,
    /// The request is not understood.
    Malformed,
    /// The configuration does not allow this way.
    Disabled,
    /// A right request at a time when it cannot be decided or issued.
    Unavailable,
}

impl Refused {
    pub const ALL: [Self; 26] = [
        Self::TokenInvalid,
        Self::TokenExpired,
        Self::TokenUsed,
        Self::TokenRevoked,
        Self::TokenReusable,
        Self::OtherNode,
        Self::Request,
        Self::Proof,
        Self::Chain,
        Self::Expired,
        Self::NotYetValid,
        Self::OtherTrustDomain,
        Self::Revoked,
        Self::Cloned,
        Self::GraceOver,
        Self::NotAttested,
        Self::NoIdentity,
        Self::Seal,
        Self::StaticPod,
        Self::ImagePolicy,
        Self::Topic,
        Self::Door,
        Self::Limit,
        Self::Malformed,
        Self::Disabled,
        Self::Unavailable,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TokenInvalid => "token_invalid",
            Self::TokenExpired => "token_expired",
            Self::TokenUsed => "token_used",
            Self::TokenRevoked => "token_revoked",
            Self::TokenReusable => "token_reusable",
            Self::OtherNode => "other_node",
            Self::Request => "request",
            Self::Proof => "proof",
            Self::Chain => "chain",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::OtherTrustDomain => "other_trust_domain",
            Self::Revoked => "revoked",
            Self::Cloned => "cloned",
            Self::GraceOver => "grace_over",
            Self::NotAttested => "not_attested",
            Self::NoIdentity => "no_identity",
            Self::Seal => "seal",
            Self::StaticPod => "static_pod",
            Self::ImagePolicy => "image_policy",
            Self::Topic => "topic",
            Self::Door => "door",
            Self::Limit => "limit",
            Self::Malformed => "malformed",
            Self::Disabled => "disabled",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Counts what is issued and refused. Both programs have one of everything: copies count together.
#[derive(Debug, Clone, Copy)]
pub struct IdentityCounters;

impl IdentityCounters {
    /// Describes the counters.
    #[must_use]
    pub fn new() -> Self {
        describe_counter!(ISSUED, "Certificates and tokens issued, by kind");
        describe_counter!(REFUSED, "What was turned away, by reason");
        // From 0 on: the first clone or revoked node must already be an increase.
        for why in Refused::ALL {
            counter!(REFUSED, "reason" => why.label()).increment(0);
        }
        Self
    }

    pub fn issued(self, what: Issued) {
        counter!(ISSUED, "kind" => what.label()).increment(1);
    }

    pub fn refused(self, why: Refused) {
        counter!(REFUSED, "reason" => why.label()).increment(1);
    }
}

impl Default for IdentityCounters {
    fn default() -> Self {
        Self::new()
    }
}

/// The audit log.
#[derive(Clone)]
pub struct AuditMetrics {
    /// Facts that found the queue full, or a disk that took nothing.
    pub dropped: Counter,
}

impl AuditMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_counter!(AUDIT_RECORDS, "Records of the audit log on disk, by action and outcome");
        describe_counter!(AUDIT_DROPPED, "Facts the audit log could not take");
        Self { dropped: counter!(AUDIT_DROPPED) }
    }

    /// A record is on disk. `action` is one of the few actions there are.
    pub fn recorded(&self, action: &'static str, allowed: bool) {
        let outcome = if allowed { "allowed" } else { "refused" };
        counter!(AUDIT_RECORDS, "action" => action, "outcome" => outcome).increment(1);
    }
}

impl Default for AuditMetrics {
    fn default() -> Self {
        Self::new()
    }
}
