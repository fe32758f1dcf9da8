//! Which sessions subscribe to a topic: a tree of filter levels, walked once per message.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::packet::QoS;
use super::topic::filter_parts;

/// Place of a session in the broker's table.
pub type SessionIndex = usize;

/// How a subscription wants its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub id: Option<NonZeroU32>,
}

/// One subscription seen from its filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscriber {
    pub session: SessionIndex,
    pub options: Options,
}

/// Members of one shared subscription.
#[derive(Debug)]
pub struct Group {
    /// As its members subscribed to it, `$share/{group}/` included.
    pub filter: Arc<str>,
    pub members: Vec<Subscriber>,
    /// Whose turn it is.
    pub next: usize,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    plus: Option<usize>,
    hash: Option<usize>,
    subscribers: Vec<Subscriber>,
    groups: Vec<Group>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.plus.is_none()
            && self.hash.is_none()
            && self.subscribers.is_empty()
            && self.groups.is_empty()
    }

    fn child(&self, level: &str) -> Option<usize> {
        match level {
            "+" => self.plus,
            "#" => self.hash,
            _ => self.children.get(level).copied(),
        }
    }

    fn group(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|group| filter_parts(&group.filter).group == Some(name))
    }
}

/// What a topic matches. Reused from message to message.
#[derive(Debug, Default)]
pub struct Matches {
    pub subscribers: Vec<Subscriber>,
    /// Shared subscriptions: one member of each gets the message.
    pub groups: Vec<GroupAt>,
}

/// Finds a [`Group`] again until the trie changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupAt {
    node: usize,
    group: usize,
}

/// The tree. Filters must be checked before (`check_filter`).
#[derive(Debug)]
pub struct Trie {
    nodes: slab::Slab<Node>,
    root: usize,
    len: usize,
}

impl Default for Trie {
    fn default() -> Self {
        let mut nodes = slab::Slab::new();
        let root = nodes.insert(Node::default());
        Self { nodes, root, len: 0 }
    }
}

impl Trie {
    /// Subscriptions in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Levels in it: shows that memory returns.
    #[cfg(test)]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Adds or replaces (`true`) the subscription of `session` to `filter`, `$share` included.
    pub fn insert(&mut self, filter: &str, session: SessionIndex, options: Options) -> bool {
        let parts = filter_parts(filter);
        let mut at = self.root;
        for level in parts.filter.split('/') {
            at = match self.nodes.get(at).and_then(|node| node.child(level)) {
                Some(child) => child,
                None => self.grow(at, level),
            };
        }
        let Some(node) = self.nodes.get_mut(at) else { return false };
        let subscriber = Subscriber { session, options };
        let list = match parts.group {
            None => &mut node.subscribers,
            Some(name) => {
                let place = node.group(name).unwrap_or_else(|| {
                    node.groups.push(Group { filter: filter.into(), members: Vec::new(), next: 0 });
                    node.groups.len() - 1
                });
                let Some(group) = node.groups.get_mut(place) else { return false };
                &mut group.members
            }
        };
        if let Some(old) = list.iter_mut().find(|old| old.session == session) {
            *old = subscriber;
            return true;
        }
        list.push(subscriber);
        self.len += 1;
        false
    }

    fn grow(&mut self, at: usize, level: &str) -> usize {
        let child = self.nodes.insert(Node::default());
        if let Some(node) = self.nodes.get_mut(at) {
            match level {
                "+" => node.plus = Some(child),
                "#" => node.hash = Some(child),
                _ => {
                    node.children.insert(level.into(), child);
                }
            }
        }
        child
    }

    /// Removes the subscription of `session` to `filter` and the levels nobody needs any more.
    pub fn remove(&mut self, filter: &str, session: SessionIndex) -> bool {
        let parts = filter_parts(filter);
        let mut path = vec![(self.root, "")];
        let mut at = self.root;
        for level in parts.filter.split('/') {
            let Some(child) = self.nodes.get(at).and_then(|node| node.child(level)) else { return false };
            at = child;
            path.push((at, level));
        }
        let Some(node) = self.nodes.get_mut(at) else { return false };
        let removed = match parts.group {
            None => forget(&mut node.subscribers, session),
            Some(name) => node.group(name).is_some_and(|place| {
                let Some(group) = node.groups.get_mut(place) else { return false };
                let removed = forget(&mut group.members, session);
                if group.members.is_empty() {
                    node.groups.swap_remove(place);
                }
                removed
            }),
        };
        if removed {
            self.len -= 1;
            self.prune(&path);
        }
        removed
    }

    fn prune(&mut self, path: &[(usize, &str)]) {
        for pair in path.windows(2).rev() {
            let [(parent, _), (child, level)] = pair else { return };
            if !self.nodes.get(*child).is_some_and(Node::is_empty) {
                return;
            }
            self.nodes.remove(*child);
            let Some(node) = self.nodes.get_mut(*parent) else { return };
            match *level {
                "+" => node.plus = None,
                "#" => node.hash = None,
                level => {
                    node.children.remove(level);
                    if node.children.len() * 4 < node.children.capacity() {
                        node.children.shrink_to_fit();
                    }
                }
            }
        }
        if self.nodes.len() == 1 {
            *self = Self { len: self.len, ..Self::default() };
        }
    }

    /// Adds to `found` all subscriptions `topic` matches.
    pub fn find(&self, topic: &str, found: &mut Matches) {
        let Some(root) = self.nodes.get(self.root) else { return };
        if topic.starts_with('$') {
            // No wildcard stands for the first level [MQTT-4.7.2-1].
            let (level, rest) = cut(topic);
            if let Some(child) = root.children.get(level) {
                self.walk(*child, rest, found);
            }
        } else {
            self.walk(self.root, Some(topic), found);
        }
    }

    fn walk(&self, at: usize, rest: Option<&str>, found: &mut Matches) {
        let Some(node) = self.nodes.get(at) else { return };
        if let Some(hash) = node.hash {
            self.collect(hash, found);
        }
        let Some(rest) = rest else {
            self.collect(at, found);
            return;
        };
        let (level, rest) = cut(rest);
        if !node.children.is_empty()
            && let Some(child) = node.children.get(level)
        {
            self.walk(*child, rest, found);
        }
        if let Some(plus) = node.plus {
            self.walk(plus, rest, found);
        }
    }

    fn collect(&self, at: usize, found: &mut Matches) {
        let Some(node) = self.nodes.get(at) else { return };
        found.subscribers.extend_from_slice(&node.subscribers);
        found.groups.extend((0..node.groups.len()).map(|group| GroupAt { node: at, group }));
    }

    /// A group [`Trie::find`] named.
    pub fn group(&mut self, at: GroupAt) -> Option<&mut Group> {
        self.nodes.get_mut(at.node)?.groups.get_mut(at.group)
    }

    /// The group of a shared filter.
    #[must_use]
    pub fn group_of(&self, filter: &str) -> Option<GroupAt> {
        let parts = filter_parts(filter);
        let name = parts.group?;
        let mut at = self.root;
        for level in parts.filter.split('/') {
            at = self.nodes.get(at)?.child(level)?;
        }
        let group = self.nodes.get(at)?.group(name)?;
        Some(GroupAt { node: at, group })
    }
}

/// First level and what follows its slash.
fn cut(topic: &str) -> (&str, Option<&str>) {
    topic.split_once('/').map_or((topic, None), |(level, rest)| (level, Some(rest)))
}

fn forget(list: &mut Vec<Subscriber>, session: SessionIndex) -> bool {
    let Some(place) = list.iter().position(|old| old.session == session) else { return false };
    list.remove(place);
    if list.len() * 4 < list.capacity() {
        list.shrink_to_fit();
    }
    true
}
