//! What a stream of the cloud is told, from watches of the Kubernetes API. Pure: events of the watches go
//! in, changes for the page come out.
//!
//! A device is three objects (Device, DeviceModel, DeviceStatus) with a watch each; devices are shown once
//! each of the three is listed or refused. Of events only the newest are shown.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::diff::Board;
use super::protocol::{Change, EventView, Item, Kind};
use super::view::{self, DevicePart, ModelPart, StatusPart};

/// Most events that are shown; older ones go.
pub const MAX_EVENTS: usize = 500;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    Nodes,
    Pods,
    Events,
    Devices,
    DeviceModels,
    DeviceStatuses,
}

impl Resource {
    pub const ALL: [Self; 6] =
        [Self::Nodes, Self::Pods, Self::Devices, Self::DeviceModels, Self::DeviceStatuses, Self::Events];

    /// What the page calls it.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Nodes => Kind::Node,
            Self::Pods => Kind::Pod,
            Self::Events => Kind::Event,
            Self::Devices | Self::DeviceModels | Self::DeviceStatuses => Kind::Device,
        }
    }
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq)]
pub enum Watched {
    /// A list begins.
    Listing,
    Applied(Value),
    Removed(Value),
    /// The list is complete.
    Listed,
    /// It cannot be watched now, in words for people; it is tried again.
    Failed(String),
}

/// State of one stream.
#[derive(Debug, Default)]
pub struct Watches {
    board: Board,
    devices: Devices,
    events: Events,
}

impl Watches {
    /// What follows for the page.
    pub fn hear(&mut self, resource: Resource, said: Watched) -> Vec<Change> {
        match resource {
            Resource::Nodes => self.plain(Kind::Node, said, |object| Item::Node(view::node(object))),
            Resource::Pods => self.plain(Kind::Pod, said, |object| Item::Pod(view::pod(object))),
            Resource::Events => self.events.hear(&mut self.board, said),
            of_device => self.devices.hear(&mut self.board, of_device, said),
        }
    }

    /// May the visitor list nodes? Then he may see the actors.
    #[must_use]
    pub fn sees_nodes(&self) -> bool {
        self.board.is_shown(Kind::Node)
    }

    fn plain(&mut self, kind: Kind, said: Watched, item: impl Fn(&Value) -> Item) -> Vec<Change> {
        let board = &mut self.board;
        match said {
            Watched::Listing => {
                board.begin(kind);
                Vec::new()
            }
            Watched::Applied(object) => board.put(item(&object)).into_iter().collect(),
            Watched::Removed(object) => board.gone(kind, &view::key(&object)).into_iter().collect(),
            Watched::Listed => board.end(kind),
            Watched::Failed(why) => board.trouble(kind, &why).into_iter().collect(),
        }
    }
}

/// Where one of the three watches of devices is.
#[derive(Debug, Clone, Default, PartialEq)]
enum Standing {
    /// The first list is not complete.
    #[default]
    Unknown,
    Listed,
    Failed(String),
}

#[derive(Debug, Default)]
struct Devices {
    parts: BTreeMap<String, DevicePart>,
    models: BTreeMap<String, ModelPart>,
    statuses: BTreeMap<String, StatusPart>,
    standing: BTreeMap<Resource, Standing>,
    /// Keys of a list under way.
    listing: BTreeMap<Resource, BTreeSet<String>>,
}

impl Devices {
    const THREE: [Resource; 3] = [Resource::Devices, Resource::DeviceModels, Resource::DeviceStatuses];

    fn hear(&mut self, board: &mut Board, resource: Resource, said: Watched) -> Vec<Change> {
        match said {
            Watched::Listing => {
                self.listing.insert(resource, BTreeSet::new());
                Vec::new()
            }
            Watched::Applied(object) => {
                let key = view::key(&object);
                if let Some(listed) = self.listing.get_mut(&resource) {
                    listed.insert(key.clone());
                }
                self.keep(resource, &key, &object);
                self.changed(board, resource, &key)
            }
            Watched::Removed(object) => {
                let key = view::key(&object);
                self.forget(resource, &key);
                self.changed(board, resource, &key)
            }
            Watched::Listed => {
                let listed = self.listing.remove(&resource).unwrap_or_default();
                match resource {
                    Resource::Devices => self.parts.retain(|key, _| listed.contains(key)),
                    Resource::DeviceModels => self.models.retain(|key, _| listed.contains(key)),
                    _ => self.statuses.retain(|key, _| listed.contains(key)),
                }
                self.standing.insert(resource, Standing::Listed);
                self.show_all(board)
            }
            Watched::Failed(why) => {
                self.listing.remove(&resource);
                let failed = Standing::Failed(why);
                if self.standing.get(&resource) == Some(&failed) {
                    return Vec::new();
                }
                self.standing.insert(resource, failed);
                self.show_all(board)
            }
        }
    }

    fn keep(&mut self, resource: Resource, key: &str, object: &Value) {
        match resource {
            Resource::Devices => drop(self.parts.insert(key.to_owned(), view::device_part(object))),
            Resource::DeviceModels => drop(self.models.insert(key.to_owned(), view::model_part(object))),
            _ => drop(self.statuses.insert(key.to_owned(), view::status_part(object))),
        }
    }

    fn forget(&mut self, resource: Resource, key: &str) {
        match resource {
            Resource::Devices => drop(self.parts.remove(key)),
            Resource::DeviceModels => drop(self.models.remove(key)),
            _ => drop(self.statuses.remove(key)),
        }
    }

    /// Are all three listed or refused?
    fn is_complete(&self) -> bool {
        Self::THREE.iter().all(|it| self.standing.get(it).is_some_and(|it| *it != Standing::Unknown))
    }

    /// What follows from a change of one object.
    fn changed(&mut self, board: &mut Board, resource: Resource, key: &str) -> Vec<Change> {
        // A list is shown as a whole when it is complete.
        if !self.is_complete() || self.listing.contains_key(&resource) {
            return Vec::new();
        }
        let keys: Vec<String> = match resource {
            Resource::DeviceModels => {
                let uses = self.parts.values().filter(|part| part.model_key() == key);
                uses.map(|part| part.key.clone()).collect()
            }
            // A DeviceStatus has the name of its Device.
            _ => vec![key.to_owned()],
        };
        let shown = keys.iter().filter_map(|key| match self.item(key) {
            Some(item) => board.put(item),
            None => board.gone(Kind::Device, key),
        });
        shown.collect()
    }

    /// Everything anew, when one of the three was listed or refused.
    fn show_all(&mut self, board: &mut Board) -> Vec<Change> {
        if !self.is_complete() {
            return Vec::new();
        }
        let failed = |resource: &Resource| match self.standing.get(resource) {
            Some(Standing::Failed(why)) => Some(why.clone()),
            _ => None,
        };
        if let Some(why) = failed(&Resource::Devices) {
            return board.trouble(Kind::Device, &why).into_iter().collect();
        }
        board.begin(Kind::Device);
        let keys: Vec<String> = self.parts.keys().cloned().collect();
        let mut said: Vec<Change> =
            keys.iter().filter_map(|key| self.item(key)).filter_map(|item| board.put(item)).collect();
        said.append(&mut board.end(Kind::Device));
        // Devices without values, and why.
        if let Some(why) = Self::THREE.iter().find_map(failed) {
            said.extend(board.trouble(Kind::Device, &why));
        }
        said
    }

    fn item(&self, key: &str) -> Option<Item> {
        let part = self.parts.get(key)?;
        let (model, status) = (self.models.get(&part.model_key()), self.statuses.get(key));
        Some(Item::Device(view::device(part, model, status)))
    }
}

/// The newest events, by the time they happened last.
#[derive(Debug, Default)]
struct Events {
    order: BTreeSet<(u64, String)>,
    times: BTreeMap<String, u64>,
    /// Of a list under way.
    listed: Option<BTreeMap<(u64, String), EventView>>,
}

impl Events {
    fn hear(&mut self, board: &mut Board, said: Watched) -> Vec<Change> {
        match said {
            Watched::Listing => {
                self.listed = Some(BTreeMap::new());
                Vec::new()
            }
            Watched::Applied(object) => {
                let event = view::event(&object);
                if let Some(listed) = &mut self.listed {
                    listed.insert((event.last_ms, event.key.clone()), event);
                    if listed.len() > MAX_EVENTS {
                        listed.pop_first();
                    }
                    return Vec::new();
                }
                self.put(board, event)
            }
            Watched::Removed(object) => {
                let key = view::key(&object);
                self.forget(&key);
                board.gone(Kind::Event, &key).into_iter().collect()
            }
            Watched::Listed => {
                let Some(listed) = self.listed.take() else { return Vec::new() };
                self.order.clear();
                self.times.clear();
                board.begin(Kind::Event);
                let mut said: Vec<Change> =
                    listed.into_values().flat_map(|event| self.put(board, event)).collect();
                said.append(&mut board.end(Kind::Event));
                said
            }
            Watched::Failed(why) => {
                self.listed = None;
                board.trouble(Kind::Event, &why).into_iter().collect()
            }
        }
    }

    fn put(&mut self, board: &mut Board, event: EventView) -> Vec<Change> {
        let (key, at) = (event.key.clone(), event.last_ms);
        self.forget(&key);
        let is_full = self.order.len() >= MAX_EVENTS;
        if is_full && self.order.first().is_some_and(|oldest| *oldest > (at, key.clone())) {
            // Older than all that are shown.
            return board.gone(Kind::Event, &key).into_iter().collect();
        }
        let mut said = Vec::new();
        if is_full && let Some((_, oldest)) = self.order.pop_first() {
            self.times.remove(&oldest);
            said.extend(board.gone(Kind::Event, &oldest));
        }
        self.order.insert((at, key.clone()));
        self.times.insert(key, at);
        said.extend(board.put(Item::Event(event)));
        said
    }

    fn forget(&mut self, key: &str) {
        if let Some(at) = self.times.remove(key) {
            self.order.remove(&(at, key.to_owned()));
        }
    }
}

#[cfg(test)]
#[path = "watched_tests.rs"]
mod tests;
