//! Remembers over restarts which document is the newest in force. It stands beside the node's
//! certificates and not in the store: whoever puts an older, laxer document back there gets it refused
//! also by a program that has just started. Blocking.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::document::{self, BadDocument, Newest, Verified};
use crate::identity::{KEY_MODE, TrustBundle, write_atomic};
use crate::model::NodeName;
use crate::model::unix_secs;

/// [`document::verify`], with what `file` remembers. `newest` is of this run.
///
/// # Errors
/// As there.
pub fn verify(
    file: Option<&Path>,
    document: &Value,
    node: &NodeName,
    roots: &TrustBundle,
    newest: Option<Newest>,
) -> Result<Verified, BadDocument> {
    let newest = newest.or_else(|| file.and_then(read));
    let verified = document::verify(document, node, roots, newest.as_ref())?;
    let now = &verified.newest;
    if newest.as_ref() != Some(now)
        && let Some(file) = file
        && let Err(err) = write_atomic(file, line(now).as_bytes(), KEY_MODE)
    {
        tracing::warn!(error = %err, "after a restart an older document may be taken");
    }
    Ok(verified)
}

/// Unix seconds of the seal, and the hash.
fn line(newest: &Newest) -> String {
    format!("{} {}\n", unix_secs(newest.sealed_at), newest.spec_hash)
}

fn read(file: &Path) -> Option<Newest> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return None,
        Err(err) => {
            tracing::warn!(file = %file.display(), error = %err, "the newest document is not known");
            return None;
        }
    };
    let read = text.trim_end().split_once(' ').and_then(|(secs, hash)| {
        let sealed_at = UNIX_EPOCH.checked_add(Duration::from_secs(secs.parse().ok()?))?;
        Some(Newest { sealed_at, spec_hash: hash.to_owned() })
    });
    if read.is_none() {
        tracing::warn!(file = %file.display(), "the newest document is not known: not seconds and a hash");
    }
    read
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::seal;
    use crate::identity::test_authority::Authority;
    use crate::model::identity::{EDGE_IDENTITY_KIND, EdgeIdentitySpec, Registration};

    #[test]
    fn an_older_document_is_refused_after_a_restart() {
        let authority = Authority::new();
        let (credentials, bundle) = authority.credentials("edge-1");
        let roots = TrustBundle::from_pem(&credentials.trust_domain, &credentials.roots_pem).expect("roots");
        let node = NodeName::parse("edge-1").expect("name");
        let (chain, key) = authority.cloudcore();
        let signer = key.signer().expect("signer");
        let document = |at: u64, name: &str| {
            let registrations = vec![Registration { name: name.to_owned(), ..Registration::default() }];
            let spec =
                EdgeIdentitySpec { bundle: bundle.clone(), registrations, ..EdgeIdentitySpec::default() };
            let spec = serde_json::to_value(spec).expect("spec");
            let now = authority.now + Duration::from_secs(at);
            let seal = seal::sign(&signer, &chain, EDGE_IDENTITY_KIND, &node, &seal::canonical(&spec), now)
                .expect("seal");
            json!({"metadata": {"name": "edge-1"}, "spec": spec, "seal": seal})
        };
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("newest");
        let start = |at: u64, name: &str| {
            verify(Some(&file), &document(at, name), &node, &roots, None).map(|it| it.newest)
        };
        start(5, "lax").expect("the first");
        let newest = start(6, "strict").expect("a newer one");
        assert_eq!(start(5, "lax"), Err(BadDocument::Older), "put back");
        assert_eq!(start(6, "strict"), Ok(newest), "the same");
        let sealed_anew = start(9, "strict").expect("the same, sealed anew");
        assert_eq!(start(6, "strict"), Ok(sealed_anew), "the store may hold the seal before");
        assert_eq!(start(8, "lax"), Err(BadDocument::Older), "that is no way back");
        std::fs::write(&file, "nonsense").expect("write");
        start(5, "lax").expect("what is not known refuses nothing");
        assert_eq!(start(4, "strict"), Err(BadDocument::Older), "and is known again");
        assert!(verify(None, &document(1, "x"), &node, &roots, None).is_ok(), "nothing is remembered");
    }
}
