//! What cloudcore's console shows: objects of the Kubernetes API, watched as the visitor. RBAC decides
//! what he sees, kind by kind; nothing is shared between visitors but the trees of actors, which whoever
//! may list nodes sees.

mod access_worker;
mod follow_worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::select_all;
use futures_util::{FutureExt, StreamExt};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

pub use self::access_worker::Access;
use self::follow_worker::{Heard, follow};
use crate::console::feed::{Denied, Ended, Feed, Outlet, Visitor};
use crate::console::sign_in::Token;
use crate::console::tree::{OwnTree, frame};
use crate::console::watched::{Resource, Watches};
use crate::model::NodeName;
use crate::supervise::TreeHandle;

/// Trees of actors are looked at so often.
const TREES_EVERY: Duration = Duration::from_secs(2);
/// So often a token is checked again while its stream is open.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Streams of one token.
const STREAMS_OF_ONE: usize = 4;

/// The trees that nodes have sent.
pub trait NodeTrees: Send + Sync {
    /// The nodes that have sent one.
    fn nodes(&self) -> Vec<NodeName>;

    /// The newest of a node, the JSON of `/actors`, and when it came: milliseconds since the epoch.
    fn tree(&self, node: &NodeName) -> Option<(i64, Arc<Value>)>;
}

/// See the module.
pub struct CloudFeed {
    access: Access,
    own: OwnTree,
    nodes: Option<Arc<dyn NodeTrees>>,
}

impl CloudFeed {
    /// `nodes`: the trees of the edges, where they report them.
    #[must_use]
    pub fn new(access: Access, tree: TreeHandle, nodes: Option<Arc<dyn NodeTrees>>) -> Self {
        Self { access, own: OwnTree::new(tree, "cloudcore"), nodes }
    }

    async fn run(&self, visitor: Visitor, outlet: &Outlet) -> Result<(), Ended> {
        let client = match self.access.client(&visitor.token).await {
            Ok(client) => client,
            Err(Denied::BadToken(_)) => return Err(Ended::NotWelcome),
            Err(Denied::Unavailable(why)) => {
                tracing::warn!(why, "a console gets no client of the API");
                return Ok(());
            }
        };
        let mut heard = select_all(Resource::ALL.map(|resource| follow(client.clone(), resource)));
        let mut watches = Watches::default();
        let mut trees = Trees::default();
        let mut look = interval(TREES_EVERY);
        let mut check = interval(CHECK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = heard.next() => match news {
                    Some((resource, Heard::Said(said))) => {
                        let saw_nodes = watches.sees_nodes();
                        outlet.send_all(watches.hear(resource, said)).await?;
                        if !saw_nodes && watches.sees_nodes() {
                            trees.send(self, outlet).await?;
                        }
                    }
                    Some((_, Heard::NotWelcome)) => return Err(Ended::NotWelcome),
                    None => return Ok(()),
                },
                _ = look.tick() => {
                    if watches.sees_nodes() {
                        trees.send(self, outlet).await?;
                    }
                }
                _ = check.tick() => {
                    if let Err(Denied::BadToken(_)) = self.access.admit(&visitor.token).await {
                        return Err(Ended::NotWelcome);
                    }
                }
            }
        }
    }
}

/// The trees one stream was sent.
#[derive(Default)]
struct Trees {
    own: Option<u64>,
    /// When each node's came.
    nodes: HashMap<NodeName, i64>,
}

impl Trees {
    async fn send(&mut self, feed: &CloudFeed, outlet: &Outlet) -> Result<(), Ended> {
        if let Some(own) = feed.own.look()
            && self.own != Some(own.print)
        {
            self.own = Some(own.print);
            outlet.send_frame(own.frame).await?;
        }
        let Some(nodes) = &feed.nodes else { return Ok(()) };
        let there = nodes.nodes();
        self.nodes.retain(|node, _| there.contains(node));
        for node in there {
            let Some((at_ms, tree)) = nodes.tree(&node) else { continue };
            if self.nodes.get(&node) == Some(&at_ms) {
                continue;
            }
            let at = u64::try_from(at_ms).unwrap_or_default();
            if let Some(framed) = frame(node.as_str(), at, Value::clone(&tree)) {
                outlet.send_frame(framed.frame).await?;
            }
            self.nodes.insert(node, at_ms);
        }
        Ok(())
    }
}

impl Feed for CloudFeed {
    fn program(&self) -> &'static str {
        "cloudcore"
    }

    fn node(&self) -> Option<String> {
        None
    }

    fn streams_of_one(&self) -> usize {
        STREAMS_OF_ONE
    }

    fn admit(&self, token: Token) -> LocalBoxFuture<'_, Result<Visitor, Denied>> {
        async move {
            let user = self.access.admit(&token).await?;
            Ok(Visitor { token, user })
        }
        .boxed_local()
    }

    fn tell(self: Arc<Self>, visitor: Visitor, outlet: Outlet) -> LocalBoxFuture<'static, Ended> {
        async move { self.run(visitor, &outlet).await.err().unwrap_or(Ended::Left) }.boxed_local()
    }
}
