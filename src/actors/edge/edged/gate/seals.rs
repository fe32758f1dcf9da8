//! May a pod run at all? Pure: what it brings is judged on what this node believes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::Value;

use crate::config::PodSeals;
use crate::identity::{NodeCredentials, TrustBundle, seal};
use crate::model::NodeName;
use crate::model::identity::SEAL_ANNOTATION;

/// Reason of containers and events of a pod that is not believed.
pub const SEAL_INVALID: &str = "SealInvalid";
/// The kind a pod's seal is made for.
const KIND: &str = "pod";

/// Where a pod came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The cloud, perhaps by way of the store.
    Cloud,
    /// A file on this machine that the configuration allows.
    File,
    /// The container runtime, which still has something of a pod that is no more. Nothing of it may start, and
    /// that it has no seal is no offence.
    Leftover,
}

/// What a pod brings to be believed: its seal, and the bytes the seal must be over.
#[derive(Debug)]
pub struct Claim {
    pub source: Source,
    seal: Option<String>,
    payload: Vec<u8>,
    judged: Mutex<Option<(Arc<Basis>, Verdict)>>,
}

/// What a node judges on. Replaced when its credentials change.
#[derive(Debug)]
pub struct Basis {
    node: NodeName,
    seals: Seals,
}

#[derive(Debug)]
enum Seals {
    /// Nobody seals, or nobody asks.
    NotNeeded,
    /// The node has no credentials yet: it cannot know.
    Unknown,
    Needed(Box<TrustBundle>),
    /// The node's own roots do not decode.
    Broken(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// Cannot be judged yet, and why.
    Wait(&'static str),
    /// The pod is not what the cloud sealed, and why.
    Refused(String),
}

/// A pod as it is acted on, and what it brought to be believed.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub pod: Arc<Pod>,
    pub claim: Arc<Claim>,
}

impl Delivered {
    /// `pod` is `value` read. The seal comes off: it is another one at each delivery and no part of
    /// what runs.
    #[must_use]
    pub fn new(mut pod: Pod, value: &Value, source: Source) -> Self {
        if let Some(annotations) = &mut pod.metadata.annotations {
            annotations.remove(SEAL_ANNOTATION);
            if annotations.is_empty() {
                pod.metadata.annotations = None;
            }
        }
        Self { pod: Arc::new(pod), claim: Arc::new(Claim::new(value, source)) }
    }
}

impl Claim {
    #[must_use]
    pub fn new(pod: &Value, source: Source) -> Self {
        let annotations = pod.get("metadata").and_then(|metadata| metadata.get("annotations"));
        let seal = annotations.and_then(|all| all.get(SEAL_ANNOTATION)).and_then(Value::as_str);
        let payload = seal::pod_payload(pod);
        Self { source, seal: seal.map(str::to_owned), payload, judged: Mutex::new(None) }
    }

    /// The verdict, and whether it was reached just now. It is kept as long as `basis` is the same
    /// one, so asking before every start costs nothing.
    #[must_use]
    pub fn judge(&self, basis: &Arc<Basis>) -> (Verdict, bool) {
        let mut judged = self.judged.lock();
        if let Some((on, verdict)) = &*judged
            && Arc::ptr_eq(on, basis)
        {
            return (verdict.clone(), false);
        }
        let verdict = basis.judge(self);
        *judged = Some((Arc::clone(basis), verdict.clone()));
        (verdict, true)
    }
}

impl Basis {
    /// From the configuration and the node's credentials, if it has joined.
    #[must_use]
    pub fn new(node: NodeName, mode: PodSeals, credentials: Option<&NodeCredentials>) -> Self {
        let needed = |credentials: &NodeCredentials| match TrustBundle::from_pem(
            &credentials.trust_domain,
            &credentials.roots_pem,
        ) {
            Ok(bundle) => Seals::Needed(Box::new(bundle)),
            Err(err) => Seals::Broken(err.to_string()),
        };
        let seals = match (mode, credentials) {
            (PodSeals::Off, _) => Seals::NotNeeded,
            (_, None) => Seals::Unknown,
            // Without a node CA the cloud is KubeEdge's, which seals nothing.
            (PodSeals::Auto, Some(credentials)) if credentials.node_ca.is_none() => Seals::NotNeeded,
            (PodSeals::Auto | PodSeals::Required, Some(credentials)) => needed(credentials),
        };
        Self { node, seals }
    }

    fn judge(&self, claim: &Claim) -> Verdict {
        if claim.source == Source::File {
            return Verdict::Fine;
        }
        if claim.source == Source::Leftover {
            return Verdict::Wait("only what is left of this pod is here");
        }
        let roots = match &self.seals {
            Seals::NotNeeded => return Verdict::Fine,
            Seals::Unknown => {
                return Verdict::Wait("this node has not joined yet: its pods cannot be verified");
            }
            Seals::Broken(why) => {
                return Verdict::Refused(format!(
                    "the pod cannot be verified, this node's roots are bad: {why}"
                ));
            }
            Seals::Needed(roots) => roots,
        };
        let Some(seal) = &claim.seal else {
            return Verdict::Refused("the pod carries no seal of the cloud".to_owned());
        };
        match seal::verify(seal, KIND, &self.node, &claim.payload, roots) {
            Ok(_) => Verdict::Fine,
            Err(err) => Verdict::Refused(format!("the pod's seal does not hold: {err}")),
        }
    }
}

/// `running`, ending as `refused` says: a change that is not believed may still end a pod, because
/// ending starts nothing. `None` when it does not end.
#[must_use]
pub fn ending(running: &Pod, refused: &Pod) -> Option<Pod> {
    refused.metadata.deletion_timestamp.as_ref()?;
    let mut pod = running.clone();
    pod.metadata.deletion_timestamp.clone_from(&refused.metadata.deletion_timestamp);
    pod.metadata.deletion_grace_period_seconds = refused.metadata.deletion_grace_period_seconds;
    Some(pod)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::KeyPair;

    fn node() -> NodeName {
        NodeName::parse("edge-1").expect("name")
    }

    fn credentials(roots_pem: &str) -> NodeCredentials {
        let pair = || KeyPair { cert_pem: String::new(), key_pem: String::new() };
        NodeCredentials {
            node: node(),
            trust_domain: "kubeedge.local".into(),
            svid: pair(),
            node_ca: Some(pair()),
            jwt_key_pem: None,
            roots_pem: roots_pem.to_owned(),
        }
    }

    fn pod(annotations: &Value) -> (Pod, Value) {
        let value =
            json!({"metadata": {"name": "a", "namespace": "b", "uid": "c", "annotations": annotations}});
        (serde_json::from_value(value.clone()).expect("pod"), value)
    }

    #[test]
    fn the_seal_comes_off() {
        for (annotations, left) in [
            (json!({SEAL_ANNOTATION: "x", "own": "1"}), Some(1)),
            (json!({SEAL_ANNOTATION: "x"}), None),
            (json!({"own": "1"}), Some(1)),
        ] {
            let (pod, value) = pod(&annotations);
            let given = Delivered::new(pod, &value, Source::Cloud);
            assert_eq!(given.pod.metadata.annotations.as_ref().map(std::collections::BTreeMap::len), left);
            assert_eq!(given.claim.seal.is_some(), annotations.get(SEAL_ANNOTATION).is_some());
        }
    }

    #[test]
    fn verdicts_are_kept_for_their_basis() {
        let (pod, value) = pod(&json!({}));
        let claim = Arc::clone(&Delivered::new(pod, &value, Source::Cloud).claim);
        let off = Arc::new(Basis::new(node(), PodSeals::Off, None));
        assert_eq!(claim.judge(&off), (Verdict::Fine, true));
        assert_eq!(claim.judge(&off), (Verdict::Fine, false));
        let unknown = Arc::new(Basis::new(node(), PodSeals::Required, None));
        assert!(matches!(claim.judge(&unknown), (Verdict::Wait(_), true)));
        assert_eq!(claim.judge(&off), (Verdict::Fine, true), "another basis");
    }

    #[test]
    fn roots_that_are_none_let_nothing_pass() {
        let (pod, value) = pod(&json!({SEAL_ANNOTATION: "x.y.z"}));
        let given = Delivered::new(pod, &value, Source::Cloud);
        let basis = Arc::new(Basis::new(node(), PodSeals::Auto, Some(&credentials("no PEM"))));
        let (verdict, _) = given.claim.judge(&basis);
        assert!(matches!(&verdict, Verdict::Refused(_)), "{verdict:?}");
        let left = Claim::new(&value, Source::Leftover);
        assert!(matches!(left.judge(&basis), (Verdict::Wait(_), true)), "no refusal: it is only removed");
        let file = Claim::new(&value, Source::File);
        assert_eq!(file.judge(&basis).0, Verdict::Fine, "files are listed, not sealed");
    }

    #[test]
    fn only_a_deletion_is_taken_over() {
        let (old, _) = pod(&json!({}));
        let mut new = old.clone();
        new.metadata.labels = Some([("evil".to_owned(), "1".to_owned())].into());
        assert_eq!(ending(&old, &new), None);
        let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
        new.metadata.deletion_timestamp = Some(at.clone());
        let ended = ending(&old, &new).expect("ends");
        assert_eq!((ended.metadata.deletion_timestamp, ended.metadata.labels), (Some(at), None));
    }
}
