//! Builds the authorities from their files: which root is in use, which are trusted, and an issuing
//! CA that is good.

use std::time::SystemTime;

use super::ca::CaSettings;
use super::ca_files::{Contents, Found, Places, ca_der, ders, missing, resolve, wrong};
use super::issuing::{self, Authority};
use super::peer::{Validity, parse};
use super::signer::KeyStore;
use super::{IdentityError, sha256_hex, validity};

/// The authorities at work. Never changed, only replaced.
pub(super) struct State {
    pub contents: Contents,
    pub root_der: Vec<u8>,
    /// `None` when the root's key is not on this machine.
    pub root: Option<Authority>,
    next: Option<Vec<u8>>,
    old: Option<Vec<u8>>,
    /// The root in use, signed by the old one.
    cross: Option<Vec<u8>>,
    pub issuing: Authority,
    /// Issuing CAs before it that have not ended.
    pub former: Vec<Vec<u8>>,
    trust_domain: String,
}

impl State {
    /// The roots to be trusted, the one in use first.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        let mut roots = vec![self.root_der.clone()];
        for der in [&self.next, &self.old].into_iter().flatten() {
            if !roots.contains(der) {
                roots.push(der.clone());
            }
        }
        roots
    }

    /// What stands between a leaf and the roots.
    pub fn chain(&self) -> Vec<Vec<u8>> {
        std::iter::once(&self.issuing.der).chain(&self.cross).cloned().collect()
    }

    /// A leaf with its chain.
    pub fn chain_of(&self, leaf: Vec<u8>) -> Vec<Vec<u8>> {
        let mut chain = vec![leaf];
        chain.extend(self.chain());
        chain
    }
}

/// Should a new issuing CA be made, as far as that is possible here?
pub(super) fn is_due(state: &State, now: SystemTime) -> bool {
    state.root.is_some()
        && !is_fresh(&state.issuing.der, state.issuing.valid, &state.root_der, &state.trust_domain, now)
}

/// An issuing CA of this root, in the first half of its life.
fn is_fresh(der: &[u8], valid: Validity, root: &[u8], trust_domain: &str, now: SystemTime) -> bool {
    let life = valid.not_after.duration_since(valid.not_before).unwrap_or_default();
    valid.not_before <= now
        && now < valid.not_before + life / 2
        && is_signed_by(der, root)
        && is_of_domain(der, trust_domain)
}

fn is_of_domain(der: &[u8], trust_domain: &str) -> bool {
    let id = super::PeerIdentity::from_der(der).ok().and_then(|peer| peer.spiffe_id);
    id.is_some_and(|id| id.strip_prefix("spiffe://") == Some(trust_domain))
}

/// Name and signature.
pub(super) fn is_signed_by(der: &[u8], issuer: &[u8]) -> bool {
    let (Ok(cert), Ok(issuer)) = (parse(der), parse(issuer)) else { return false };
    cert.issuer().as_raw() == issuer.subject().as_raw()
        && cert.verify_signature(Some(issuer.public_key())).is_ok()
}

/// Reads the files, finishes what a crash left, makes what is missing and may be made.
pub(super) fn build(
    settings: &CaSettings,
    places: &Places,
    keys: &dyn KeyStore,
    may_create: bool,
    now: SystemTime,
) -> Result<State, IdentityError> {
    let there = |path: &std::path::Path| path.exists();
    if !may_create && !there(&places.root.cert) && !there(&places.root.key) {
        return Err(IdentityError::File {
            op: "read",
            path: places.root.cert.clone(),
            why: "it is missing, and no new CA is made where nodes know the old one: bring the file back"
                .into(),
        });
    }
    let _lock = places.lock()?;
    let mut contents = places.read()?;
    if let Some(found) = root_of(places, &contents, keys)? {
        if found.unsettled {
            places.root.settle()?;
            contents = places.read()?;
        }
    } else {
        create_root(places, keys, now)?;
        contents = places.read()?;
    }
    let Some(root) = root_of(places, &contents, keys)? else {
        return Err(missing(&places.root.cert, &places.root.key));
    };
    let state = |contents: Contents, issuing, former| -> Result<State, IdentityError> {
        let one = |path: std::path::PathBuf, pem: &Option<Vec<u8>>| {
            pem.as_deref().map(|pem| ca_der(&path, pem)).transpose()
        };
        let old = one(places.old_root(), &contents.old_root)?;
        let cross = one(places.cross(), &contents.cross)?.filter(|cross| {
            let same_key = parse(cross).ok().zip(parse(&root.der).ok());
            same_key.is_some_and(|(cross, root)| cross.public_key().raw == root.public_key().raw)
                && old.as_ref().is_some_and(|old| is_signed_by(cross, old))
        });
        Ok(State {
            root_der: root.der.clone(),
            root: root.key.clone().map(|key| Authority::new(root.der.clone(), key)).transpose()?,
            next: one(places.root.next_cert(), &contents.next_root)?,
            old,
            cross,
            issuing,
            former,
            trust_domain: settings.trust_domain.clone(),
            contents,
        })
    };

    let present = usable_issuing(settings, places, &contents, keys, &root, now);
    // With a retired root its issuing CAs go too.
    let old_root = ders(contents.old_root.as_deref());
    let former: Vec<_> = ders(contents.former_issuing.as_deref())
        .into_iter()
        .filter(|der| validity(der).is_ok_and(|valid| now < valid.not_after))
        .filter(|der| is_signed_by(der, &root.der) || old_root.iter().any(|old| is_signed_by(der, old)))
        .collect();
    let Some(root_key) = root.key.clone() else {
        let present = present?;
        return state(contents, present, former);
    };
    let root_authority = Authority::new(root.der.clone(), root_key)?;
    match present {
        Ok(present) if is_fresh(&present.der, present.valid, &root.der, &settings.trust_domain, now) => {
            state(contents, present, former)
        }
        present => {
            if let Err(err) = &present
                && contents.issuing_cert.is_some()
            {
                tracing::warn!(%err, "the issuing CA is of no use, a new one is made");
            }
            let present = present.ok();
            let renewed =
                renew(settings, places, keys, &root_authority, present.as_ref(), former.clone(), now);
            match (renewed, present) {
                (Ok((issuing, former)), _) => state(places.read()?, issuing, former),
                (Err(err), Some(present)) => {
                    tracing::error!(%err, "the issuing CA cannot be renewed, the present one is used on");
                    state(contents, present, former)
                }
                (Err(err), None) => Err(err),
            }
        }
    }
}

fn root_of(
    places: &Places,
    contents: &Contents,
    keys: &dyn KeyStore,
) -> Result<Option<Found>, IdentityError> {
    let found = resolve(
        &places.root,
        contents.root_cert.as_deref(),
        contents.root_key.as_deref(),
        contents.next_root.as_deref(),
        keys,
    )?;
    Ok(found)
}

fn create_root(places: &Places, keys: &dyn KeyStore, now: SystemTime) -> Result<(), IdentityError> {
    let (key, content) = keys.create().map_err(|why| wrong(&places.root.key, why))?;
    let der = issuing::root(&key, "", now)?;
    places.root.write_next(&der, &content)?;
    places.root.advance()?;
    tracing::info!(cert = %places.root.cert.display(), hash = sha256_hex(&der), "created a new CA");
    Ok(())
}

/// The issuing CA there is: it has not ended and a trusted root signed it.
fn usable_issuing(
    settings: &CaSettings,
    places: &Places,
    contents: &Contents,
    keys: &dyn KeyStore,
    root: &Found,
    now: SystemTime,
) -> Result<Authority, IdentityError> {
    let pair = &places.issuing;
    let found = resolve(
        pair,
        contents.issuing_cert.as_deref(),
        contents.issuing_key.as_deref(),
        contents.next_issuing.as_deref(),
        keys,
    )?;
    let Some(Found { der, key: Some(key), unsettled }) = found else {
        return Err(missing(&places.root.key, &places.root.cert));
    };
    let old = ders(contents.old_root.as_deref());
    if !is_signed_by(&der, &root.der) && !old.iter().any(|old| is_signed_by(&der, old)) {
        return Err(wrong(&pair.cert, format!("{} did not sign it", places.root.cert.display())));
    }
    if !is_of_domain(&der, &settings.trust_domain) {
        return Err(wrong(&pair.cert, format!("it is not of trust domain {}", settings.trust_domain)));
    }
    let authority = Authority::new(der, key)?;
    if now >= authority.valid.not_after {
        return Err(wrong(
            &pair.cert,
            format!("it expired, and a new one needs the root's key {}", places.root.key.display()),
        ));
    }
    if unsettled {
        pair.settle()?;
    }
    Ok(authority)
}

fn renew(
    settings: &CaSettings,
    places: &Places,
    keys: &dyn KeyStore,
    root: &Authority,
    present: Option<&Authority>,
    mut former: Vec<Vec<u8>>,
    now: SystemTime,
) -> Result<(Authority, Vec<Vec<u8>>), IdentityError> {
    let pair = &places.issuing;
    let (key, content) = keys.create().map_err(|why| wrong(&pair.key, why))?;
    let der = issuing::issuing(root, &key, &settings.trust_domain, settings.issuing_ttl, now)?;
    former.extend(present.map(|present| present.der.clone()));
    // Certificates of the present one go on, so it must be known before it is replaced.
    places.write_former(&former)?;
    pair.write_next(&der, &content)?;
    let before = super::files::read_small(&pair.key)?;
    pair.advance()?;
    if let Some(before) = before
        && let Err(why) = keys.discard(&before)
    {
        tracing::warn!(why, "the key of a former issuing CA stays in its token");
    }
    tracing::info!(cert = %pair.cert.display(), "made an issuing CA");
    Ok((Authority::new(der, key)?, former))
}
