//! A join token works once: the record of used tokens. No I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::join::Denied;
use crate::identity::JoinClaims;
use crate::model::NodeName;
use crate::telemetry::identity::Refused;

/// A used token is remembered so much longer than it is good, in seconds: of two cloudcores the one
/// whose clock runs ahead must not forget what the other one still accepts.
const KEEP_SECS: u64 = 3_600;

/// Who used a token. A value of Secret `kubeedge/used-tokens`, whose keys are token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Use {
    pub node: NodeName,
    /// Lower-case hex of a SHA-256: of the whole request of a node of ours, of the public key of a Go
    /// edge.
    pub key_hash: String,
    /// Of the token, unix seconds.
    pub expires_at: u64,
}

/// Data of the Secret, decoded.
pub type Uses = BTreeMap<String, Vec<u8>>;

/// What using a token comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The same key of the same node used it: the answer was lost, it is given again.
    Again,
    /// Nobody did: write this, and it is taken.
    Write(Uses),
}

/// Takes a token for a key of a node. Forgets uses of tokens that ended long ago.
///
/// # Errors
/// [`Denied`] with 401 when another key or node was faster.
pub fn claim(
    uses: &Uses,
    token: &JoinClaims,
    node: &NodeName,
    key_hash: &str,
    now: u64,
) -> Result<Claim, Denied> {
    let mine = Use { node: node.clone(), key_hash: key_hash.to_owned(), expires_at: token.expires_at };
    if let Some(value) = uses.get(&token.id) {
        return match read(value) {
            Some(there) if there.node == mine.node && there.key_hash == mine.key_hash => Ok(Claim::Again),
            there => Err(used(there.as_ref())),
        };
    }
    // What cannot be read was not written here: it stays.
    let live = |value: &[u8]| read(value).is_none_or(|it| it.expires_at.saturating_add(KEEP_SECS) > now);
    let mut after: Uses =
        uses.iter().filter(|(_, value)| live(value)).map(|(id, value)| (id.clone(), value.clone())).collect();
    let value =
        serde_json::to_vec(&mine).map_err(|err| Denied::new(500, Refused::Unavailable, err.to_string()))?;
    after.insert(token.id.clone(), value);
    Ok(Claim::Write(after))
}

/// Could `node` still use the token? For a caller that only asks whether its token is good.
///
/// # Errors
/// [`Denied`] with 401 when another node used it.
pub fn unused(uses: &Uses, token: &JoinClaims, node: &NodeName) -> Result<(), Denied> {
    match uses.get(&token.id).map(|value| read(value)) {
        None => Ok(()),
        Some(Some(there)) if there.node == *node => Ok(()),
        Some(there) => Err(used(there.as_ref())),
    }
}

pub(crate) fn read(value: &[u8]) -> Option<Use> {
    serde_json::from_slice(value).ok()
}

fn used(by: Option<&Use>) -> Denied {
    let by = by.map(|it| format!(" by node {}", it.node)).unwrap_or_default();
    let why = format!("the token was used{by}: a join token works once (`keadm gettoken` prints a new one)");
    Denied::new(401, Refused::TokenUsed, why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    fn token(id: &str) -> JoinClaims {
        JoinClaims { id: id.to_owned(), expires_at: 1_000, node: None, reusable: false }
    }

    fn after(claim: Result<Claim, Denied>) -> Uses {
        match claim {
            Ok(Claim::Write(uses)) => uses,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn once_and_never_again() {
        let uses = after(claim(&Uses::new(), &token("t"), &node("one"), "k1", 500));
        assert_eq!(
            String::from_utf8(uses["t"].clone()).unwrap(),
            r#"{"node":"one","keyHash":"k1","expiresAt":1000}"#
        );
        assert_eq!(claim(&uses, &token("t"), &node("one"), "k1", 600), Ok(Claim::Again));
        for (name, key) in [("one", "k2"), ("two", "k1"), ("two", "k2")] {
            let denied = claim(&uses, &token("t"), &node(name), key, 600).unwrap_err();
            assert_eq!((denied.code, denied.reason), (401, Refused::TokenUsed));
            assert!(denied.why.contains("used by node one"), "{}", denied.why);
        }
        assert_eq!(unused(&uses, &token("t"), &node("one")), Ok(()));
        assert_eq!(unused(&uses, &token("u"), &node("two")), Ok(()));
        assert!(unused(&uses, &token("t"), &node("two")).is_err());
        let odd = Uses::from([("t".to_owned(), b"?".to_vec())]);
        assert!(claim(&odd, &token("t"), &node("one"), "k1", 600).is_err(), "unreadable is used");
        assert!(unused(&odd, &token("t"), &node("one")).is_err());
    }

    #[test]
    fn what_ended_long_ago_is_forgotten() {
        let mut uses = after(claim(&Uses::new(), &token("old"), &node("one"), "k", 500));
        uses.insert("odd".to_owned(), b"?".to_vec());
        let soon = after(claim(&uses, &token("a"), &node("one"), "k", 1_000 + KEEP_SECS - 1));
        assert_eq!(soon.keys().collect::<Vec<_>>(), ["a", "odd", "old"]);
        let later = after(claim(&uses, &token("a"), &node("one"), "k", 1_000 + KEEP_SECS));
        assert_eq!(later.keys().collect::<Vec<_>>(), ["a", "odd"]);
    }

    proptest! {
        /// Whatever the order, one token serves one key of one node.
        #[test]
        fn one_token_one_key(tries in prop::collection::vec((0..3u8, 0..3u8, 0..3u8), 1..40)) {
            let mut uses = Uses::new();
            let mut served = BTreeMap::new();
            for (id, name, key) in tries {
                let (id, name, key) = (format!("t{id}"), format!("n{name}"), format!("k{key}"));
                match claim(&uses, &token(&id), &node(&name), &key, 10) {
                    Ok(Claim::Write(after)) => {
                        uses = after;
                        prop_assert!(served.insert(id, (name, key)).is_none());
                    }
                    Ok(Claim::Again) => prop_assert_eq!(&served[&id], &(name, key)),
                    Err(_) => prop_assert_ne!(&served[&id], &(name, key)),
                }
            }
        }
    }
}
