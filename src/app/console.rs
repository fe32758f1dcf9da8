//! The web page of both programs.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::authorities::hub_tls;
use super::program::Fatal;
use crate::actors::cloud::console_feed::{Access, CloudFeed, NodeTrees};
use crate::actors::console::{self, Console, ConsoleParts, ConsoleSocket, Tls};
use crate::actors::edge::console_feed::{CloudLink, EdgeFeed, FeedLinks};
use crate::actors::edge::edge_hub::LinkState;
use crate::bus::identity::Credentials;
use crate::config::{CloudCoreConfig, ConsoleConfig, ConsoleTls, EdgeCoreConfig};
use crate::console::feed::Feed;
use crate::console::token::EdgeToken;
use crate::console::tree::now_ms;
use crate::identity::{Ca, ClientAuth, CloudServerTls};
use crate::model::NodeName;
use crate::supervise::{MAIN_THREAD, Policy, Tree};
use crate::telemetry::console::ConsoleMetrics;
use crate::telemetry::federation::Federation;

impl NodeTrees for Federation {
    fn nodes(&self) -> Vec<NodeName> {
        Self::nodes(self).into_iter().map(|(node, ..)| node).collect()
    }

    fn tree(&self, node: &NodeName) -> Option<(i64, Arc<Value>)> {
        self.actors(node)
    }
}

/// Declares cloudcore's console, if it is wanted; the TLS server that has to be renewed.
pub(super) fn of_cloudcore(
    tree: &mut Tree,
    config: &CloudCoreConfig,
    access: Access,
    nodes: Option<Arc<dyn NodeTrees>>,
    ca: &Arc<Ca>,
    names: &[String],
) -> Result<Option<Arc<CloudServerTls>>, Fatal> {
    let console = &config.modules.console;
    if !console.enable {
        return Ok(None);
    }
    let socket = ConsoleSocket::bind(config.console_address())?;
    let tls = if wants_tls(console, &socket) {
        let names = server_names(socket.address(), names);
        Some(Arc::new(hub_tls(config, ca, &names, ClientAuth::None)?))
    } else {
        None
    };
    let feed = Arc::new(CloudFeed::new(access, tree.handle(), nodes));
    let kind = tls.as_ref().map_or(Tls::Off, |tls| Tls::On(tls.config()));
    declare(tree, socket, kind, feed);
    Ok(tls)
}

/// Declares edgecore's console, if it is wanted. Blocks: makes or reads the file with its token.
pub(super) fn of_edgecore(
    tree: &mut Tree,
    config: &EdgeCoreConfig,
    node: NodeName,
    links: FeedLinks,
    link: watch::Receiver<CloudLink>,
    credentials: Credentials,
) -> Result<(), Fatal> {
    let console = &config.modules.console;
    if !console.enable {
        return Ok(());
    }
    let socket = ConsoleSocket::bind(config.console_address())?;
    let token = EdgeToken::load_or_create(&EdgeToken::path(&config.data_dir))?;
    let tls = if wants_tls(console, &socket) { Tls::Node(credentials) } else { Tls::Off };
    let feed = Arc::new(EdgeFeed::new(node, token, links, link, tree.handle()));
    declare(tree, socket, tls, feed);
    Ok(())
}

fn declare(tree: &mut Tree, socket: ConsoleSocket, tls: Tls, feed: Arc<dyn Feed>) {
    let slot = tree.slot::<Console>(console::NAME, 8);
    tree.add(slot, MAIN_THREAD, Policy::default(), move || {
        Console::new(ConsoleParts { socket, tls, feed, metrics: ConsoleMetrics::new() })
    });
}

fn wants_tls(config: &ConsoleConfig, socket: &ConsoleSocket) -> bool {
    let wants = match config.tls {
        ConsoleTls::Auto => !socket.is_local(),
        ConsoleTls::On => true,
        ConsoleTls::Off => false,
    };
    if !wants && !socket.is_local() {
        tracing::warn!(
            address = %socket.address(),
            "modules.console.tls is off: whoever is between this address and a browser reads its tokens"
        );
    }
    wants
}

/// Every name a browser may know this machine by.
fn server_names(address: SocketAddr, names: &[String]) -> Vec<String> {
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned).collect();
    if !address.ip().is_unspecified() {
        all.push(address.ip().to_string());
    }
    all.extend(names.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|name| seen.insert(name.clone()));
    all
}

/// Whether this edge reaches its cloud, for its console.
pub(super) fn cloud_link() -> (watch::Sender<CloudLink>, watch::Receiver<CloudLink>) {
    watch::channel(CloudLink { connected: false, since_ms: now_ms() })
}

/// EdgeHub says how the link is now.
pub(super) fn note_link(seen: &watch::Sender<CloudLink>, state: &LinkState) {
    let connected = matches!(state, LinkState::Up);
    seen.send_if_modified(|link| {
        let is_news = link.connected != connected;
        if is_news {
            *link = CloudLink { connected, since_ms: now_ms() };
        }
        is_news
    });
}
