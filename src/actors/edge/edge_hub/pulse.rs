//! Does the other side still hear us? Pure: told of bytes, pings and pongs, it says when the link is dead.
//!
//! Bytes that arrive say nothing of the other direction: a cloud whose acknowledgements are lost sends its
//! messages again and again. So each ping wants its pong (RFC 6455, 5.5.2). A pong may stand behind much else on a slow
//! link, but then bytes come without a pause: one that is late although the line was quiet meanwhile is lost.

use std::time::{Duration, Instant};

/// A line is quiet after this share of the patience without a byte.
const QUIET_SHARE: u32 = 3;

/// What is known of a link.
#[derive(Debug)]
pub struct Pulse {
    /// How long nothing may come, and how long a pong may take.
    patience: Duration,
    bytes: u64,
    last_byte: Instant,
    /// The oldest ping that has no pong.
    asked: Option<Instant>,
    /// The line was quiet since then.
    quiet: bool,
}

impl Pulse {
    #[must_use]
    pub fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, bytes: 0, last_byte: now, asked: None, quiet: false }
    }

    /// A ping was written.
    pub fn asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// A pong came.
    pub fn answered(&mut self) {
        self.asked = None;
        self.quiet = false;
    }

    /// Why the link is dead, if it is. `bytes` is how many were read since the link was opened; to be called
    /// when nothing more is there to be read, a few times in `patience`.
    pub fn judge(&mut self, bytes: u64, now: Instant) -> Option<String> {
        if bytes != self.bytes {
            self.bytes = bytes;
            self.last_byte = now;
        }
        let nothing = now.saturating_duration_since(self.last_byte);
        if nothing >= self.patience {
            return Some(format!("nothing was read for {:?}", self.patience));
        }
        let waits = self.asked.map(|asked| now.saturating_duration_since(asked))?;
        self.quiet |= nothing.min(waits) >= self.patience / QUIET_SHARE;
        (self.quiet && waits >= self.patience)
            .then(|| format!("what is sent does not arrive: no pong for {:?}", self.patience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds, and what happens then.
    enum Event {
        /// So many bytes came.
        Bytes(u64),
        Ping,
        Pong,
    }
    use Event::{Bytes, Ping, Pong};

    /// Plays events over a minute, judging four times a second; the second of death and its reason.
    fn play(mut happens: impl FnMut(u32) -> Vec<Event>) -> Option<(u32, String)> {
        let start = Instant::now();
        let (mut pulse, mut total) = (Pulse::new(Duration::from_secs(6), start), 0);
        for quarter in 0..240_u32 {
            let now = start + Duration::from_millis(250) * quarter;
            if quarter % 4 == 0 {
                for event in happens(quarter / 4) {
                    match event {
                        Bytes(count) => total += count,
                        Ping => pulse.asked(now),
                        Pong => pulse.answered(),
                    }
                }
            }
            if let Some(why) = pulse.judge(total, now) {
                return Some((quarter / 4, why));
            }
        }
        None
    }

    fn ping_every_three(second: u32) -> Vec<Event> {
        if second.is_multiple_of(3) { vec![Ping] } else { Vec::new() }
    }

    #[test]
    fn answered_links_live() {
        let idle =
            play(|second| if second.is_multiple_of(3) { vec![Ping, Bytes(2), Pong] } else { Vec::new() });
        assert_eq!(idle, None);
        // A pong behind a large message on a slow line: half a minute without one, but bytes all the while.
        let slow = play(|second| {
            let mut events = ping_every_three(second);
            events.push(Bytes(25_000));
            if second % 30 == 29 {
                events.push(Pong);
            }
            events
        });
        assert_eq!(slow, None);
    }

    #[test]
    fn silent_links_die() {
        let (at, why) = play(ping_every_three).expect("dead");
        assert_eq!((at, why.as_str()), (6, "nothing was read for 6s"));
        // It breaks later.
        let died = play(|second| match second {
            0..=20 if second.is_multiple_of(3) => vec![Ping, Bytes(2), Pong],
            _ => ping_every_three(second),
        });
        assert_eq!(died.expect("dead").0, 24);
    }

    #[test]
    fn links_that_only_bring_die_too() {
        // The cloud sends what is not acknowledged again every three seconds.
        let died = play(|second| {
            let mut events = ping_every_three(second);
            if second % 3 == 1 {
                events.push(Bytes(20_000));
            }
            events
        });
        assert_eq!(died.expect("dead"), (6, "what is sent does not arrive: no pong for 6s".to_owned()));
    }
}
