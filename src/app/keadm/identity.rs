//! `keadm identity list|show`: who is who, until when, as cloudcore knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::SystemTime;

use clap::Subcommand;

use super::node::{REVOCATIONS, name, state};
use super::places::Places;
use super::records::{Records, node_names, shown};
use super::{Refusal, revocation};
use crate::bus::identity::{NodeIdentity, Revocation};
use crate::identity::{TrustBundle, cert_facts, sha256_hex};
use crate::model::identity::BundleDocument;
use crate::model::{NodeName, unix_secs};

/// One key a node: [`NodeIdentity`]. IdentityController writes it.
const IDENTITIES: &str = "node-identities";
/// The bundle that IdentityController publishes.
const BUNDLE: &str = "trust-bundle";
/// Its key: a [`BundleDocument`].
const BUNDLE_KEY: &str = "bundle.json";

#[derive(Debug, Subcommand)]
pub(super) enum IdentityCommand {
    /// Shows the trust domain, its roots, and every node's certificates
    List {
        #[command(flatten)]
        places: Places,
    },
    /// Shows one node
    Show {
        #[arg(value_parser = name)]
        node: NodeName,
        #[command(flatten)]
        places: Places,
    },
}

/// What the API tells.
struct Known {
    bundle: TrustBundle,
    identities: BTreeMap<String, NodeIdentity>,
    revoked: BTreeMap<String, Revocation>,
    registered: BTreeSet<String>,
}

pub(super) async fn identity(
    command: IdentityCommand,
    now: SystemTime,
    out: &mut dyn Write,
) -> Result<(), Refusal> {
    match command {
        IdentityCommand::List { places } => list(&known(&places).await?, now, out),
        IdentityCommand::Show { node, places } => show(&known(&places).await?, &node, now, out),
    }
}

async fn known(places: &Places) -> Result<Known, Refusal> {
    let client = revocation::client(&places.load_cloud()?.config).await?;
    let records = Records::new(client.clone(), BUNDLE);
    let published = records.all().await?.unwrap_or_default();
    let text = published.get(BUNDLE_KEY).ok_or_else(|| {
        Refusal::new(format!(
            "configmap kubeedge/{BUNDLE} has no {BUNDLE_KEY}: start cloudcore, which publishes its bundle there"
        ))
    })?;
    let document: BundleDocument = records.read(BUNDLE_KEY, text)?;
    let bundle = TrustBundle::from_document(&document)?;
    Ok(Known {
        bundle,
        identities: all(client.clone(), IDENTITIES).await?,
        revoked: all(client.clone(), REVOCATIONS).await?,
        registered: node_names(client).await?.into_iter().collect(),
    })
}

/// Every record of a ConfigMap; none when it was never written.
async fn all<T: serde::de::DeserializeOwned>(
    client: kube::Client,
    map: &'static str,
) -> Result<BTreeMap<String, T>, Refusal> {
    let records = Records::new(client, map);
    let found = records.all().await?.unwrap_or_default();
    found.iter().map(|(node, text)| Ok((node.clone(), records.read(node, text)?))).collect()
}

fn trust(known: &Known, out: &mut dyn Write) -> Result<(), Refusal> {
    writeln!(out, "trust domain  {}", known.bundle.trust_domain)?;
    for (at, root) in known.bundle.roots.iter().enumerate() {
        let ends = unix_secs(cert_facts(root)?.valid.not_after);
        let role = if at == 0 { "in use" } else { "trusted" };
        writeln!(out, "root          {} until {} ({role})", sha256_hex(root), shown(ends))?;
    }
    writeln!(out, "JWT keys      {}", known.bundle.jwt_keys.len())?;
    Ok(())
}

fn list(known: &Known, now: SystemTime, out: &mut dyn Write) -> Result<(), Refusal> {
    trust(known, out)?;
    writeln!(out, "\n{:<32}{:<22}{:<22}STATE", "NODE", "SVID UNTIL", "NODE CA UNTIL")?;
    let all: BTreeSet<&String> =
        known.registered.iter().chain(known.identities.keys()).chain(known.revoked.keys()).collect();
    for node in all {
        let identity = known.identities.get(node);
        let until = |secs: Option<u64>| secs.filter(|secs| *secs > 0).map_or("-".to_owned(), shown);
        let (svid, ca) = (identity.map(|it| it.svid_expires_at), identity.map(|it| it.node_ca_expires_at));
        let state = status(known, node, now);
        writeln!(out, "{node:<32}{:<22}{:<22}{state}", until(svid), until(ca))?;
    }
    Ok(())
}

fn status(known: &Known, node: &str, now: SystemTime) -> String {
    match (known.revoked.get(node), known.identities.get(node)) {
        (Some(revocation), _) if revocation.allowed_at.is_none() => state(revocation),
        (Some(revocation), None) => state(revocation),
        (Some(revocation), Some(it)) if revocation.allowed_at.is_some_and(|since| it.renewed_at < since) => {
            state(revocation)
        }
        (_, Some(it)) if it.svid_expires_at <= unix_secs(now) => "expired".to_owned(),
        (_, Some(_)) => "good".to_owned(),
        (None, None) => "unknown: it has not joined or renewed under this cloudcore".to_owned(),
    }
}

fn show(known: &Known, node: &NodeName, now: SystemTime, out: &mut dyn Write) -> Result<(), Refusal> {
    let text = node.as_str();
    let identity = known.identities.get(text);
    let registered = known.registered.contains(text);
    if identity.is_none() && !registered && !known.revoked.contains_key(text) {
        return Err(Refusal::new(format!("no node {node} is known (keadm identity list shows them)")));
    }
    writeln!(out, "node          {node}")?;
    writeln!(out, "SPIFFE ID     spiffe://{}/node/{node}", known.bundle.trust_domain)?;
    writeln!(out, "registered    {}", if registered { "yes" } else { "no" })?;
    writeln!(out, "state         {}", status(known, text, now))?;
    if let Some(it) = identity {
        writeln!(out, "SVID          serial {}, until {}", it.serial, shown(it.svid_expires_at))?;
        let ca = if it.node_ca_expires_at == 0 {
            "none".into()
        } else {
            format!("until {}", shown(it.node_ca_expires_at))
        };
        writeln!(out, "node CA       {ca}")?;
        writeln!(out, "renewed       {}", shown(it.renewed_at))?;
    }
    trust(known, out)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn known() -> Known {
        let identity = |ends, renewed_at| NodeIdentity {
            serial: "0a".into(),
            svid_expires_at: ends,
            node_ca_expires_at: 0,
            renewed_at,
        };
        let revoked = |allowed_at| Revocation { at: 150, reason: "stolen".into(), allowed_at };
        let text = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Known {
            bundle: TrustBundle { trust_domain: "td".into(), roots: Vec::new(), jwt_keys: Vec::new() },
            identities: BTreeMap::from([
                ("good".into(), identity(1_000, 100)),
                ("late".into(), identity(100, 50)),
                ("gone".into(), identity(1_000, 100)),
                ("may-return".into(), identity(1_000, 100)),
                ("returned".into(), identity(1_000, 300)),
            ]),
            revoked: BTreeMap::from([
                ("gone".into(), revoked(None)),
                ("may-return".into(), revoked(Some(200))),
                ("returned".into(), revoked(Some(200))),
            ]),
            registered: text(&["good", "late", "go-edge"]),
        }
    }

    #[test]
    fn states() {
        let now = UNIX_EPOCH + Duration::from_secs(400);
        for (node, want) in [
            ("good", "good"),
            ("late", "expired"),
            ("gone", "revoked at 1970-01-01T00:02:30Z: stolen"),
            ("may-return", "may join again since 1970-01-01T00:03:20Z"),
            ("returned", "good"),
            ("go-edge", "unknown: it has not joined or renewed under this cloudcore"),
        ] {
            assert_eq!(status(&known(), node, now), want, "{node}");
        }
        let mut out = Vec::new();
        list(&known(), now, &mut out).expect("list");
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("trust domain  td\n") && text.lines().count() == 4 + 6, "{text}");
        let mut out = Vec::new();
        show(&known(), &name("good").expect("name"), now, &mut out).expect("show");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("spiffe://td/node/good") && text.contains("serial 0a"), "{text}");
        let err = show(&known(), &name("nobody").expect("name"), now, &mut Vec::new()).expect_err("unknown");
        assert!(err.to_string().contains("no node nobody is known"), "{err}");
    }
}
