//! May this cloudcore say whom nodes believe? Several share one API, and ConfigMap `kubeedge/trust-bundle` there names
//! their roots: who has other ones must not replace it, or two would do so in turn for ever. No I/O.

use std::cmp::Reverse;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::sources::Data;
use crate::identity::validity;
use crate::model::identity::BundleDocument;

/// Key of the bundle in ConfigMap `trust-bundle`.
pub const BUNDLE: &str = "bundle.json";

/// How this cloudcore's roots stand against those in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There are none, or they are the same or older: what is here holds.
    Ours,
    /// A replacement of the root (`keadm ca`) is further there than here.
    Behind,
    /// They have nothing in common.
    Foreign,
}

impl Standing {
    /// For the operator; empty when all is well.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Ours => "",
            Self::Behind => {
                "the API has newer roots than this cloudcore: give it the CA files of the one where `keadm ca` ran"
            }
            Self::Foreign => {
                "another cloudcore of this API has another root CA: give this one the same CA files (Secret \
                 cloudcore-ca), or, if that other root is gone for good, delete the ConfigMap trust-bundle"
            }
        }
    }
}

/// Compares the roots here with those in the data of `trust-bundle`. What cannot be read there is nobody's.
#[must_use]
pub fn standing(own: &BundleDocument, stored: Option<&Data>) -> Standing {
    let text = stored.and_then(|data| data.get(BUNDLE)).map(String::as_str).unwrap_or_default();
    let Ok(stored) = serde_json::from_str::<BundleDocument>(text) else { return Standing::Ours };
    let Some(stored_rank) = rank(&stored) else { return Standing::Ours };
    if !stored.roots.iter().any(|root| own.roots.contains(root)) {
        return Standing::Foreign;
    }
    if rank(own).is_some_and(|own| own < stored_rank) { Standing::Behind } else { Standing::Ours }
}

/// Grows with each step of a replacement: a newer root beside the old one, the newer one first, the old one gone.
/// `None` where no root can be read.
fn rank(bundle: &BundleDocument) -> Option<(SystemTime, bool, Reverse<usize>, &[String])> {
    let since = |root: &String| Some(validity(&STANDARD.decode(root).ok()?).ok()?.not_before);
    let newest = bundle.roots.iter().filter_map(since).max()?;
    let in_use = bundle.roots.first().and_then(since) == Some(newest);
    // The rest only keeps two that are no step of each other from being equal.
    Some((newest, in_use, Reverse(bundle.roots.len()), &bundle.roots))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::cloud::identity_controller::document::trust_bundle;

    /// A root that is good from this day on.
    fn root(name: &str, day: u32) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2026, 1, u8::try_from(day).unwrap());
        let key = rcgen::KeyPair::generate().unwrap();
        STANDARD.encode(params.self_signed(&key).unwrap().der())
    }

    fn bundle(roots: &[&String]) -> BundleDocument {
        let roots = roots.iter().map(|root| (*root).clone()).collect();
        BundleDocument { trust_domain: "kubeedge.local".into(), roots, jwt_keys: vec![] }
    }

    #[test]
    fn roots_only_move_forward() {
        let (old, new, other) = (root("a", 1), root("a", 2), root("b", 3));
        let steps = [bundle(&[&old]), bundle(&[&old, &new]), bundle(&[&new, &old]), bundle(&[&new])];
        let of = |bundle: &BundleDocument| trust_bundle(bundle).unwrap();
        for (here, own) in steps.iter().enumerate() {
            for (there, stored) in steps.iter().enumerate() {
                let want = match (here, there) {
                    (0, 3) | (3, 0) => Standing::Foreign, // nobody was told in between
                    _ if here < there => Standing::Behind,
                    _ => Standing::Ours,
                };
                assert_eq!(standing(own, Some(&of(stored))), want, "{here} {there}");
            }
            assert_eq!(standing(own, Some(&of(&bundle(&[&other])))), Standing::Foreign);
            assert_eq!(standing(own, None), Standing::Ours);
            for broken in ["", "{}", "nonsense", r#"{"trustDomain":"x","roots":["AAAA"]}"#] {
                let data = Data::from([(BUNDLE.to_owned(), broken.to_owned())]);
                assert_eq!(standing(own, Some(&data)), Standing::Ours, "{broken}");
            }
        }
    }

    /// Of two that differ at most one may write: they never do so in turn.
    #[test]
    fn two_never_both_replace_what_the_other_wrote() {
        let roots: Vec<String> = (1..=3).map(|day| root("a", day)).collect();
        let [a, b, c] = &roots[..] else { panic!("three") };
        let sets = [
            bundle(&[a]),
            bundle(&[b]),
            bundle(&[c]),
            bundle(&[a, b]),
            bundle(&[b, a]),
            bundle(&[b, c]),
            bundle(&[c, b]),
            bundle(&[a, c]),
            bundle(&[c, a]),
            bundle(&[a, b, c]),
            bundle(&[c, b, a]),
        ];
        let writes = |own: &BundleDocument, stored: &BundleDocument| {
            standing(own, Some(&trust_bundle(stored).unwrap())) == Standing::Ours
        };
        for one in &sets {
            for other in &sets {
                let both = writes(one, other) && writes(other, one);
                assert!(one == other || !both, "{:?} {:?}", one.roots.len(), other.roots.len());
            }
        }
    }
}
