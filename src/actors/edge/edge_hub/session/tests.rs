use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::bus::edge_hub::Class;
use crate::model::{Body, Resource};

type Fx = Vec<Effect<u32>>;

fn outgoing(id: u32, purpose: Purpose, class: Class) -> Outgoing {
    let text = id.to_string();
    Outgoing { frame: Bytes::from(text.clone()), msg_id: text, purpose, class }
}

fn reply() -> Envelope {
    Envelope::new("edgecontroller", "resource", "response", Resource::Keepalive, Body::Null, 1)
}

fn written(effects: &Fx) -> Vec<u32> {
    let frames = effects.iter().filter_map(|effect| match effect {
        Effect::Write(frames) => Some(frames),
        _ => None,
    });
    frames.flatten().map(|frame| std::str::from_utf8(frame).unwrap().parse().unwrap()).collect()
}

fn up(now: Instant) -> Hub<u32> {
    let mut hub = Hub::new(0, 0, 0, now);
    assert_eq!(hub.tick(now), vec![Effect::Dial]);
    hub.opened(false, now);
    hub
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn dials_at_once_then_with_backoff() {
    let now = Instant::now();
    let mut hub: Hub<u32> = Hub::new(0, 0, 4, now);
    assert_eq!(hub.next_wakeup(now), Some(now));
    assert_eq!(hub.tick(now), vec![Effect::Dial]);
    assert_eq!(hub.tick(now + secs(60)), vec![], "one dial at a time");
    hub.dial_failed(now, 1.0);
    assert_eq!(hub.next_wakeup(now), Some(now + Duration::from_millis(500)));
    assert_eq!(hub.tick(now + Duration::from_millis(500)), vec![Effect::Dial]);
    let opened = hub.opened(true, now + secs(1));
    assert_eq!(opened, vec![Effect::Announce { connected: true, session: 5, resync: true }]);
    assert_eq!(hub.closed(4, now, 0.0), vec![], "news of an old session");
    let closed = hub.closed(5, now + secs(2), 0.0);
    assert_eq!(closed, vec![Effect::Announce { connected: false, session: 5, resync: false }]);
    assert_eq!(hub.closed(5, now + secs(2), 0.0), vec![], "told twice");
}

/// Where packets vanish every attempt takes its whole deadline: the link may be back at any time, and
/// a pause on top of that would only be lost.
#[test]
fn after_an_attempt_that_hung_the_next_one_follows_at_once() {
    let begun = Instant::now();
    let mut hub: Hub<u32> = Hub::new(0, 0, 0, begun);
    let mut now = begun;
    for _ in 0..20 {
        assert_eq!(hub.tick(now), vec![Effect::Dial]);
        now += secs(30);
        hub.dial_failed(now, 1.0);
        now += Duration::from_millis(200);
        assert_eq!(hub.next_wakeup(now), Some(now));
    }
    assert_eq!(hub.tick(now), vec![Effect::Dial]);
    hub.dial_failed(now + secs(1), 1.0);
    assert_eq!(hub.next_wakeup(now), Some(now + secs(5)), "what fails soon waits the rest of its pause");
}

#[test]
fn without_a_session_nothing_is_taken() {
    let now = Instant::now();
    let mut hub: Hub<u32> = Hub::new(0, 0, 0, now);
    let message = outgoing(1, Purpose::Send, Class::Control);
    assert_eq!(hub.send(message, now), Err(SendError::NotConnected));
    let effects = hub.request(outgoing(2, Purpose::Request, Class::Control), 2, secs(1), now);
    assert_eq!(effects, vec![Effect::Resolve(2, Err(SendError::NotConnected))]);
}

#[test]
fn replies_find_their_request_once() {
    let now = Instant::now();
    let mut hub = up(now);
    let effects = hub.request(outgoing(1, Purpose::Request, Class::Control), 1, secs(5), now);
    assert_eq!(written(&effects), [1]);
    let (waited, effects) = hub.replied("1", reply(), now);
    assert!(waited && matches!(effects[..], [Effect::Resolve(1, Ok(_))]));
    assert!(!hub.replied("1", reply(), now).0, "a duplicate");
    assert!(!hub.replied("9", reply(), now).0, "never asked");
    hub.request(outgoing(2, Purpose::Request, Class::Control), 2, secs(5), now);
    assert_eq!(hub.tick(now + secs(4)), vec![]);
    assert_eq!(hub.next_wakeup(now), Some(now + secs(5)));
    assert_eq!(hub.tick(now + secs(5)), vec![Effect::Resolve(2, Err(SendError::NoReply(secs(5))))]);
}

#[test]
fn the_message_in_hand_survives_a_broken_link() {
    let now = Instant::now();
    let mut hub = up(now);
    assert_eq!(written(&hub.send(outgoing(1, Purpose::Send, Class::Control), now).unwrap()), [1]);
    hub.send(outgoing(2, Purpose::Send, Class::Control), now).unwrap();
    hub.request(outgoing(3, Purpose::Request, Class::Control), 3, secs(9), now);
    let effects = hub.closed(1, now, 0.0);
    assert!(effects.contains(&Effect::Resolve(3, Err(SendError::Disconnected))), "{effects:?}");
    hub.tick(now + secs(1));
    assert_eq!(written(&hub.opened(false, now + secs(1))), [1, 2], "in front again, the request not");
}

#[test]
fn acknowledgements_belong_to_their_session() {
    let now = Instant::now();
    let mut hub = up(now);
    let push =
        Envelope::new("edgecontroller", "resource", "insert", Resource::parse("a/pod/b"), Body::Null, 1);
    let (taken, effects) = hub.store(push.clone(), 10);
    assert!(taken && effects == vec![Effect::Apply(push)]);
    let ack = outgoing(7, Purpose::Ack, Class::Control);
    assert_eq!(written(&hub.applied("a/pod/b", 1, Some(ack.clone()), now)), [7]);
    hub.closed(1, now, 0.0);
    hub.tick(now + secs(1));
    assert_eq!(written(&hub.opened(false, now + secs(1))), [0_u32; 0], "not repeated");
    assert_eq!(hub.applied("a/pod/b", 1, Some(ack), now), vec![], "late, of the session before");
}

#[test]
fn a_planned_reconnect_loses_nothing() {
    let now = Instant::now();
    let mut hub = up(now);
    hub.request(outgoing(1, Purpose::Request, Class::Control), 1, secs(30), now);
    hub.written(1, now);
    assert_eq!(hub.rotate(now), vec![], "a reply is under way");
    assert_eq!(hub.request(outgoing(2, Purpose::Request, Class::Control), 2, secs(30), now), vec![]);
    hub.send(outgoing(3, Purpose::Send, Class::Event), now).unwrap();
    let (_, effects) = hub.replied("1", reply(), now);
    assert!(matches!(effects[..], [Effect::Resolve(1, Ok(_)), Effect::Close]), "{effects:?}");
    let effects = hub.closed(1, now, 1.0);
    assert_eq!(effects, vec![Effect::Announce { connected: false, session: 1, resync: false }]);
    assert_eq!(hub.tick(now), vec![Effect::Dial], "at once");
    assert_eq!(hub.request(outgoing(4, Purpose::Request, Class::Control), 4, secs(30), now), vec![]);
    assert_eq!(written(&hub.opened(false, now)), [2, 4, 3]);
}

#[test]
fn a_planned_reconnect_does_not_wait_for_ever() {
    let now = Instant::now();
    let mut hub = up(now);
    hub.request(outgoing(1, Purpose::Request, Class::Control), 1, secs(30), now);
    hub.rotate(now);
    assert_eq!(hub.next_wakeup(now), Some(now + DRAIN));
    assert_eq!(hub.tick(now + DRAIN), vec![Effect::Close]);
    hub.closed(1, now + DRAIN, 0.0);
    hub.request(outgoing(2, Purpose::Request, Class::Control), 2, secs(30), now);
    hub.tick(now + DRAIN);
    let effects = hub.dial_failed(now + DRAIN, 0.0);
    assert_eq!(effects, vec![Effect::Resolve(2, Err(SendError::Disconnected))]);
}

#[derive(Debug, Clone)]
enum Step {
    Send(bool),
    Request,
    Written,
    Reply(u8),
    Down,
    Up,
    DialFails,
    Rotate,
    Pass(u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(Step::Send),
        4 => Just(Step::Request),
        6 => Just(Step::Written),
        4 => any::<u8>().prop_map(Step::Reply),
        2 => Just(Step::Down),
        4 => Just(Step::Up),
        1 => Just(Step::DialFails),
        1 => Just(Step::Rotate),
        2 => (0_u16..12_000).prop_map(Step::Pass),
    ]
}

/// The world around the hub: a writer, a dialler, a cloud.
struct World {
    hub: Hub<u32>,
    now: Instant,
    next_id: u32,
    dialing: bool,
    open: bool,
    in_hand: Vec<u32>,
    confirmed: Vec<u32>,
    asked: Vec<u32>,
    frames: BTreeMap<u32, u32>,
    answers: BTreeMap<u32, u32>,
    accepted: Vec<(u32, Class)>,
    requests: Vec<u32>,
}

impl World {
    fn run(&mut self, effects: Fx) {
        for effect in effects {
            match effect {
                Effect::Dial => {
                    assert!(!self.dialing && !self.open, "one link at a time");
                    self.dialing = true;
                }
                Effect::Write(_) => {
                    assert!(self.open && self.in_hand.is_empty(), "one batch at a time, on an open link");
                    self.in_hand = written(&vec![effect]);
                    for id in self.in_hand.clone() {
                        *self.frames.entry(id).or_default() += 1;
                        if self.requests.contains(&id) {
                            self.asked.push(id);
                        }
                    }
                }
                Effect::Close => self.close(),
                Effect::Resolve(id, _) => *self.answers.entry(id).or_default() += 1,
                Effect::Apply(_) | Effect::Announce { .. } => {}
            }
        }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            self.in_hand.clear();
            let effects = self.hub.closed(self.hub.session(), self.now, 0.5);
            self.run(effects);
        }
    }

    fn step(&mut self, step: Step) {
        let effects = match step {
            Step::Send(control) => {
                self.next_id += 1;
                let class = if control { Class::Control } else { Class::Device };
                match self.hub.send(outgoing(self.next_id, Purpose::Send, class), self.now) {
                    Ok(effects) => {
                        self.accepted.push((self.next_id, class));
                        effects
                    }
                    Err(_) => Vec::new(),
                }
            }
            Step::Request => {
                self.next_id += 1;
                self.requests.push(self.next_id);
                let message = outgoing(self.next_id, Purpose::Request, Class::Control);
                self.hub.request(message, self.next_id, secs(10), self.now)
            }
            Step::Written if self.open && !self.in_hand.is_empty() => {
                self.confirmed.append(&mut self.in_hand);
                self.hub.written(self.hub.session(), self.now)
            }
            Step::Reply(which) if self.open && !self.asked.is_empty() => {
                let id = self.asked[usize::from(which) % self.asked.len()];
                self.hub.replied(&id.to_string(), reply(), self.now).1
            }
            Step::Up if self.dialing => {
                self.dialing = false;
                self.open = true;
                self.asked.clear();
                self.hub.opened(false, self.now)
            }
            Step::DialFails if self.dialing => {
                self.dialing = false;
                self.hub.dial_failed(self.now, 0.5)
            }
            Step::Down => {
                self.close();
                Vec::new()
            }
            Step::Rotate => self.hub.rotate(self.now),
            Step::Pass(ms) => {
                self.now += Duration::from_millis(u64::from(ms));
                self.hub.tick(self.now)
            }
            _ => Vec::new(),
        };
        self.run(effects);
    }
}

proptest! {
    /// Whatever the link does: every request is answered exactly once and written at most once,
    /// and every accepted message is written completely exactly once, in the order of its class.
    #[test]
    fn nothing_is_lost_or_doubled(steps in proptest::collection::vec(any_step(), 0..120)) {
        let now = Instant::now();
        let mut world = World {
            hub: Hub::new(0, 0, 0, now), now, next_id: 0, dialing: false, open: false,
            in_hand: vec![], confirmed: vec![], asked: vec![], frames: BTreeMap::new(),
            answers: BTreeMap::new(), accepted: vec![], requests: vec![],
        };
        for step in steps {
            world.step(step);
        }
        for _ in 0..4 {
            world.step(Step::Pass(12_000));
            world.step(Step::Up);
            for _ in 0..8 {
                world.step(Step::Written);
            }
        }
        for id in &world.requests {
            prop_assert_eq!(world.answers.get(id), Some(&1), "answers to request {}", id);
            prop_assert!(world.frames.get(id).copied().unwrap_or(0) <= 1, "request {} was repeated", id);
        }
        for class in [Class::Control, Class::Device] {
            let want: Vec<u32> =
                world.accepted.iter().filter(|(_, of)| *of == class).map(|(id, _)| *id).collect();
            let got: Vec<u32> = world.confirmed.iter().copied().filter(|id| want.contains(id)).collect();
            prop_assert_eq!(got, want, "{:?}", class);
        }
    }
}
