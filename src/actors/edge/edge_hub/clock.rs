//! What time it is for the cloud. The cloud judges certificates, so renewing follows its clock, and a
//! clock of this machine that is an hour off neither throws a good certificate away nor keeps one too
//! long.

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

/// Clocks that far apart are worth a word: certificates and tokens live minutes to hours.
const WORTH_A_WORD: Duration = Duration::from_secs(120);

/// The cloud's clock as it was last told (`Date` of an answer over verified TLS), carried on by the
/// monotonic clock: setting this machine's clock does not move it.
#[derive(Debug, Clone, Default)]
pub struct CloudClock {
    learned: Option<(SystemTime, Instant)>,
    /// The difference was logged, until it is gone.
    told: bool,
}

impl CloudClock {
    /// The cloud says that it is `theirs`; `ours` is what this machine's clock says. Gives the line
    /// for the log when the two begin or cease to differ.
    pub fn learn(&mut self, theirs: SystemTime, ours: SystemTime, at: Instant) -> Option<String> {
        self.learned = Some((theirs, at));
        let (difference, word) = match ours.duration_since(theirs) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(err) => (err.duration(), "behind"),
        };
        let differs = difference > WORTH_A_WORD;
        if differs == self.told {
            return None;
        }
        self.told = differs;
        Some(if differs {
            format!(
                "this machine's clock ({}) is {} s {word} the cloud's: certificates are judged by the cloud's \
                 until it is set right",
                shown(ours),
                difference.as_secs()
            )
        } else {
            "this machine's clock agrees with the cloud's again".to_owned()
        })
    }

    /// The time in the cloud; this machine's own when the cloud never told.
    #[must_use]
    pub fn now(&self, ours: SystemTime, at: Instant) -> SystemTime {
        match self.learned {
            Some((theirs, then)) => theirs + at.saturating_duration_since(then),
            None => ours,
        }
    }
}

/// A time as people read it.
#[must_use]
pub fn shown(time: SystemTime) -> String {
    match Timestamp::try_from(time) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => "a time beyond the year 9999".to_owned(),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the `Date` of an HTTP answer.
#[must_use]
pub fn http_date(text: &str) -> Option<SystemTime> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_difference_is_told_once_and_so_is_its_end() {
        let at = Instant::now();
        let mut clock = CloudClock::default();
        for (case, ours, want) in [
            ("agree", 1_000_000, None),
            ("a minute", 1_000_060, None),
            ("an hour ahead", 1_003_600, Some("is 3600 s ahead of the cloud's")),
            ("still", 1_003_601, None),
            ("set right", 1_000_001, Some("agrees with the cloud's again")),
            ("an hour behind", 996_400, Some("is 3600 s behind the cloud's")),
        ] {
            let told = clock.learn(unix(1_000_000), unix(ours), at);
            match (&told, want) {
                (None, None) => {}
                (Some(text), Some(want)) => assert!(text.contains(want), "{case}: {text}"),
                _ => panic!("{case}: {told:?}"),
            }
        }
    }

    #[test]
    fn setting_our_clock_does_not_move_the_clouds() {
        let at = Instant::now();
        let mut clock = CloudClock::default();
        assert_eq!(clock.now(unix(7), at), unix(7), "nothing is known yet");
        clock.learn(unix(1_000_000), unix(1_003_600), at);
        let later = at + Duration::from_secs(10);
        assert_eq!(clock.now(unix(1_003_610), later), unix(1_000_010));
        assert_eq!(clock.now(unix(1_000_010), later), unix(1_000_010), "our clock was set");
    }

    #[test]
    fn dates() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(unix(784_111_777)));
        assert_eq!(http_date("yesterday"), None);
        assert_eq!(shown(unix(784_111_777)), "1994-11-06T08:49:37Z");
    }
}
