//! What a node certificate says, whether it may be used, and when to renew it.

use std::time::{Duration, SystemTime};

use super::clock::shown;
use crate::identity::{IdentityError, PeerIdentity, SpiffeId, cert_der_from_pem, validity};
use crate::model::NodeName;
use crate::supervise::doubled;

const LEAST_PAUSE: Duration = Duration::from_secs(1);
const MOST_PAUSE: Duration = Duration::from_secs(300);

/// The parts of the stored certificate that decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The node it was issued for, if it is a node's.
    pub node: Option<NodeName>,
    pub common_name: String,
    /// Of its SPIFFE ID; empty without one.
    pub trust_domain: String,
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
        let id = peer.spiffe_id.as_deref().and_then(|id| SpiffeId::parse(id).ok());
        Ok(Self {
            node: peer.node(),
            trust_domain: id.map(|id| id.trust_domain().to_owned()).unwrap_or_default(),
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

    /// What is odd about it at `now`, for the log: ahead of its time is a clock that is wrong, past
    /// it may be one.
    #[must_use]
    pub fn untimely(&self, now: SystemTime) -> Option<String> {
        if let Ok(early) = self.not_before.duration_since(now)
            && !early.is_zero()
        {
            return Some(format!(
                "the certificate is not yet valid: it begins at {}, in {} s by this machine's clock, which is \
                 probably behind",
                shown(self.not_before),
                early.as_secs()
            ));
        }
        let late = now.duration_since(self.not_after).ok()?;
        Some(format!("the certificate expired at {}, {} s ago", shown(self.not_after), late.as_secs()))
    }

    /// When to renew: at about half of its life. `random`, uniform in 0.0..1.0, spreads a fleet
    /// over 45 to 55 percent.
    #[must_use]
    pub fn renew_at(&self, random: f64) -> SystemTime {
        self.not_before + self.life().mul_f64(0.45 + 0.1 * random.clamp(0.0, 1.0))
    }

    /// A moment at which it is good, the nearest to `now`.
    #[must_use]
    pub fn within(&self, now: SystemTime) -> SystemTime {
        let last = self.not_after.checked_sub(Duration::from_secs(1)).unwrap_or(self.not_after);
        now.min(last).max(self.not_before)
    }

    fn life(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

/// When a node renews what it holds: the SVID, and the intermediate CA if that ends sooner. Never at
/// once after a renewal: a cloud that issues for an odd time does not make a loop.
#[must_use]
pub fn next_renewal(
    svid: &Certificate,
    node_ca: Option<&Certificate>,
    random: f64,
    now: SystemTime,
) -> SystemTime {
    let least = now + (svid.life() / 20).max(Duration::from_secs(1));
    let first =
        node_ca.map(|ca| ca.renew_at(random)).into_iter().fold(svid.renew_at(random), SystemTime::min);
    first.max(least)
}

/// The pause after `failures` renewals in a row that failed: doubling from a second, at most a tenth
/// of the certificate's life and five minutes. `random` is uniform in 0.0..1.0.
#[must_use]
pub fn retry_pause(svid: Option<&Certificate>, failures: u32, random: f64) -> Duration {
    let life = svid.map_or(MOST_PAUSE, Certificate::life);
    let most = (life / 10).clamp(LEAST_PAUSE, MOST_PAUSE);
    let limit = doubled(LEAST_PAUSE, failures, most);
    LEAST_PAUSE / 2 + (limit - LEAST_PAUSE / 2).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn certificate(node: &str) -> Certificate {
        Certificate {
            node: NodeName::parse(node).ok(),
            common_name: format!("system:node:{node}"),
            trust_domain: "kubeedge.local".to_owned(),
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
    fn not_yet_valid_and_expired_are_told_apart() {
        for (case, at, want) in [
            ("good", 1_000_500, None),
            ("just begun", 1_000_000, None),
            ("an hour early", 996_400, Some("not yet valid: it begins at 1970-01-12T13:46:40Z, in 3600 s")),
            ("an hour late", 1_004_600, Some("expired at 1970-01-12T14:03:20Z, 3600 s ago")),
        ] {
            match (certificate("edge-1").untimely(unix(at)), want) {
                (None, None) => {}
                (Some(text), Some(want)) => assert!(text.contains(want), "{case}: {text}"),
                (got, _) => panic!("{case}: {got:?}"),
            }
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

    #[test]
    fn whichever_ends_first_decides_and_never_at_once() {
        let svid = certificate("edge-1");
        let long = Certificate { not_after: unix(2_000_000), ..svid.clone() };
        let short = Certificate { not_after: unix(1_000_100), ..svid.clone() };
        for (case, svid, node_ca, now, want) in [
            ("no node CA", &svid, None, 1_000_000, 1_000_500),
            ("a long one", &svid, Some(&long), 1_000_000, 1_000_500),
            ("a short one", &svid, Some(&short), 1_000_000, 1_000_050),
            ("past half", &svid, Some(&long), 1_000_800, 1_000_850),
            ("no life left", &short, None, 1_000_100, 1_000_105),
        ] {
            assert_eq!(next_renewal(svid, node_ca, 0.5, unix(now)), unix(want), "{case}");
        }
    }

    #[test]
    fn a_failed_renewal_is_tried_again_well_before_the_end() {
        let short = certificate("edge-1");
        let longest = |svid, failures| retry_pause(svid, failures, 1.0).as_secs();
        assert_eq!([0, 1, 2, 6, 7, 90].map(|n| longest(Some(&short), n)), [1, 2, 4, 64, 100, 100]);
        assert_eq!(longest(None, u32::MAX), 30);
        let brief = Certificate { not_after: unix(1_000_002), ..short.clone() };
        assert_eq!(longest(Some(&brief), 9), 1);
        assert_eq!(retry_pause(Some(&short), 9, -3.0), Duration::from_millis(500));
    }

    #[test]
    fn within_is_inside_the_life() {
        let svid = certificate("edge-1");
        for (now, want) in [(5, 1_000_000), (1_000_500, 1_000_500), (9_000_000, 1_000_999)] {
            assert_eq!(svid.within(unix(now)), unix(want));
        }
    }
}
