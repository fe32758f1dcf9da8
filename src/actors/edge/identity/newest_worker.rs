//! Remembers over restarts when the newest document in force was sealed. It stands beside the node's
//! certificates and not in the store: whoever puts an older, laxer document back there gets it refused
//! also by a program that has just started. Blocking.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::document::{self, BadDocument, Verified};
use crate::identity::{KEY_MODE, TrustBundle, write_atomic};
use crate::model::NodeName;
use crate::model::unix_secs;

/// Longest file that is read: unix seconds in digits.
const MAX_DIGITS: usize = 20;

/// [`document::verify`], with what `file` remembers. `newest` is of this run.
///
/// # Errors
/// As there.
pub fn verify(
    file: Option<&Path>,
    document: &Value,
    node: &NodeName,
    roots: &TrustBundle,
    newest: Option<SystemTime>,
) -> Result<Verified, BadDocument> {
    let newest = newest.or_else(|| file.and_then(read));
    let verified = document::verify(document, node, roots, newest)?;
    if newest.is_none_or(|newest| newest < verified.sealed_at)
        && let Some(file) = file
        && let Err(err) =
            write_atomic(file, format!("{}\n", unix_secs(verified.sealed_at)).as_bytes(), KEY_MODE)
    {
        tracing::warn!(error = %err, "after a restart an older document may be taken");
    }
    Ok(verified)
}

fn read(file: &Path) -> Option<SystemTime> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return None,
        Err(err) => {
            tracing::warn!(file = %file.display(), error = %err, "when the newest document was sealed is not known");
            return None;
        }
    };
    let secs = text.trim().get(..text.trim().len().min(MAX_DIGITS)).and_then(|digits| digits.parse().ok());
    if secs.is_none() {
        tracing::warn!(file = %file.display(), "when the newest document was sealed is not known: no number");
    }
    UNIX_EPOCH.checked_add(Duration::from_secs(secs?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::seal;
    use crate::identity::test_authority::Authority;
    use crate::model::identity::{EDGE_IDENTITY_KIND, EdgeIdentitySpec};

    #[test]
    fn an_older_document_is_refused_after_a_restart() {
        let authority = Authority::new();
        let (credentials, bundle) = authority.credentials("edge-1");
        let roots = TrustBundle::from_pem(&credentials.trust_domain, &credentials.roots_pem).expect("roots");
        let node = NodeName::parse("edge-1").expect("name");
        let (chain, key) = authority.cloudcore();
        let signer = key.signer().expect("signer");
        let document = |at: u64| {
            let spec = EdgeIdentitySpec { bundle: bundle.clone(), ..EdgeIdentitySpec::default() };
            let spec = serde_json::to_value(spec).expect("spec");
            let now = authority.now + Duration::from_secs(at);
            let seal = seal::sign(&signer, &chain, EDGE_IDENTITY_KIND, &node, &seal::canonical(&spec), now)
                .expect("seal");
            json!({"metadata": {"name": "edge-1"}, "spec": spec, "seal": seal})
        };
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("newest");
        let start = |at: u64| verify(Some(&file), &document(at), &node, &roots, None).map(|it| it.sealed_at);
        start(5).expect("the first");
        let newest = start(6).expect("a newer one");
        assert_eq!(start(5), Err(BadDocument::Older), "put back");
        assert_eq!(start(6), Ok(newest), "the same");
        std::fs::write(&file, "nonsense").expect("write");
        start(5).expect("what is not known refuses nothing");
        assert_eq!(start(4), Err(BadDocument::Older), "and is known again");
        assert!(verify(None, &document(1), &node, &roots, None).is_ok(), "nothing is remembered");
    }
}
