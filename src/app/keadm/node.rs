//! `keadm node list|revoke|allow`: which nodes may still show their certificates.
//!
//! Kept in ConfigMap `kubeedge/node-revocations`, which cloudcore watches: a revoked node's session
//! ends at once, and every certificate it holds is refused from then on, over restarts too.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::SystemTime;

use clap::{Args, Subcommand};

use super::places::Places;
use super::records::{Records, node_names, shown};
use super::{Refusal, revocation};
use crate::bus::identity::Revocation;
use crate::model::{NodeName, unix_secs};

/// Name of the ConfigMap.
pub(super) const REVOCATIONS: &str = "node-revocations";
/// Longest reason, in characters.
const MAX_REASON: usize = 200;

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Shows the nodes and whether they were revoked
    List {
        #[command(flatten)]
        places: Places,
    },
    /// Cuts a node off: its session ends at once and its certificates are refused from now on
    Revoke(RevokeArgs),
    /// Lets a revoked node join again, with a new token
    Allow {
        #[arg(value_parser = name)]
        node: NodeName,
        #[command(flatten)]
        places: Places,
    },
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    #[arg(value_parser = name)]
    node: NodeName,
    /// Why; the node and the audit log get to read it
    #[arg(long, default_value = "keadm node revoke")]
    reason: String,
    #[command(flatten)]
    places: Places,
}

pub(super) fn name(text: &str) -> Result<NodeName, String> {
    NodeName::parse(text).map_err(|err| err.to_string())
}

pub(super) async fn node(command: NodeCommand, now: SystemTime, out: &mut dyn Write) -> Result<(), Refusal> {
    match command {
        NodeCommand::List { places } => {
            let client = revocation::client(&places.load_cloud()?.config).await?;
            let records = Records::new(client.clone(), REVOCATIONS);
            let revoked = records.all().await?.unwrap_or_default();
            let registered: BTreeSet<String> = node_names(client).await?.into_iter().collect();
            let all: BTreeSet<&String> = registered.iter().chain(revoked.keys()).collect();
            writeln!(out, "{:<32}{:<12}STATE", "NODE", "REGISTERED")?;
            for node in all {
                let state = match revoked.get(node) {
                    None => "good".to_owned(),
                    Some(text) => state(&records.read(node, text)?),
                };
                let there = if registered.contains(node) { "yes" } else { "no" };
                writeln!(out, "{node:<32}{there:<12}{state}")?;
            }
            Ok(())
        }
        NodeCommand::Revoke(args) => {
            let client = revocation::client(&args.places.load_cloud()?.config).await?;
            let records = Records::new(client.clone(), REVOCATIONS);
            records.change(&args.node, |there| Ok(revoked(there, &args.reason, now))).await?;
            writeln!(out, "node {} is revoked: its certificates are refused from now on", args.node)?;
            if !node_names(client).await?.iter().any(|node| node == args.node.as_str()) {
                writeln!(out, "(no node {} is registered: keadm node list shows who is)", args.node)?;
            }
            Ok(())
        }
        NodeCommand::Allow { node, places } => {
            let client = revocation::client(&places.load_cloud()?.config).await?;
            let records = Records::new(client, REVOCATIONS);
            records.change(&node, |there| allowed(&node, there, now)).await?;
            writeln!(
                out,
                "node {node} may join again, with a new token: keadm gettoken --node {node}\n\
                 (put it into bootstrap-edgecore.conf there; edgecore reads it by itself, and its old certificates stay refused)"
            )?;
            Ok(())
        }
    }
}

/// A revocation in words.
pub(super) fn state(revocation: &Revocation) -> String {
    let Revocation { at, reason, allowed_at } = revocation;
    match allowed_at {
        None => format!("revoked at {}: {reason}", shown(*at)),
        Some(since) => format!("may join again since {}", shown(*since)),
    }
}

/// What is to be kept of a node that is revoked now. A revocation that stands keeps its time and
/// reason.
fn revoked(there: Option<Revocation>, reason: &str, now: SystemTime) -> Option<Revocation> {
    if there.is_some_and(|it| it.allowed_at.is_none()) {
        return None;
    }
    let reason = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    Some(Revocation { at: unix_secs(now), reason, allowed_at: None })
}

fn allowed(
    node: &NodeName,
    there: Option<Revocation>,
    now: SystemTime,
) -> Result<Option<Revocation>, Refusal> {
    match there {
        None => Err(Refusal::new(format!("node {node} is not revoked (keadm node list shows who is)"))),
        Some(it) if it.allowed_at.is_some() => Ok(None),
        // Never before the revocation, whatever this machine's clock says.
        Some(it) => Ok(Some(Revocation { allowed_at: Some(unix_secs(now).max(it.at)), ..it })),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::tests::keadm;
    use super::*;

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn revoke_and_allow_again_and_again() {
        let node = name("edge-1").expect("name");
        let first = revoked(None, "stolen\nfrom the van", at(100)).expect("revoked");
        assert_eq!((first.at, first.reason.as_str(), first.allowed_at), (100, "stolenfrom the van", None));
        assert_eq!(revoked(Some(first.clone()), "again", at(200)), None, "it stands");
        let back = allowed(&node, Some(first.clone()), at(300)).expect("allowed").expect("changed");
        assert_eq!((back.at, back.allowed_at), (100, Some(300)));
        assert_eq!(allowed(&node, Some(back.clone()), at(400)).expect("allowed"), None, "it stands");
        let behind = allowed(&node, Some(first), at(50)).expect("allowed").expect("changed");
        assert_eq!(behind.allowed_at, Some(100), "a clock that runs behind");
        let second = revoked(Some(back), "cloned", at(500)).expect("revoked");
        assert_eq!((second.at, second.reason.as_str(), second.allowed_at), (500, "cloned", None));
        let err = allowed(&node, None, at(1)).expect_err("not revoked").to_string();
        assert!(err.contains("edge-1 is not revoked"), "{err}");
        assert_eq!(revoked(None, &"x".repeat(500), at(1)).expect("revoked").reason.len(), MAX_REASON);
        assert_eq!(state(&second), "revoked at 1970-01-01T00:08:20Z: cloned");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().display().to_string();
        let err = keadm(&["node", "revoke", "edge-1", "--root", &root]).await.expect_err("no config");
        assert!(err.contains("cloudcore.yaml does not exist: run keadm init"), "{err}");
        keadm(&["init", "--root", &root]).await.expect("init");
        let commands: [&[&str]; 5] = [
            &["node", "list"],
            &["node", "revoke", "edge-1"],
            &["node", "allow", "edge-1"],
            &["identity", "list"],
            &["identity", "show", "edge-1"],
        ];
        for command in commands {
            let args = [command, &["--root", &root]].concat();
            let err = keadm(&args).await.expect_err("no kubeconfig");
            assert!(err.contains("admin.conf does not exist: start cloudcore"), "{err}");
        }
        let err = keadm(&["node", "revoke", "Edge 1", "--root", &root]).await.expect_err("name");
        assert!(err.contains("\"Edge 1\" is not a valid node name"), "{err}");
    }
}
