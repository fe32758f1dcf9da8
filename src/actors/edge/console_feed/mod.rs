//! What edgecore's console shows: its own node, with the cloud or without. While a page is open the
//! actors are asked once a second, whatever the number of pages; each page is told what changed.

mod items;
mod poll_worker;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

pub use self::poll_worker::FeedLinks;
use self::poll_worker::{Polled, Poller};
use crate::console::diff::Board;
use crate::console::feed::{Denied, Ended, Feed, Outlet, Visitor};
use crate::console::protocol::{Change, Kind};
use crate::console::sign_in::Token;
use crate::console::token::EdgeToken;
use crate::console::tree::OwnTree;
use crate::model::NodeName;
use crate::supervise::TreeHandle;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two of the actors' tree.
const LOOKS_PER_TREE: u32 = 2;
/// All visitors share one token, so the bound of all streams is the only one.
const STREAMS_OF_ONE: usize = 64;

/// Does this edge reach its cloud, and since when?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloudLink {
    pub connected: bool,
    /// Milliseconds since the epoch.
    pub since_ms: u64,
}

/// See the module.
pub struct EdgeFeed {
    node: NodeName,
    token: EdgeToken,
    poller: Poller,
    link: watch::Receiver<CloudLink>,
    tree: OwnTree,
}

impl EdgeFeed {
    #[must_use]
    pub fn new(
        node: NodeName,
        token: EdgeToken,
        links: FeedLinks,
        link: watch::Receiver<CloudLink>,
        tree: TreeHandle,
    ) -> Self {
        let tree = OwnTree::new(tree, node.as_str());
        Self { poller: Poller::new(node.clone(), links), node, token, link, tree }
    }

    async fn run(&self, outlet: &Outlet) -> Result<(), Ended> {
        let mut board = Board::default();
        let mut link = None;
        let mut tree = None;
        let mut looks = 0_u32;
        let mut clock = interval(LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let now = *self.link.borrow();
            if link != Some(now) {
                link = Some(now);
                let CloudLink { connected, since_ms } = now;
                outlet.send(&Change::Link { connected, since_ms }).await?;
            }
            let polled = self.poller.look().await;
            outlet.send_all(changes(&mut board, &polled)).await?;
            if looks.is_multiple_of(LOOKS_PER_TREE)
                && let Some(own) = self.tree.look()
                && tree != Some(own.print)
            {
                tree = Some(own.print);
                outlet.send_frame(own.frame).await?;
            }
            looks = looks.wrapping_add(1);
        }
    }
}

fn changes(board: &mut Board, polled: &Polled) -> Vec<Change> {
    let kinds = [
        (Kind::Node, &polled.nodes),
        (Kind::Pod, &polled.pods),
        (Kind::Device, &polled.devices),
        (Kind::Event, &polled.events),
    ];
    let said = kinds.into_iter().flat_map(|(kind, items)| match items {
        Ok(items) => board.show(kind, items),
        Err(why) => board.trouble(kind, why).into_iter().collect(),
    });
    said.collect()
}

impl Feed for EdgeFeed {
    fn program(&self) -> &'static str {
        "edgecore"
    }

    fn node(&self) -> Option<String> {
        Some(self.node.to_string())
    }

    fn streams_of_one(&self) -> usize {
        STREAMS_OF_ONE
    }

    fn admit(&self, token: Token) -> LocalBoxFuture<'_, Result<Visitor, Denied>> {
        let admitted = if self.token.is(&token) {
            Ok(Visitor { token, user: "local".to_owned() })
        } else {
            Err(Denied::BadToken("this is not the token of this edge (dataDir/console.token)".to_owned()))
        };
        async { admitted }.boxed_local()
    }

    fn tell(self: Arc<Self>, _: Visitor, outlet: Outlet) -> LocalBoxFuture<'static, Ended> {
        async move { self.run(&outlet).await.err().unwrap_or(Ended::Left) }.boxed_local()
    }
}
