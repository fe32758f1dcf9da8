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
}
