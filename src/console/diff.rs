//! What a stream must be told: the difference between what it was told and what is. Pure.
//!
//! A [`Board`] keeps a fingerprint of each object it has shown, not the object: many open consoles of a
//! large cluster cost little.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::protocol::{Change, Item, Kind};

/// What one stream has been shown.
#[derive(Debug, Default)]
pub struct Board {
    shelves: BTreeMap<Kind, Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Fingerprint by key.
    shown: BTreeMap<String, u64>,
    /// Keys of the list under way.
    listing: Option<BTreeSet<String>>,
    /// Has the page a complete list?
    is_synced: bool,
    /// Told last, and not ended since.
    trouble: Option<String>,
}

impl Board {
    /// A list of all objects begins: each comes by [`Board::put`], then [`Board::end`].
    pub fn begin(&mut self, kind: Kind) {
        self.shelf(kind).listing = Some(BTreeSet::new());
    }

    /// An object is so. Nothing is said of one that looks as before, except in a list.
    pub fn put(&mut self, item: Item) -> Option<Change> {
        let print = fingerprint(&item);
        let shelf = self.shelf(item.kind());
        let before = shelf.shown.insert(item.key().to_owned(), print);
        if let Some(listed) = &mut shelf.listing {
            listed.insert(item.key().to_owned());
        } else if before == Some(print) {
            return None;
        }
        Some(Change::Put { item: Box::new(item) })
    }

    /// An object is gone; nothing is said of one that was never shown.
    pub fn gone(&mut self, kind: Kind, key: &str) -> Option<Change> {
        let shelf = self.shelf(kind);
        if let Some(listed) = &mut shelf.listing {
            listed.remove(key);
        }
        shelf.shown.remove(key).map(|_| Change::Gone { kind, key: key.to_owned() })
    }

    /// The list is complete: what it did not name is gone, and trouble is over.
    pub fn end(&mut self, kind: Kind) -> Vec<Change> {
        let shelf = self.shelf(kind);
        let Some(listed) = shelf.listing.take() else { return Vec::new() };
        let gone: Vec<String> = shelf.shown.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        shelf.shown.retain(|key, _| listed.contains(key));
        (shelf.is_synced, shelf.trouble) = (true, None);
        let gone = gone.into_iter().map(|key| Change::Gone { kind, key });
        gone.chain([Change::Synced { kind }]).collect()
    }

    /// Objects of this kind cannot be shown. Said once until it ends or its words change.
    pub fn trouble(&mut self, kind: Kind, why: &str) -> Option<Change> {
        let shelf = self.shelf(kind);
        shelf.listing = None;
        if shelf.trouble.as_deref() == Some(why) {
            return None;
        }
        shelf.trouble = Some(why.to_owned());
        Some(Change::Trouble { kind, why: why.to_owned() })
    }

    /// All objects of a kind, as who polls has them: the first time and after trouble as a list, later
    /// what changed.
    pub fn show<'i>(&mut self, kind: Kind, items: impl IntoIterator<Item = &'i Item>) -> Vec<Change> {
        let shelf = self.shelf(kind);
        if !shelf.is_synced || shelf.trouble.is_some() {
            self.begin(kind);
            let mut said: Vec<Change> = items.into_iter().filter_map(|item| self.put(item.clone())).collect();
            said.append(&mut self.end(kind));
            return said;
        }
        let mut left: BTreeSet<String> = shelf.shown.keys().cloned().collect();
        let mut said = Vec::new();
        for item in items {
            left.remove(item.key());
            // What did not change is not copied.
            if self.shelf(kind).shown.get(item.key()) != Some(&fingerprint(item)) {
                said.extend(self.put(item.clone()));
            }
        }
        said.extend(left.iter().filter_map(|key| self.gone(kind, key)));
        said
    }

    /// Was a complete list of this kind shown, without trouble since?
    #[must_use]
    pub fn is_shown(&self, kind: Kind) -> bool {
        self.shelves.get(&kind).is_some_and(|shelf| shelf.is_synced && shelf.trouble.is_none())
    }

    fn shelf(&mut self, kind: Kind) -> &mut Shelf {
        self.shelves.entry(kind).or_default()
    }
}

/// Two that look the same to the page have the same.
fn fingerprint(item: &Item) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Views are texts and numbers: they always become JSON.
    serde_json::to_string(item).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::console::protocol::NodeView;

    fn node(key: &str, cpu: u8) -> Item {
        Item::Node(NodeView { key: key.to_owned(), cpu: cpu.to_string(), ..NodeView::default() })
    }

    /// A page that believes everything it is told.
    #[derive(Default)]
    struct Page(BTreeMap<String, Item>);

    impl Page {
        fn hear(&mut self, changes: impl IntoIterator<Item = Change>) {
            for change in changes {
                match change {
                    Change::Put { item } => drop(self.0.insert(item.key().to_owned(), *item)),
                    Change::Gone { key, .. } => assert!(self.0.remove(&key).is_some(), "{key} was not there"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn what_did_not_change_is_not_said_again() {
        let mut board = Board::default();
        board.begin(Kind::Node);
        assert!(board.put(node("a", 1)).is_some());
        assert!(board.put(node("b", 1)).is_some());
        assert_eq!(board.end(Kind::Node), [Change::Synced { kind: Kind::Node }]);
        assert_eq!(board.put(node("a", 1)), None);
        assert!(board.put(node("a", 2)).is_some());
        assert_eq!(board.gone(Kind::Node, "never"), None);
        // A new list repeats what is there and says what is not.
        board.begin(Kind::Node);
        assert!(board.put(node("a", 2)).is_some(), "a list is complete");
        let end = board.end(Kind::Node);
        let gone = Change::Gone { kind: Kind::Node, key: "b".to_owned() };
        assert_eq!(end, [gone, Change::Synced { kind: Kind::Node }]);
        assert_eq!(board.end(Kind::Node), [], "no list is under way");
    }

    #[test]
    fn trouble_is_said_once_and_ends_with_a_list() {
        let mut board = Board::default();
        assert!(board.trouble(Kind::Node, "forbidden").is_some());
        assert_eq!(board.trouble(Kind::Node, "forbidden"), None);
        assert!(board.trouble(Kind::Node, "away").is_some());
        assert!(!board.is_shown(Kind::Node));
        let said = board.show(Kind::Node, [&node("a", 1)]);
        assert_eq!(said.last(), Some(&Change::Synced { kind: Kind::Node }));
        assert!(board.is_shown(Kind::Node) && !board.is_shown(Kind::Pod));
        assert_eq!(board.show(Kind::Node, [&node("a", 1)]), []);
        assert!(board.trouble(Kind::Node, "away").is_some(), "it is news again");
        assert_eq!(board.show(Kind::Node, [&node("a", 1)]).len(), 2, "all of it, and synced");
    }

    proptest! {
        /// Whatever is polled, a page that hears the changes has what is.
        #[test]
        fn a_page_has_what_is(polls in prop::collection::vec(
            prop::option::of(prop::collection::btree_map("[a-d]", 0..3_u8, 0..4)), 1..12)) {
            let (mut board, mut page) = (Board::default(), Page::default());
            for poll in polls {
                match poll {
                    None => page.hear(board.trouble(Kind::Node, "away")),
                    Some(nodes) => {
                        let items: Vec<Item> = nodes.iter().map(|(key, cpu)| node(key, *cpu)).collect();
                        page.hear(board.show(Kind::Node, &items));
                        prop_assert_eq!(page.0.values().cloned().collect::<Vec<_>>(), items);
                    }
                }
            }
        }
    }
}
