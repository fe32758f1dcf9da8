//! How much of a connection is read ahead of what is done with it. No clock, no I/O.

/// Bytes of a request's head, and of what follows a request in hand.
pub const AHEAD_BYTES: usize = 16 << 10;

/// Bytes of a body that are thrown away after its request was answered: who sends too much must be able to
/// hear that.
const REST_BYTES: usize = 16 << 20;

/// What may be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Go,
    /// When the request in hand has come further.
    Later,
    /// The head of a request has no end.
    TooLarge,
}

/// What a request brings with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    None,
    /// As much as the door takes, and no more.
    Some,
    /// A websocket: whoever serves it reads as fast as he can.
    Endless,
}

/// One connection.
#[derive(Debug)]
pub struct Flow {
    /// What the door takes of a body, bytes.
    body_bytes: usize,
    /// Requests begun and not answered to the end.
    in_hand: u32,
    /// Requests begun at all.
    begun: u64,
    /// Did the newest one bring a body?
    has_body: bool,
    /// Bytes read since the newest request began, or ended.
    read: usize,
    allowed: usize,
}

impl Flow {
    #[must_use]
    pub fn new(body_bytes: usize) -> Self {
        Self { body_bytes, in_hand: 0, begun: 0, has_body: false, read: 0, allowed: AHEAD_BYTES }
    }

    #[must_use]
    pub fn reading(&self) -> Reading {
        match (self.read < self.allowed, self.in_hand) {
            (true, _) => Reading::Go,
            (false, 0) => Reading::TooLarge,
            (false, _) => Reading::Later,
        }
    }

    pub fn read(&mut self, bytes: usize) {
        self.read = self.read.saturating_add(bytes);
    }

    /// A request's head is there.
    pub fn begin(&mut self, body: Body) {
        self.in_hand += 1;
        self.begun += 1;
        self.read = 0;
        self.has_body = body == Body::Some;
        self.allowed = match body {
            Body::None => AHEAD_BYTES,
            // Chunks have their own heads.
            Body::Some => self.body_bytes.saturating_mul(2).saturating_add(AHEAD_BYTES),
            Body::Endless => usize::MAX,
        };
    }

    /// Its answer has gone to the end, or it was given up.
    pub fn end(&mut self) {
        self.in_hand = self.in_hand.saturating_sub(1);
        if self.in_hand == 0 {
            self.read = 0;
            self.allowed = if self.has_body { REST_BYTES } else { AHEAD_BYTES };
        }
    }

    /// Part of a head has come, and nothing else is under way.
    #[must_use]
    pub fn awaits_head(&self) -> bool {
        self.in_hand == 0 && self.read > 0
    }

    /// Has it asked for anything yet?
    #[must_use]
    pub fn has_asked(&self) -> bool {
        self.begun > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_without_an_end_is_given_up() {
        let mut flow = Flow::new(100);
        assert!(!flow.awaits_head() && !flow.has_asked());
        flow.read(AHEAD_BYTES - 1);
        assert_eq!((flow.reading(), flow.awaits_head()), (Reading::Go, true));
        flow.read(1);
        assert_eq!(flow.reading(), Reading::TooLarge);
    }

    #[test]
    fn what_follows_a_request_in_hand_waits() {
        let mut flow = Flow::new(100);
        flow.read(50);
        flow.begin(Body::None);
        assert_eq!((flow.reading(), flow.awaits_head(), flow.has_asked()), (Reading::Go, false, true));
        flow.read(AHEAD_BYTES);
        assert_eq!(flow.reading(), Reading::Later);
        flow.end();
        assert_eq!(flow.reading(), Reading::Go);
    }

    #[test]
    fn a_body_is_read_as_far_as_its_door_takes_it() {
        let mut flow = Flow::new(100);
        for (body, most) in [(Body::Some, 200 + AHEAD_BYTES), (Body::None, AHEAD_BYTES)] {
            flow.begin(body);
            flow.read(most - 1);
            assert_eq!(flow.reading(), Reading::Go, "{body:?}");
            flow.read(1);
            assert_eq!(flow.reading(), Reading::Later, "{body:?}");
            flow.end();
        }
        flow.begin(Body::Endless);
        flow.read(usize::MAX / 2);
        assert_eq!(flow.reading(), Reading::Go);
        flow.end();
        assert_eq!(flow.reading(), Reading::Go, "a refused websocket is a connection like others");
        flow.read(AHEAD_BYTES);
        assert_eq!(flow.reading(), Reading::TooLarge);
    }

    #[test]
    fn the_rest_of_a_body_is_thrown_away_up_to_a_bound() {
        let mut flow = Flow::new(100);
        flow.begin(Body::Some);
        flow.end();
        flow.read(REST_BYTES - 1);
        assert_eq!(flow.reading(), Reading::Go);
        flow.read(1);
        assert_eq!(flow.reading(), Reading::TooLarge);
        flow.begin(Body::None);
        flow.end();
        flow.read(AHEAD_BYTES);
        assert_eq!(flow.reading(), Reading::TooLarge);
    }

    #[test]
    fn requests_that_came_together_are_all_in_hand() {
        let mut flow = Flow::new(0);
        flow.begin(Body::None);
        flow.begin(Body::None);
        flow.end();
        flow.read(AHEAD_BYTES);
        assert_eq!(flow.reading(), Reading::Later);
        flow.end();
        flow.end();
        assert_eq!(flow.reading(), Reading::Go);
    }
}
