//! What edgecore's log says of its link to the cloud.

use std::time::{Duration, Instant};

use crate::actors::edge::edge_hub::LinkState;

/// Between two lines of the log that say the same of the link: an edge may be offline for weeks.
const SAID_AGAIN: Duration = Duration::from_secs(60);
/// Different reasons within that time.
const REASONS: usize = 8;

/// The one place where the link is logged. Offline is normal: no reason to be called not ready.
#[derive(Debug, Default)]
pub(super) struct LinkLog {
    said: Vec<(String, Instant)>,
    /// Failures that were not said.
    more: u64,
}

impl LinkLog {
    pub(super) fn log(&mut self, state: LinkState, now: Instant) {
        match state {
            LinkState::Up => {
                *self = Self::default();
                tracing::info!("cloud link is up");
            }
            LinkState::Down { why } => {
                if let Some(unsaid) = self.is_news(&why, now) {
                    tracing::warn!(why, unsaid, "cloud link is down");
                }
            }
        }
    }

    /// Is it time to say so? Then with how many failures before it that were not said.
    fn is_news(&mut self, why: &str, now: Instant) -> Option<u64> {
        self.said.retain(|(_, at)| now.saturating_duration_since(*at) < SAID_AGAIN);
        if self.said.len() >= REASONS || self.said.iter().any(|(said, _)| said == why) {
            self.more += 1;
            return None;
        }
        self.said.push((why.to_owned(), now));
        Some(std::mem::take(&mut self.more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_a_line_a_minute_for_each_reason() {
        let begun = Instant::now();
        let at = |secs| begun + Duration::from_secs(secs);
        let mut log = LinkLog::default();
        for (secs, why, want) in [
            (0, "refused", Some(0)),
            (1, "refused", None),
            (2, "no route", Some(1)),
            (3, "refused", None),
            (61, "refused", Some(1)),
            (62, "refused", None),
        ] {
            assert_eq!(log.is_news(why, at(secs)), want, "{why} after {secs} s");
        }
        log.log(LinkState::Up, at(63));
        assert_eq!(log.is_news("refused", at(64)), Some(0), "another outage");
        let news = (0..100).filter(|n| log.is_news(&n.to_string(), at(65)).is_some()).count();
        assert_eq!(news, REASONS - 1, "whatever the reasons are");
    }
}
