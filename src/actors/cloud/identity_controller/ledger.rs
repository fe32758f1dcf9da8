//! What the cloud remembers of nodes, in ConfigMaps of namespace `kubeedge`: their keys for
//! JWT-SVIDs, their newest certificates, and which of them are revoked. A JSON text per node. Edits
//! are pure, so that they can be made again when somebody else wrote in between. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sources::Data;
use crate::bus::identity::{NodeIdentity, NodeKeyChanged, Revocation};
use crate::identity::check_jwt_key;
use crate::model::NodeName;

/// ConfigMap with the keys that sign JWT-SVIDs.
pub const JWT_KEYS: &str = "jwt-keys";
/// ConfigMap with what `keadm identity` shows.
pub const NODE_IDENTITIES: &str = "node-identities";
/// ConfigMap that `keadm node revoke|allow` writes.
pub const NODE_REVOCATIONS: &str = "node-revocations";
/// Keys of one node that are good at once: each renewal may bring a new one while tokens of the one
/// before still live. Beyond it the one that ends first goes.
const KEYS_PER_NODE: usize = 4;
/// Keys in the bundle; readers refuse more. Beyond it those that end first are left out.
const KEYS_IN_BUNDLE: usize = 4_000;
/// So long a node that does not come back stays in the list of identities, seconds.
const REMEMBERED_SECS: u64 = 30 * 86_400;

/// A key and when it ends, unix seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    key: Value,
    expires_at: u64,
}

/// What waits to be written down. The newest word on each node wins; the number of nodes bounds it.
#[derive(Debug, Clone, Default)]
pub struct Pending {
    renewed: BTreeMap<NodeName, Renewed>,
    /// Nodes whose keys must go.
    forget: BTreeSet<NodeName>,
    revoke: BTreeMap<NodeName, Revocation>,
    sweep: bool,
}

#[derive(Debug, Clone)]
struct Renewed {
    identity: NodeIdentity,
    /// More than one when renewals come faster than they are written.
    keys: Vec<Key>,
}

impl Pending {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.renewed.is_empty() && self.forget.is_empty() && self.revoke.is_empty() && !self.sweep
    }

    /// A node joined or renewed. `now` is unix seconds.
    ///
    /// # Errors
    /// Why its key is not published; its certificates are noted all the same.
    pub fn renewed(&mut self, told: NodeKeyChanged, now: u64) -> Result<(), &'static str> {
        let checked = match &told.jwt_key {
            Value::Null => None,
            key => Some(check_jwt_key(key).map(|_| key.clone())),
        };
        let identity = NodeIdentity {
            serial: told.svid_serial,
            svid_expires_at: told.svid_expires_at,
            node_ca_expires_at: told.node_ca_expires_at,
            renewed_at: now,
        };
        let entry = self.renewed.entry(told.node);
        let entry = entry.or_insert_with(|| Renewed { identity: NodeIdentity::default(), keys: Vec::new() });
        entry.identity = identity;
        if let Some(key) = checked.transpose()? {
            merge_key(&mut entry.keys, Key { key, expires_at: told.expires_at }, now);
        }
        Ok(())
    }

    /// The keys of a revoked node must go, also those that wait here.
    pub fn forget(&mut self, node: NodeName) {
        if let Some(renewed) = self.renewed.get_mut(&node) {
            renewed.keys.clear();
        }
        self.forget.insert(node);
    }

    pub fn revoke(&mut self, node: NodeName, revocation: Revocation) {
        self.revoke.insert(node, revocation);
    }

    /// What ended must go.
    pub fn sweep(&mut self) {
        self.sweep = true;
    }

    /// Takes back what could not be written, unless there is something newer.
    pub fn put_back(&mut self, older: Self, now: u64) {
        for (node, mut old) in older.renewed {
            if self.forget.contains(&node) {
                old.keys.clear(); // revoked meanwhile
            }
            match self.renewed.get_mut(&node) {
                Some(newer) => {
                    for key in std::mem::take(&mut newer.keys) {
                        merge_key(&mut old.keys, key, now);
                    }
                    newer.keys = old.keys;
                }
                None => {
                    self.renewed.insert(node, old);
                }
            }
        }
        self.forget.extend(older.forget);
        for (node, revocation) in older.revoke {
            self.revoke.entry(node).or_insert(revocation);
        }
        self.sweep |= older.sweep;
    }

    /// Edits ConfigMap [`JWT_KEYS`]; whether something changed.
    pub fn edit_keys(&self, data: &mut Data, now: u64) -> bool {
        let before = data.clone();
        for node in &self.forget {
            data.remove(node.as_str());
        }
        for (node, renewed) in self.renewed.iter().filter(|(_, renewed)| !renewed.keys.is_empty()) {
            let mut keys = data.get(node.as_str()).map(|text| read_keys(text)).unwrap_or_default();
            for key in &renewed.keys {
                merge_key(&mut keys, key.clone(), now);
            }
            data.insert(node.as_str().to_owned(), serde_json::to_string(&keys).unwrap_or_default());
        }
        data.retain(|_, text| {
            let mut keys = read_keys(text);
            let all = keys.len();
            keys.retain(|key| key.expires_at > now);
            if keys.len() < all {
                *text = serde_json::to_string(&keys).unwrap_or_default();
            }
            !keys.is_empty()
        });
        *data != before
    }

    /// Edits ConfigMap [`NODE_IDENTITIES`]; whether something changed.
    pub fn edit_identities(&self, data: &mut Data, now: u64) -> bool {
        let before = data.clone();
        for (node, renewed) in &self.renewed {
            let text = serde_json::to_string(&renewed.identity).unwrap_or_default();
            data.insert(node.as_str().to_owned(), text);
        }
        data.retain(|_, text| {
            let known = serde_json::from_str::<NodeIdentity>(text).unwrap_or_default();
            let end = known.svid_expires_at.max(known.node_ca_expires_at);
            end.saturating_add(REMEMBERED_SECS) > now
        });
        *data != before
    }

    /// Edits ConfigMap [`NODE_REVOCATIONS`]; whether something changed. What an administrator wrote
    /// stays: a node that is revoked already is not revoked again.
    pub fn edit_revocations(&self, data: &mut Data) -> bool {
        let mut changed = false;
        for (node, revocation) in &self.revoke {
            let known = data.get(node.as_str()).map(|text| read_revocation(text));
            if known.is_some_and(|known| known.allowed_at.is_none()) {
                continue;
            }
            data.insert(node.as_str().to_owned(), serde_json::to_string(revocation).unwrap_or_default());
            changed = true;
        }
        changed
    }
}

/// Takes a key in; the same key lives as long as the longer of both says.
fn merge_key(keys: &mut Vec<Key>, new: Key, now: u64) {
    keys.retain(|key| key.expires_at > now);
    match keys.iter_mut().find(|key| key.key == new.key) {
        Some(known) => known.expires_at = known.expires_at.max(new.expires_at),
        None => keys.push(new),
    }
    keys.sort_by_key(|key| key.expires_at);
    let surplus = keys.len().saturating_sub(KEYS_PER_NODE);
    keys.drain(..surplus);
}

/// What is no list of good keys is none.
fn read_keys(text: &str) -> Vec<Key> {
    let keys: Vec<Key> = serde_json::from_str(text).unwrap_or_default();
    keys.into_iter().filter(|key| check_jwt_key(&key.key).is_ok()).collect()
}

/// Has something ended, so that the keys or identities must be swept?
#[must_use]
pub fn needs_sweep(keys: &Data, identities: &Data, now: u64) -> bool {
    let nothing = Pending::default();
    nothing.edit_keys(&mut keys.clone(), now) || nothing.edit_identities(&mut identities.clone(), now)
}

/// The keys of the bundle, sorted by node and end, each once. Revoked nodes have none.
#[must_use]
pub fn bundle_keys(data: &Data, revoked: &BTreeMap<NodeName, Revocation>) -> Vec<Value> {
    let is_revoked = |node: &str| {
        let node = NodeName::parse(node).ok();
        node.and_then(|node| revoked.get(&node)).is_some_and(|it| it.allowed_at.is_none())
    };
    let good = data.iter().filter(|(node, _)| !is_revoked(node));
    let mut keys: Vec<Key> = good.flat_map(|(_, text)| read_keys(text)).collect();
    if keys.len() > KEYS_IN_BUNDLE {
        let mut ends: Vec<u64> = keys.iter().map(|key| key.expires_at).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        let least = ends.get(KEYS_IN_BUNDLE).copied().unwrap_or_default();
        keys.retain(|key| key.expires_at > least);
    }
    let mut seen = BTreeSet::new();
    keys.retain(|key| seen.insert(key.key.to_string()));
    keys.into_iter().map(|key| key.key).collect()
}

/// Revoked nodes, and the entries that name no node. An entry that cannot be read revokes: what was
/// meant is not known, and only one side of the mistake is harmless.
#[must_use]
pub fn revocations(data: &Data) -> (BTreeMap<NodeName, Revocation>, Vec<String>) {
    let (mut revoked, mut wrong) = (BTreeMap::new(), Vec::new());
    for (name, text) in data {
        match NodeName::parse(name) {
            Ok(node) => {
                revoked.insert(node, read_revocation(text));
            }
            Err(_) => wrong.push(name.clone()),
        }
    }
    (revoked, wrong)
}

fn read_revocation(text: &str) -> Revocation {
    serde_json::from_str(text).unwrap_or_else(|err| Revocation {
        at: 0,
        reason: format!("its entry in ConfigMap kubeedge/{NODE_REVOCATIONS} cannot be read: {err}"),
        allowed_at: None,
    })
}

/// What is new or another than before: the sessions of these nodes must end.
#[must_use]
pub fn newly_revoked(
    before: &BTreeMap<NodeName, Revocation>,
    after: &BTreeMap<NodeName, Revocation>,
) -> Vec<(NodeName, Revocation)> {
    let new = after.iter().filter(|(node, revocation)| before.get(*node) != Some(revocation));
    new.map(|(node, revocation)| (node.clone(), revocation.clone())).collect()
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
