//! Who calls, and which identities that gives. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::identity::SpiffeId;
use crate::model::identity::{Registration, Selectors};

/// Identities of one caller; registrations beyond are left out, with a word in the log.
pub const MAX_GRANTS: usize = 32;

/// A process of a pod of this node, attested.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Workload {
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
    pub service_account: String,
    pub labels: BTreeMap<String, String>,
    pub container: String,
    pub container_id: String,
    /// `sha256:..` of the image's manifest and configuration, as far as somebody asked.
    pub images: BTreeSet<String>,
    /// Of the process.
    pub uid: u32,
    /// Of the process's binary, as far as somebody asked.
    pub path: Option<String>,
    pub sha256: Option<String>,
}

/// What has to be found out about a caller because a registration of its namespace asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub images: bool,
    pub path: bool,
    pub sha256: bool,
}

impl Wanted {
    #[must_use]
    pub fn by(namespace: &str, registrations: &[Registration]) -> Self {
        let mut wanted = Self::default();
        for registration in registrations.iter().filter(|it| it.namespace == namespace) {
            wanted.images |= registration.selectors.image_digest.is_some();
            wanted.path |= registration.selectors.path.is_some();
            wanted.sha256 |= registration.selectors.sha256.is_some();
        }
        wanted
    }
}

/// One identity of a workload and how its certificate looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub id: SpiffeId,
    pub hint: String,
    pub dns_names: Vec<String>,
    /// `None`: the node's default.
    pub ttl: Option<Duration>,
}

/// The identities of `workload`: its service account's first, then what registrations of its
/// namespace give, each ID once. The cloud has checked the registrations; what decides who somebody
/// is is checked here again.
#[must_use]
pub fn grants(workload: &Workload, trust_domain: &str, registrations: &[Registration]) -> Vec<Grant> {
    let mut grants = Vec::new();
    let account =
        format!("spiffe://{trust_domain}/ns/{}/sa/{}", workload.namespace, workload.service_account);
    let plain = |id| Grant { id, hint: String::new(), dns_names: Vec::new(), ttl: None };
    grants.extend(SpiffeId::parse(&account).map(plain));
    for registration in registrations {
        if !applies(registration, workload) {
            continue;
        }
        let Ok(id) = SpiffeId::parse(&format!("spiffe://{trust_domain}{}", registration.path)) else {
            continue;
        };
        if grants.iter().any(|grant: &Grant| grant.id == id) {
            continue;
        }
        if grants.len() >= MAX_GRANTS {
            tracing::warn!(
                namespace = workload.namespace,
                pod = workload.pod,
                "more than {MAX_GRANTS} identities: the rest is left out"
            );
            break;
        }
        grants.push(Grant {
            id,
            hint: registration.hint.clone(),
            dns_names: registration.dns_names.clone(),
            ttl: (registration.ttl_secs > 0).then(|| Duration::from_secs(registration.ttl_secs)),
        });
    }
    grants
}

/// Does the registration give `workload` its identity?
fn applies(registration: &Registration, workload: &Workload) -> bool {
    registration.namespace == workload.namespace
        && is_own_path(&registration.path, &registration.namespace)
        && selects(&registration.selectors, workload)
}

/// A namespace hands out what lies below `/ns/{namespace}/` and `/device/{namespace}/` only.
#[must_use]
pub fn is_own_path(path: &str, namespace: &str) -> bool {
    ["/ns/", "/device/"].iter().any(|root| {
        let below = path.strip_prefix(root).and_then(|rest| rest.strip_prefix(namespace));
        below.and_then(|rest| rest.strip_prefix('/')).is_some_and(|rest| !rest.is_empty())
    }) && !namespace.is_empty()
}

/// All that are given match, and something is given.
fn selects(selectors: &Selectors, workload: &Workload) -> bool {
    if *selectors == Selectors::default() {
        return false;
    }
    let Selectors { service_account, pod_labels, container, image_digest, uid, path, sha256 } = selectors;
    let is = |want: &Option<String>, has: Option<&str>| want.as_deref().is_none_or(|want| has == Some(want));
    is(service_account, Some(&workload.service_account))
        && pod_labels.iter().all(|(name, value)| workload.labels.get(name) == Some(value))
        && is(container, Some(&workload.container))
        && image_digest.as_ref().is_none_or(|digest| workload.images.contains(digest))
        && uid.is_none_or(|uid| uid == workload.uid)
        && is(path, workload.path.as_deref())
        && is(sha256, workload.sha256.as_deref())
}

/// The digests in references of an image: `name@sha256:..` and bare `sha256:..`.
pub fn digests<'a>(references: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let digest = |text: &'a str| {
        let digest = text.rsplit('@').next().unwrap_or_default();
        let hex = digest.strip_prefix("sha256:")?;
        (hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| digest.to_owned())
    };
    references.into_iter().filter_map(digest).collect()
}

#[cfg(test)]
#[path = "workload_tests.rs"]
mod tests;
