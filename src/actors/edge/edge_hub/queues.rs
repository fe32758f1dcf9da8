//! What waits for the cloud: one bounded queue and one limiter for each traffic class.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::bus::edge_hub::Class;

/// Encoded bytes that may wait in all classes together.
const MAX_BYTES: usize = 16 << 20;
/// Of these, room that only control may take: a lease is not late because device data waits.
const CONTROL_BYTES: usize = 2 << 20;
const MAX_CONTROL: usize = 4096;
const MAX_EVENT: usize = 1024;
const MAX_DEVICE: usize = 4096;
/// A second report would say the same.
const MAX_REPORT: usize = 1;

/// What becomes of a message when the session it was queued in ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Confirms a message of this session; the next session resends that message anyway.
    Ack,
    /// Was accepted with `Ok`: kept until written, across sessions.
    Send,
    /// Its owner says it again in the next session.
    Again,
    /// Somebody waits for the reply and hears that the session ended.
    Request,
    /// Follows the reports before it in this session: the next one begins anew.
    Report,
}

/// One encoded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub msg_id: String,
    pub purpose: Purpose,
    pub class: Class,
    /// The JSON frame.
    pub frame: Bytes,
}

/// The four queues.
#[derive(Debug)]
pub struct Queues {
    control: VecDeque<Outgoing>,
    event: VecDeque<Outgoing>,
    device: VecDeque<Outgoing>,
    report: VecDeque<Outgoing>,
    event_limit: Bucket,
    device_limit: Bucket,
    /// Whether `device_limit` counts.
    limits_device_data: bool,
    bytes: usize,
}

/// There is no room in this class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Queues {
    /// `qps` messages a second and `burst` at once for events and for device data, each on its
    /// own; 0 switches the limiter off. Control is not limited: it is small, and a late lease
    /// makes the node NotReady.
    #[must_use]
    pub fn new(qps: u32, burst: u32, now: Instant) -> Self {
        Self {
            control: VecDeque::new(),
            event: VecDeque::new(),
            device: VecDeque::new(),
            report: VecDeque::new(),
            event_limit: Bucket::new(qps, burst, now),
            device_limit: Bucket::new(qps, burst, now),
            limits_device_data: true,
            bytes: 0,
        }
    }

    /// Device data is limited towards a cloud that may not bear it. One with our extensions tells by
    /// its confirmations how much it takes, and control still goes first.
    pub fn limit_device_data(&mut self, is_limited: bool) {
        self.limits_device_data = is_limited;
    }

    /// # Errors
    /// [`Full`] when the class or the bytes together are at their bound; nothing is dropped.
    pub fn push(&mut self, message: Outgoing) -> Result<(), Full> {
        let size = message.frame.len();
        let others = MAX_BYTES - CONTROL_BYTES;
        let (queue, most, most_bytes) = match message.class {
            Class::Control => (&mut self.control, MAX_CONTROL, MAX_BYTES),
            Class::Event => (&mut self.event, MAX_EVENT, others),
            Class::Device => (&mut self.device, MAX_DEVICE, others),
            Class::Report => (&mut self.report, MAX_REPORT, others),
        };
        if queue.len() >= most || self.bytes.saturating_add(size) > most_bytes {
            return Err(Full);
        }
        queue.push_back(message);
        self.bytes += size;
        Ok(())
    }

    /// Puts messages that were taken but not written back in front, in their order.
    pub fn put_back(&mut self, messages: Vec<Outgoing>) {
        for message in messages.into_iter().rev() {
            self.bytes += message.frame.len();
            match message.class {
                Class::Control => self.control.push_front(message),
                Class::Event => self.event.push_front(message),
                Class::Device => self.device.push_front(message),
                Class::Report => self.report.push_front(message),
            }
        }
    }

    /// The next messages, control first, at most `most` and about `most_bytes` (never none for
    /// being big).
    pub fn take(&mut self, now: Instant, most: usize, most_bytes: usize) -> Vec<Outgoing> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let Self { control, event, device, report, event_limit, device_limit, limits_device_data, .. } = self;
        let device_limit = limits_device_data.then_some(device_limit);
        let classes = [(control, None), (event, Some(event_limit)), (device, device_limit), (report, None)];
        for (queue, mut limit) in classes {
            while taken.len() < most && bytes < most_bytes && !queue.is_empty() {
                if limit.as_mut().is_some_and(|limit| !limit.take(now)) {
                    break;
                }
                if let Some(message) = queue.pop_front() {
                    bytes += message.frame.len();
                    taken.push(message);
                }
            }
        }
        self.bytes -= bytes;
        taken
    }

    /// When [`Queues::take`] will give something again, if the limiters hold messages back.
    #[must_use]
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        if !self.control.is_empty() || !self.report.is_empty() {
            return Some(now);
        }
        if !self.limits_device_data && !self.device.is_empty() {
            return Some(now);
        }
        let waits =
            |queue: &VecDeque<Outgoing>, limit: &Bucket| (!queue.is_empty()).then(|| limit.ready_at(now));
        let times = [waits(&self.event, &self.event_limit), waits(&self.device, &self.device_limit)];
        times.into_iter().flatten().min()
    }

    /// A report has not been taken yet.
    #[must_use]
    pub fn has_report(&self) -> bool {
        !self.report.is_empty()
    }

    /// Removes what `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&Outgoing) -> bool) {
        for queue in [&mut self.control, &mut self.event, &mut self.device, &mut self.report] {
            queue.retain(&keep);
        }
        let all = self.control.iter().chain(&self.event).chain(&self.device).chain(&self.report);
        self.bytes = all.map(|message| message.frame.len()).sum();
    }
}

/// A token bucket. Time is an argument.
#[derive(Debug)]
struct Bucket {
    /// Tokens a second; 0.0: no limit.
    rate: f64,
    burst: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(qps: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self { rate: f64::from(qps), burst, level: burst, at: now }
    }

    fn level_at(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + elapsed * self.rate).min(self.burst)
    }

    fn take(&mut self, now: Instant) -> bool {
        if self.rate <= 0.0 {
            return true;
        }
        self.level = self.level_at(now);
        self.at = self.at.max(now);
        if self.level < 1.0 {
            return false;
        }
        self.level -= 1.0;
        true
    }

    fn ready_at(&self, now: Instant) -> Instant {
        let missing = 1.0 - self.level_at(now);
        if self.rate <= 0.0 || missing <= 0.0 {
            return now;
        }
        // One millisecond more than computed, so that rounding never wakes too early.
        now + Duration::from_secs_f64(missing / self.rate) + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(class: Class, id: usize) -> Outgoing {
        Outgoing {
            msg_id: id.to_string(),
            purpose: Purpose::Send,
            class,
            frame: Bytes::from_static(b"1234567890"),
        }
    }

    fn ids(taken: &[Outgoing]) -> Vec<&str> {
        taken.iter().map(|message| message.msg_id.as_str()).collect()
    }

    #[test]
    fn control_goes_first_and_is_never_throttled() {
        let now = Instant::now();
        let mut queues = Queues::new(1, 1, now);
        for id in 0..3 {
            queues.push(message(Class::Device, id)).unwrap();
            queues.push(message(Class::Event, 10 + id)).unwrap();
            queues.push(message(Class::Control, 20 + id)).unwrap();
        }
        assert_eq!(ids(&queues.take(now, 100, 1000)), ["20", "21", "22", "10", "0"]);
        assert!(queues.take(now, 100, 1000).is_empty(), "both limiters are empty");
        let ready = queues.ready_at(now).unwrap();
        assert!(ready > now && ready <= now + Duration::from_millis(1002));
        assert_eq!(ids(&queues.take(ready, 100, 1000)), ["11", "1"]);
    }

    #[test]
    fn one_report_waits_and_goes_last() {
        let now = Instant::now();
        let mut queues = Queues::new(0, 0, now);
        queues.push(message(Class::Report, 30)).unwrap();
        assert_eq!(queues.push(message(Class::Report, 31)), Err(Full));
        for (id, class) in [Class::Device, Class::Event, Class::Control].into_iter().enumerate() {
            queues.push(message(class, id)).unwrap();
        }
        assert_eq!(ids(&queues.take(now, 3, 1000)), ["2", "1", "0"]);
        assert!(queues.has_report() && queues.ready_at(now) == Some(now));
        assert_eq!(ids(&queues.take(now, 3, 1000)), ["30"]);
        assert!(!queues.has_report() && queues.bytes == 0);
    }

    #[test]
    fn device_data_is_not_limited_towards_our_own_cloud() {
        let now = Instant::now();
        let mut queues = Queues::new(1, 1, now);
        queues.limit_device_data(false);
        for id in 0..4 {
            queues.push(message(Class::Device, id)).unwrap();
            queues.push(message(Class::Event, 10 + id)).unwrap();
        }
        queues.push(message(Class::Control, 20)).unwrap();
        assert_eq!(ids(&queues.take(now, 4, 1000)), ["20", "10", "0", "1"]);
        assert_eq!(queues.ready_at(now), Some(now));
        assert_eq!(ids(&queues.take(now, 100, 1000)), ["2", "3"]);
        queues.limit_device_data(true);
        queues.push(message(Class::Device, 5)).unwrap();
        assert_eq!(ids(&queues.take(now, 100, 1000)), ["5"]);
        queues.push(message(Class::Device, 6)).unwrap();
        assert!(queues.take(now, 100, 1000).is_empty() && queues.ready_at(now).unwrap() > now);
    }

    #[test]
    fn a_full_class_does_not_fill_the_others() {
        let now = Instant::now();
        let mut queues = Queues::new(0, 0, now);
        let accepted = (0..).take_while(|id| queues.push(message(Class::Event, *id)).is_ok()).count();
        assert_eq!(accepted, MAX_EVENT);
        queues.push(message(Class::Control, 1)).unwrap();
        queues.push(message(Class::Device, 1)).unwrap();
        let mut big = message(Class::Device, 2);
        big.frame = Bytes::from(vec![0; MAX_BYTES]);
        assert_eq!(queues.push(big), Err(Full), "bytes are bounded too");
    }

    #[test]
    fn bytes_bound_a_batch_but_a_big_message_still_goes() {
        let now = Instant::now();
        let mut queues = Queues::new(0, 0, now);
        for id in 0..4 {
            queues.push(message(Class::Control, id)).unwrap();
        }
        assert_eq!(ids(&queues.take(now, 100, 15)), ["0", "1"]);
        assert_eq!(ids(&queues.take(now, 100, 1)), ["2"]);
        queues.put_back(vec![message(Class::Control, 8), message(Class::Control, 9)]);
        assert_eq!(ids(&queues.take(now, 2, 1000)), ["8", "9"]);
        queues.retain(|_| false);
        assert_eq!((queues.ready_at(now), queues.bytes), (None, 0));
    }
}
