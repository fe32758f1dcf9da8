//! Machines that share one node's certificate: each new session ends the other's, again and again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::NodeName;

/// So many replaced sessions within [`WINDOW`] are no reconnect after a broken link.
const MANY: u32 = 4;
const WINDOW: Duration = Duration::from_secs(60);

/// How to log that a session replaces another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// A reconnect that was quicker than the end of the old session.
    Plain,
    /// Somebody else uses the certificate: say so, once.
    Rival,
    /// It was said.
    Again,
}

/// Replaced sessions of each node. Nodes without one are forgotten within two [`WINDOW`]s.
#[derive(Debug, Default)]
pub struct Rivals {
    nodes: HashMap<NodeName, Series>,
    /// When the quiet ones were last looked for: not at each of ten thousand reconnects.
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Series {
    /// Of the window that is being counted.
    begun: Instant,
    count: u32,
    last: Instant,
    told: bool,
}

impl Rivals {
    /// A session of `node` was replaced `now`.
    pub fn replaced(&mut self, node: &NodeName, now: Instant) -> Replaced {
        let long_ago = |then: Instant| now.saturating_duration_since(then) >= WINDOW;
        if self.swept.is_none_or(long_ago) {
            self.nodes.retain(|_, series| !long_ago(series.last));
            self.swept = Some(now);
        }
        let fresh = || Series { begun: now, count: 0, last: now, told: false };
        let series = self.nodes.entry(node.clone()).or_insert_with(fresh);
        if long_ago(series.last) {
            *series = fresh();
        }
        if long_ago(series.begun) {
            series.begun = now;
            series.count = 0;
        }
        series.last = now;
        series.count += 1;
        if series.told {
            return Replaced::Again;
        }
        series.told = series.count >= MANY;
        if series.told { Replaced::Rival } else { Replaced::Plain }
    }
}

/// An instance that comes back this long after another one was there counts.
const RETURN_WINDOW: Duration = Duration::from_secs(600);
/// A single return may be a request of a killed process that was read late; two show two lives.
const RETURNS: u32 = 2;
/// Instances remembered of a node.
const RECENT: usize = 4;

/// Processes of edges, told apart by the random instance each one sends: an instance that comes back
/// after another one of the same node lives on beside it, so two machines hold one identity.
#[derive(Debug, Default)]
pub struct Instances {
    nodes: HashMap<NodeName, Recent>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Recent {
    /// The newest last.
    seen: Vec<Seen>,
    returns: u32,
    last: Instant,
}

#[derive(Debug)]
struct Seen {
    instance: String,
    address: String,
}

impl Instances {
    /// `instance` opened a session from `address`. Two addresses when this shows two machines: where
    /// the session before came from, and this one. They are then news again only after as many
    /// returns.
    pub fn opened(
        &mut self,
        node: &NodeName,
        instance: &str,
        address: String,
        now: Instant,
    ) -> Option<[String; 2]> {
        let long_ago = |then: Instant| now.saturating_duration_since(then) >= RETURN_WINDOW;
        if self.swept.is_none_or(long_ago) {
            self.nodes.retain(|_, recent| !long_ago(recent.last));
            self.swept = Some(now);
        }
        let fresh = || Recent { seen: Vec::new(), returns: 0, last: now };
        let recent = self.nodes.entry(node.clone()).or_insert_with(fresh);
        if long_ago(recent.last) {
            *recent = fresh();
        }
        recent.last = now;
        let known = recent.seen.iter().position(|seen| seen.instance == instance);
        let is_newest = known.is_some_and(|at| at + 1 == recent.seen.len());
        let before = recent.seen.last().map(|seen| seen.address.clone()).unwrap_or_default();
        match known {
            Some(at) => drop(recent.seen.remove(at)),
            None if recent.seen.len() >= RECENT => drop(recent.seen.remove(0)),
            None => {}
        }
        recent.seen.push(Seen { instance: instance.to_owned(), address: address.clone() });
        if known.is_none() || is_newest {
            return None;
        }
        recent.returns += 1;
        if recent.returns < RETURNS {
            return None;
        }
        self.nodes.remove(node);
        Some([before, address])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rivals_are_told_once_and_reconnects_never() {
        let node = |name| NodeName::parse(name).unwrap();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rivals = Rivals::default();
        let words: Vec<Replaced> =
            (0..100).map(|n| rivals.replaced(&node("shared"), at(n * 1_500))).collect();
        assert_eq!(words.iter().filter(|word| **word == Replaced::Rival).count(), 1);
        assert!(words[..3].iter().all(|word| *word == Replaced::Plain), "{words:?}");
        assert!(words[4..].iter().all(|word| *word == Replaced::Again), "{words:?}");
        // A link that breaks every half minute is bad luck.
        let slow = (0..100).map(|n| rivals.replaced(&node("unlucky"), at(n * 30_000)));
        assert!(slow.into_iter().all(|word| word == Replaced::Plain));
        // After a quiet time it is news again, and nothing is remembered of the quiet ones.
        let later = |ms: u64| at(10_000_000 + ms);
        let words: Vec<Replaced> = (0..4).map(|n| rivals.replaced(&node("shared"), later(n))).collect();
        assert_eq!(words.last(), Some(&Replaced::Rival));
        assert_eq!(rivals.nodes.len(), 1);
    }

    /// A letter is an instance, a digit lets that many minutes pass.
    #[test]
    fn two_lives_of_one_node() {
        let node = NodeName::parse("edge-1").unwrap();
        for (case, opens, found) in [
            ("one machine that reconnects", "AAAAAAA", None),
            ("one machine that restarts again and again", "ABCDEFGHIJ", None),
            ("restarted, and a late request of the killed process", "ABA", None),
            ("two machines", "ABAB", Some("AB")),
            ("two machines, one reconnects more often", "AABAABBB", Some("AB")),
            ("three machines", "ABCAB", Some("AB")),
            ("a clone while the machine was away", "A9B9A9B", Some("AB")),
            ("it was long ago", "ABA99B9A", None),
            ("found and forgotten", "ABABABA", Some("AB")),
        ] {
            let mut instances = Instances::default();
            let mut now = Instant::now();
            let mut clones = Vec::new();
            for letter in opens.chars() {
                if let Some(minutes) = letter.to_digit(10) {
                    now += Duration::from_secs(60 * u64::from(minutes));
                    continue;
                }
                now += Duration::from_secs(1);
                let name = letter.to_string();
                clones.extend(instances.opened(&node, &name, name.clone(), now));
            }
            let first = clones.first().map(|addresses| addresses.concat());
            assert_eq!(first.as_deref(), found, "{case}");
            assert!(clones.len() <= 1, "{case}: {clones:?}");
            assert!(instances.nodes.values().all(|recent| recent.seen.len() <= RECENT), "{case}");
        }
    }
}
