//! Asks the actors of an edge. One answer serves every page that is open.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::items::{self, Objects};
use crate::bus::Link;
use crate::bus::device_twin::{ListDevices, ListValues};
use crate::bus::edged::ListRunning;
use crate::bus::meta::ListEvents;
use crate::console::protocol::Item;
use crate::model::NodeName;

/// An answer is used again for so long.
const FRESH: Duration = Duration::from_millis(900);
/// Objects of devices are read from the disk, and change seldom.
const OBJECTS_FRESH: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(2);

/// Whom the console of an edge asks.
#[derive(Clone)]
pub struct FeedLinks {
    pub running: Link<ListRunning>,
    pub values: Link<ListValues>,
    pub devices: Link<ListDevices>,
    pub events: Link<ListEvents>,
}

/// What was answered, or why not.
pub(super) struct Polled {
    pub nodes: Result<Vec<Item>, String>,
    pub pods: Result<Vec<Item>, String>,
    pub devices: Result<Vec<Item>, String>,
    pub events: Result<Vec<Item>, String>,
}

pub(super) struct Poller {
    node: NodeName,
    links: FeedLinks,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    polled: Option<(Instant, Arc<Polled>)>,
    objects: Option<(Instant, Arc<Objects>)>,
}

impl Poller {
    pub fn new(node: NodeName, links: FeedLinks) -> Self {
        Self { node, links, memory: Mutex::default() }
    }

    /// What there is now, or was a moment ago.
    pub async fn look(&self) -> Arc<Polled> {
        // Held while the actors are asked: who comes meanwhile wants the same answer.
        let mut memory = self.memory.lock().await;
        if let Some((at, polled)) = &memory.polled
            && at.elapsed() < FRESH
        {
            return Arc::clone(polled);
        }
        let known = memory.objects.as_ref().filter(|(at, _)| at.elapsed() < OBJECTS_FRESH);
        let known = known.map(|(_, objects)| Arc::clone(objects));
        let (running, (objects, devices), events) =
            tokio::join!(self.running(), self.devices(known), self.events());
        if let Some(objects) = objects {
            memory.objects = Some((Instant::now(), objects));
        }
        let (nodes, pods) = running;
        let polled = Arc::new(Polled { nodes, pods, devices, events });
        memory.polled = Some((Instant::now(), Arc::clone(&polled)));
        polled
    }

    async fn running(&self) -> (Result<Vec<Item>, String>, Result<Vec<Item>, String>) {
        match self.links.running.ask(ListRunning, DEADLINE).await {
            Ok(running) => {
                let nodes: Vec<Item> = running.node.iter().filter_map(|node| items::node(node)).collect();
                let looking = || Err("the machine is being looked at".to_owned());
                let nodes = if nodes.is_empty() { looking() } else { Ok(nodes) };
                let pods = running.pods.map(|pods| pods.iter().filter_map(items::pod).collect());
                (nodes, pods.ok_or_else(|| "the container runtime has not answered yet".to_owned()))
            }
            Err(err) => (Err(err.to_string()), Err(err.to_string())),
        }
    }

    /// Also the objects, where they were read anew.
    async fn devices(
        &self,
        known: Option<Arc<Objects>>,
    ) -> (Option<Arc<Objects>>, Result<Vec<Item>, String>) {
        let values = match self.links.values.ask(ListValues, DEADLINE).await {
            Ok(Ok(values)) => values,
            Ok(Err(err)) => return (None, Err(err.0)),
            Err(err) => return (None, Err(err.to_string())),
        };
        if let Some(objects) = known {
            return (None, Ok(objects.items(self.node.as_str(), &values)));
        }
        match self.links.devices.ask(ListDevices, DEADLINE).await {
            Ok(Ok(stored)) => {
                let objects = Arc::new(Objects::of(&stored));
                let items = objects.items(self.node.as_str(), &values);
                (Some(objects), Ok(items))
            }
            Ok(Err(err)) => (None, Err(err.to_string())),
            Err(err) => (None, Err(err.to_string())),
        }
    }

    async fn events(&self) -> Result<Vec<Item>, String> {
        match self.links.events.ask(ListEvents, DEADLINE).await {
            Ok(Ok(events)) => Ok(events.iter().filter_map(|event| items::event(event)).collect()),
            Ok(Err(err)) => Err(err.to_string()),
            Err(err) => Err(err.to_string()),
        }
    }
}
