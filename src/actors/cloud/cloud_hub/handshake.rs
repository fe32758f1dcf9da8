//! Who may open a session, decided before the websocket upgrade. No I/O.

use std::time::Duration;

use crate::bus::sync::Extensions;
use crate::identity::PeerIdentity;
use crate::model::NodeName;
use crate::wire::extensions::{ACK_WINDOW, IDENTITY, REPORT, RESYNC};

/// The headers of an upgrade request that matter here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// First value of `ConnectionUse` (a Go edge may repeat the header; protocol section 1.2).
    pub connection_use: Option<&'a str>,
    pub node_id: Option<&'a str>,
    pub extensions: Option<&'a str>,
    /// `Kubeedge-Instance`: random, another one for each process of an edge of ours.
    pub instance: Option<&'a str>,
    /// `Kubeedge-Silence`: seconds in which an edge of ours says something.
    pub silence: Option<&'a str>,
}

/// An accepted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub node: NodeName,
    pub extensions: Extensions,
    pub instance: Option<String>,
    /// Without a word of it for so long the node is gone; as it says itself.
    pub silence: Option<Duration>,
}

/// Why a request was refused. `Display` is the response's body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the client certificate is not a node's (CN system:node:<name>, O system:nodes)")]
    NotANode,
    #[error("header node_id says {header:?} but the certificate is for node {certificate:?}")]
    OtherNode { header: String, certificate: String },
    #[error("header ConnectionUse must be \"msg\"")]
    ConnectionUse,
}

impl Refused {
    /// HTTP status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::NotANode | Self::OtherNode { .. } => 403,
            Self::ConnectionUse => 400,
        }
    }
}

/// Decides by the certificate; headers can only contradict it (design D8).
///
/// # Errors
/// [`Refused`], which the peer gets as text.
pub fn admit(peer: Option<&PeerIdentity>, asked: &Asked<'_>) -> Result<Accepted, Refused> {
    let node = peer.and_then(PeerIdentity::node).ok_or(Refused::NotANode)?;
    if let Some(header) = asked.node_id
        && header != node.as_str()
    {
        let header = header.chars().take(NodeName::MAX_BYTES).collect();
        return Err(Refused::OtherNode { header, certificate: node.as_str().to_owned() });
    }
    if asked.connection_use != Some("msg") {
        return Err(Refused::ConnectionUse);
    }
    let extensions = parse_extensions(asked.extensions.unwrap_or_default());
    let instance = asked.instance.filter(|text| is_instance(text)).map(str::to_owned);
    let silence = asked.silence.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    Ok(Accepted { node, extensions, instance, silence })
}

/// A UUID or the like. Anything else is as good as none.
fn is_instance(text: &str) -> bool {
    (8..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
}

fn parse_extensions(offered: &str) -> Extensions {
    let mut known = Extensions::default();
    for word in offered.split(',').map(str::trim) {
        match word {
            ACK_WINDOW => known.ack_window = true,
            RESYNC => known.resync = true,
            IDENTITY => known.identity = true,
            REPORT => known.report = true,
            _ => {}
        }
    }
    known
}

/// The accepted list for the 101 response; `None` when there is none to name.
#[must_use]
pub fn extensions_header(accepted: Extensions) -> Option<String> {
    let known = [
        (accepted.ack_window, ACK_WINDOW),
        (accepted.resync, RESYNC),
        (accepted.identity, IDENTITY),
        (accepted.report, REPORT),
    ];
    let names: Vec<&str> = known.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    (!names.is_empty()).then(|| names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions() {
        for (offered, [ack_window, resync, identity, report], echoed) in [
            ("", [false; 4], None),
            ("ack-window,resync", [true, true, false, false], Some("ack-window,resync")),
            (" resync , zip", [false, true, false, false], Some("resync")),
            ("ack-window", [true, false, false, false], Some("ack-window")),
            ("ACK-WINDOW", [false; 4], None),
            ("identity,ack-window", [true, false, true, false], Some("ack-window,identity")),
            ("report,reports", [false, false, false, true], Some("report")),
        ] {
            let got = parse_extensions(offered);
            assert_eq!(got, Extensions { ack_window, resync, identity, report }, "{offered:?}");
            assert_eq!(extensions_header(got).as_deref(), echoed);
        }
    }

    #[test]
    fn nobody_without_a_node_certificate() {
        let admin = PeerIdentity {
            common_name: "kubernetes-admin".into(),
            organizations: vec!["system:masters".into()],
            spiffe_id: None,
        };
        let asked = Asked { connection_use: Some("msg"), node_id: Some("edge-1"), ..Asked::default() };
        assert_eq!(admit(None, &asked), Err(Refused::NotANode));
        assert_eq!(admit(Some(&admin), &asked), Err(Refused::NotANode));
    }

    #[test]
    fn what_an_edge_says_of_itself() {
        let node = PeerIdentity {
            common_name: "system:node:edge-1".into(),
            organizations: vec!["system:nodes".into()],
            spiffe_id: None,
        };
        let long = "a".repeat(65);
        for (instance, want) in [
            (None, None),
            (Some("6f1c9a52-7f0e-4a53-9e0e-3a3c3c0a7f11"), Some("6f1c9a52-7f0e-4a53-9e0e-3a3c3c0a7f11")),
            (Some(""), None),
            (Some("short"), None),
            (Some("6f1c9a52 7f0e"), None),
            (Some(long.as_str()), None),
        ] {
            let asked = Asked { connection_use: Some("msg"), instance, ..Asked::default() };
            let accepted = admit(Some(&node), &asked).unwrap();
            assert_eq!(accepted.instance.as_deref(), want, "{instance:?}");
        }
        for (silence, want) in [(None, None), (Some("6"), Some(6)), (Some("-1"), None), (Some("6s"), None)] {
            let asked = Asked { connection_use: Some("msg"), silence, ..Asked::default() };
            let accepted = admit(Some(&node), &asked).unwrap();
            assert_eq!(accepted.silence, want.map(Duration::from_secs), "{silence:?}");
        }
    }
}
