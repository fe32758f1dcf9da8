//! What a node certificate says, whether it may be used, and when to renew it.

use std::time::SystemTime;

use crate::identity::{IdentityError, PeerIdentity, cert_der_from_pem, validity};
use crate::model::NodeName;

/// The parts of the stored certificate that decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The node it was issued for, if it is a node's.
    pub node: Option<NodeName>,
    pub common_name: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// Whether a certificate may open a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Usable,
    /// Its time is over: it may still convince the cloud to renew it, else a token is needed.
    Expired,
    /// It was issued for somebody else. Never replaced without the operator.
    OtherNode,
}

impl Certificate {
    /// # Errors
    /// [`IdentityError::Certificate`] when the text holds no readable X.509 certificate.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let Some(der) = cert_der_from_pem(pem) else {
            return Err(IdentityError::Certificate("it is not a PEM certificate".to_owned()));
        };
        Self::from_der(&der)
    }

    /// # Errors
    /// [`IdentityError::Certificate`] when the bytes are no X.509 certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let peer = PeerIdentity::from_der(der)?;
        let validity = validity(der)?;
        Ok(Self {
            node: peer.node(),
            common_name: peer.common_name,
            not_before: validity.not_before,
            not_after: validity.not_after,
        })
    }

    /// May `node` use this certificate at `now`? A clock before `not_before` does not stop it:
    /// edges without a battery start in the past, and the cloud checks with its own clock.
    #[must_use]
    pub fn standing(&self, node: &NodeName, now: SystemTime) -> Standing {
        if self.node.as_ref() != Some(node) {
            Standing::OtherNode
        } else if now >= self.not_after {
            Standing::Expired
        } else {
            Standing::Usable
        }
    }

    /// When to renew: at about half of its life. `random`, uniform in 0.0..1.0, spreads a fleet
    /// over 45 to 55 percent.
    #[must_use]
    pub fn renew_at(&self, random: f64) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life.mul_f64(0.45 + 0.1 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn unix(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn certificate(node: &str) -> Certificate {
        Certificate {
            node: NodeName::parse(node).ok(),
            common_name: format!("system:node:{node}"),
            not_before: unix(1_000_000),
            not_after: unix(1_001_000),
        }
    }

    #[test]
    fn standing_by_name_and_time() {
        let node = NodeName::parse("edge-1").unwrap();
        for (case, name, at, want) in [
            ("good", "edge-1", 1_000_500, Standing::Usable),
            ("clock behind", "edge-1", 5, Standing::Usable),
            ("over", "edge-1", 1_001_000, Standing::Expired),
            ("other", "edge-2", 1_000_500, Standing::OtherNode),
            ("other and over", "edge-2", 2_000_000, Standing::OtherNode),
            ("nobody", "NOT A NODE", 1_000_500, Standing::OtherNode),
        ] {
            assert_eq!(certificate(name).standing(&node, unix(at)), want, "{case}");
        }
    }

    #[test]
    fn renewed_around_half_life() {
        let certificate = certificate("edge-1");
        assert_eq!(certificate.renew_at(0.0), unix(1_000_450));
        assert_eq!(certificate.renew_at(0.5), unix(1_000_500));
        assert_eq!(certificate.renew_at(9.0), unix(1_000_550));
        let backwards = Certificate { not_after: unix(5), ..certificate };
        assert_eq!(backwards.renew_at(0.5), unix(1_000_000), "no life: at once, no panic");
    }
}
