//! What waits to be published: in order, in groups, one group under way at a time.

use std::collections::VecDeque;

use crate::bus::event_bus::Publication;

/// Most publications and about most bytes in one group.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 1 << 20;
/// Bytes of topics and payloads that may wait, besides the bound on their number.
const MAX_BYTES: usize = 32 << 20;

/// The queue. When it is over a bound the oldest are dropped and counted.
#[derive(Debug)]
pub struct Publishing {
    most: usize,
    queue: VecDeque<Publication>,
    bytes: usize,
    under_way: Vec<Publication>,
    is_pausing: bool,
    dropped: u64,
}

fn size(publication: &Publication) -> usize {
    publication.topic.len() + publication.payload.len()
}

impl Publishing {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            queue: VecDeque::new(),
            bytes: 0,
            under_way: Vec::new(),
            is_pausing: false,
            dropped: 0,
        }
    }

    pub fn push(&mut self, publication: Publication) {
        self.bytes += size(&publication);
        self.queue.push_back(publication);
        self.drop_oldest();
    }

    fn drop_oldest(&mut self) {
        while self.queue.len() > self.most || (self.bytes > MAX_BYTES && self.queue.len() > 1) {
            let Some(oldest) = self.queue.pop_front() else { return };
            self.bytes -= size(&oldest);
            self.dropped += 1;
        }
    }

    /// The next group, unless one is under way or EventBus just refused one.
    pub fn next_group(&mut self) -> Option<Vec<Publication>> {
        if !self.under_way.is_empty() || self.is_pausing || self.queue.is_empty() {
            return None;
        }
        let mut bytes = 0;
        while self.under_way.len() < GROUP && bytes < GROUP_BYTES {
            let Some(next) = self.queue.pop_front() else { break };
            bytes += size(&next);
            self.under_way.push(next);
        }
        self.bytes -= bytes;
        Some(self.under_way.clone())
    }

    /// The group under way is published.
    pub fn done(&mut self) {
        self.under_way.clear();
    }

    /// The group under way was not taken: it comes first after [`Publishing::resume`].
    pub fn put_back(&mut self) {
        self.is_pausing = true;
        for publication in std::mem::take(&mut self.under_way).into_iter().rev() {
            self.bytes += size(&publication);
            self.queue.push_front(publication);
        }
        self.drop_oldest();
    }

    pub fn resume(&mut self) {
        self.is_pausing = false;
    }

    #[must_use]
    pub fn is_pausing(&self) -> bool {
        self.is_pausing
    }

    /// Dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn publication(n: usize) -> Publication {
        Publication { topic: n.to_string(), payload: Bytes::from_static(b"x"), retain: false }
    }

    fn topics(group: &[Publication]) -> Vec<&str> {
        group.iter().map(|publication| publication.topic.as_str()).collect()
    }

    #[test]
    fn in_order_one_group_at_a_time_and_the_oldest_dropped() {
        let mut publishing = Publishing::new(3);
        (0..2).for_each(|n| publishing.push(publication(n)));
        assert_eq!(topics(&publishing.next_group().unwrap()), ["0", "1"]);
        publishing.push(publication(2));
        assert!(publishing.next_group().is_none(), "one is under way");
        publishing.put_back();
        assert!(publishing.next_group().is_none() && publishing.is_pausing());
        publishing.push(publication(3));
        assert_eq!(publishing.dropped(), 1);
        publishing.resume();
        assert_eq!(topics(&publishing.next_group().unwrap()), ["1", "2", "3"]);
        publishing.done();
        assert!(publishing.next_group().is_none());
        assert_eq!(publishing.bytes, 0);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut publishing = Publishing::new(usize::MAX);
        let big = Bytes::from(vec![0; MAX_BYTES / 2]);
        for n in 0..3 {
            publishing.push(Publication { topic: n.to_string(), payload: big.clone(), retain: false });
        }
        assert_eq!((publishing.dropped(), topics(&publishing.next_group().unwrap())), (2, vec!["2"]));
    }
}
