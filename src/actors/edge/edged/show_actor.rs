//! What Edged shows of this node: for its console.

use std::sync::Arc;
use std::time::Duration;

use actix::{Context, Handler, ResponseFuture};

use super::Edged;
use super::node_worker::ShowNode;
use crate::bus::edged::{ListRunning, Running, RunningPod};

/// The node's worker does not wait for anything when it is asked.
const NODE_DEADLINE: Duration = Duration::from_secs(1);

impl Handler<ListRunning> for Edged {
    type Result = ResponseFuture<Running>;

    fn handle(&mut self, _: ListRunning, _: &mut Context<Self>) -> Self::Result {
        let pods = self.pods.values().map(|entry| RunningPod {
            pod: Arc::clone(&entry.given.pod),
            status: entry.status.clone(),
            removed: entry.removed,
        });
        let pods = self.site.is_some().then(|| pods.collect::<Vec<RunningPod>>());
        let node = self.node.as_ref().map(|worker| worker.link());
        Box::pin(async move {
            let node = match node {
                Some(link) => link.ask(ShowNode, NODE_DEADLINE).await.ok().flatten(),
                None => None,
            };
            Running { node, pods }
        })
    }
}
