//! How much of a connection is read ahead of what is done with it. No clock, no I/O.
//!
//! HTTP decodes all that was read at once, and a request in memory is fifty times its bytes: who sends many
//! small ones together must be read in small pieces.

/// Bytes of a request's head.
pub const HEAD_BYTES: usize = 16 << 10;
/// Bytes of what follows a request in hand, beyond its body; and of one read where heads are expected.
pub const AHEAD_BYTES: usize = 2 << 10;
/// Bytes of a body that are thrown away after its request was answered: who sends too much must be able to
/// hear that.
const REST_BYTES: usize = 16 << 20;

/// What may be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Up to so many bytes.
    Go(usize),
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
    /// What the newest one brought.
    body: Body,
    /// Bytes read since nothing was in hand, and how many may be.
    read: usize,
    allowed: usize,
    /// All that came was answered, unless another request begins before the next read.
    is_over: bool,
}

impl Flow {
    #[must_use]
    pub fn new(body_bytes: usize) -> Self {
        Self {
            body_bytes,
            in_hand: 0,
            begun: 0,
            body: Body::None,
            read: 0,
            allowed: HEAD_BYTES,
            is_over: false,
        }
    }

    /// What is asked before each read.
    pub fn reading(&mut self) -> Reading {
        if self.in_hand == 0 && std::mem::take(&mut self.is_over) {
            self.read = 0;
            self.allowed = if self.body == Body::Some { REST_BYTES } else { HEAD_BYTES };
        }
        let left = self.allowed.saturating_sub(self.read);
        match (left, self.in_hand) {
            (0, 0) => Reading::TooLarge,
            (0, _) => Reading::Later,
            (left, 1..) if self.body != Body::None => Reading::Go(left),
            (left, _) => Reading::Go(left.min(AHEAD_BYTES)),
        }
    }

    pub fn read(&mut self, bytes: usize) {
        self.read = self.read.saturating_add(bytes);
    }

    /// A request's head is there.
    pub fn begin(&mut self, body: Body) {
        self.in_hand += 1;
        self.begun += 1;
        self.body = body;
        let more = |bytes| self.read.saturating_add(AHEAD_BYTES).saturating_add(bytes);
        self.allowed = match body {
            // The next of many that came together does not make room for more.
            Body::None => self.allowed.min(more(0)),
            // Chunks have their own heads.
            Body::Some => more(self.body_bytes.saturating_mul(2)),
            Body::Endless => usize::MAX,
        };
    }

    /// Its answer has gone to the end, or it was given up.
    pub fn end(&mut self) {
        self.in_hand = self.in_hand.saturating_sub(1);
        self.is_over = self.in_hand == 0;
    }

    /// Part of a head has come, and nothing else is under way.
    #[must_use]
    pub fn awaits_head(&self) -> bool {
        self.in_hand == 0 && !self.is_over && self.read > 0
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
        assert_eq!(flow.reading(), Reading::Go(AHEAD_BYTES));
        flow.read(HEAD_BYTES - 1);
        assert_eq!((flow.reading(), flow.awaits_head()), (Reading::Go(1), true));
        flow.read(1);
        assert_eq!(flow.reading(), Reading::TooLarge);
    }

    #[test]
    fn what_follows_a_request_in_hand_waits() {
        let mut flow = Flow::new(100);
        flow.read(50);
        flow.begin(Body::None);
        assert_eq!(flow.reading(), Reading::Go(AHEAD_BYTES));
        assert!(!flow.awaits_head() && flow.has_asked());
        flow.read(AHEAD_BYTES);
        assert_eq!(flow.reading(), Reading::Later);
        flow.end();
        assert!(!flow.awaits_head(), "nobody looked yet whether more has come");
        assert_eq!(flow.reading(), Reading::Go(AHEAD_BYTES));
        flow.read(5);
        assert!(flow.awaits_head());
    }

    #[test]
    fn a_thousand_requests_that_came_together_make_room_for_no_more() {
        let mut flow = Flow::new(1 << 20);
        flow.read(2_000);
        flow.begin(Body::Some);
        flow.end();
        let mut most = 0;
        for _ in 0..1_000 {
            flow.begin(Body::None);
            if let Reading::Go(bytes) = flow.reading() {
                flow.read(bytes);
                most += bytes;
            }
            flow.end();
        }
        assert_eq!(most, AHEAD_BYTES);
        assert_eq!(flow.reading(), Reading::Go(AHEAD_BYTES), "all of them are answered");
    }

    #[test]
    fn a_body_is_read_as_far_as_its_door_takes_it() {
        let mut flow = Flow::new(100);
        flow.begin(Body::Some);
        assert_eq!(flow.reading(), Reading::Go(200 + AHEAD_BYTES));
        flow.read(200 + AHEAD_BYTES);
        assert_eq!(flow.reading(), Reading::Later);
        flow.begin(Body::Endless);
        flow.read(usize::MAX / 2);
        assert!(matches!(flow.reading(), Reading::Go(_)));
        flow.end();
        flow.end();
        flow.reading();
        flow.read(HEAD_BYTES);
        assert_eq!(flow.reading(), Reading::TooLarge, "a refused websocket is a connection like others");
    }

    #[test]
    fn the_rest_of_a_body_is_thrown_away_up_to_a_bound() {
        let mut flow = Flow::new(100);
        flow.begin(Body::Some);
        flow.end();
        assert_eq!(flow.reading(), Reading::Go(AHEAD_BYTES));
        flow.read(REST_BYTES);
        assert_eq!(flow.reading(), Reading::TooLarge);
        flow.begin(Body::None);
        flow.end();
        flow.reading();
        flow.read(HEAD_BYTES);
        assert_eq!(flow.reading(), Reading::TooLarge);
    }
}
