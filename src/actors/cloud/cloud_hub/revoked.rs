//! Which certificates of a node count after it was revoked. No I/O.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::join::Denied;
use crate::bus::identity::Revocation;
use crate::model::NodeName;
use crate::telemetry::identity::Refused;

/// Nodes that lost their certificates.
pub type Revoked = BTreeMap<NodeName, Revocation>;

/// May `node` go on with a certificate that is good from `not_before` (`None`: it shows another
/// proof and begins anew)? Gives the time before which nothing may be signed for it.
///
/// # Errors
/// [`Denied`] with 403 and what the operator can do.
pub fn check(
    revoked: &Revoked,
    node: &NodeName,
    not_before: Option<SystemTime>,
) -> Result<Option<SystemTime>, Denied> {
    let Some(revocation) = revoked.get(node) else { return Ok(None) };
    let Some(allowed_at) = revocation.allowed_at else {
        let reason: String = revocation.reason.chars().take(200).collect();
        let why = format!(
            "node {node} was revoked: {reason} (`keadm node allow {node}` on the cloud side lets it join again)"
        );
        return Err(Denied::new(403, Refused::Revoked, why));
    };
    let since = UNIX_EPOCH.checked_add(Duration::from_secs(allowed_at)).unwrap_or(UNIX_EPOCH);
    match not_before {
        Some(from) if from < since => Err(Denied::new(
            403,
            Refused::Revoked,
            format!(
                "node {node} was revoked and this certificate is from before: join again with a new token"
            ),
        )),
        _ => Ok(Some(since)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_after_a_revocation() {
        let node = |name| NodeName::parse(name).unwrap();
        let at = |secs| UNIX_EPOCH + Duration::from_secs(secs);
        let gone = Revocation { at: 100, reason: "stolen".into(), allowed_at: None };
        let back = Revocation { allowed_at: Some(200), ..gone.clone() };
        let revoked = Revoked::from([(node("gone"), gone), (node("back"), back)]);
        for (name, not_before, want) in [
            ("other", Some(at(1)), Ok(None)),
            ("other", None, Ok(None)),
            ("gone", None, Err("was revoked: stolen")),
            ("gone", Some(at(1)), Err("keadm node allow gone")),
            ("gone", Some(at(1_000)), Err("was revoked")),
            ("back", Some(at(199)), Err("from before")),
            ("back", Some(at(200)), Ok(Some(at(200)))),
            ("back", None, Ok(Some(at(200)))),
        ] {
            match (check(&revoked, &node(name), not_before), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{name} {not_before:?}"),
                (Err(denied), Err(word)) => {
                    assert_eq!((denied.code, denied.reason), (403, Refused::Revoked));
                    assert!(denied.why.contains(word), "{name}: {}", denied.why);
                }
                (got, want) => panic!("{name} {not_before:?}: got {got:?}, want {want:?}"),
            }
        }
    }
}
