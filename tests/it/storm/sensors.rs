//! MQTT clients that talk all the while: a device of each edge, a counter, and somebody who keeps the count.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::lanes::device_name;
use super::ledger::Ledger;
use super::site::Place;
use crate::harness::mosquitto::Mqtt;
use crate::harness::process::Process;

const PACE: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(5);
const COUNTER: &str = "storm/counter";

/// The clients of one edge.
pub struct Sensors {
    talks: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    counted: Arc<Mutex<BTreeSet<u64>>>,
    keeper: Process,
}

impl Sensors {
    pub fn start(edge: usize, place: &Place, ledger: &Arc<Mutex<Ledger>>) -> Self {
        let broker = place.edge.broker;
        let args = ["-c", "-i", "keeper", "-q", "1", "-t", COUNTER, "-F", "%p"];
        let keeper = broker.run_sub(&place.edge.dir, "keeper", &args);
        let (talks, ends) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let counted = Arc::new(Mutex::new(BTreeSet::new()));
        let name = device_name(edge);
        let topic = format!("$hw/events/device/default/{name}/twin/update");
        let (sent, acknowledged) = (Arc::clone(ledger), Arc::clone(ledger));
        let (sent_name, done_name) = (name.clone(), name.clone());
        let device = Publisher {
            broker,
            name: format!("device-{name}"),
            topic,
            payload: |n| {
                let actual = json!({"actual": {"value": n.to_string()}, "metadata": {"type": "string"}});
                json!({"event_id": "e", "timestamp": 0, "twin": {"power": actual}}).to_string()
            },
            sending: Box::new(move |n| {
                if let Some(device) = sent.lock().unwrap().devices.get_mut(&sent_name) {
                    device.sent = n;
                }
            }),
            sent: Box::new(move |n| {
                if let Some(device) = acknowledged.lock().unwrap().devices.get_mut(&done_name) {
                    device.acknowledged = n;
                }
            }),
        };
        let counts = Arc::clone(&counted);
        let counter = Publisher {
            broker,
            name: format!("counter-{name}"),
            topic: COUNTER.to_owned(),
            payload: |n| n.to_string(),
            sending: Box::new(|_| {}),
            sent: Box::new(move |n| {
                counts.lock().unwrap().insert(n);
            }),
        };
        let threads = [device, counter].map(|publisher| {
            let (talks, ends) = (Arc::clone(&talks), Arc::clone(&ends));
            std::thread::spawn(move || publisher.run(&talks, &ends))
        });
        Self { talks, ends, threads: threads.into(), counted, keeper }
    }

    /// Lets them talk, or makes them fall silent after the present message.
    pub fn talk(&self, talks: bool) {
        self.talks.store(talks, Ordering::SeqCst);
    }

    /// Messages that were acknowledged and did not come.
    pub fn missing(&self) -> Vec<u64> {
        let came: BTreeSet<u64> = self.keeper.log().lines().filter_map(|line| line.parse().ok()).collect();
        self.counted.lock().unwrap().difference(&came).copied().collect()
    }

    /// How many were acknowledged.
    pub fn counted(&self) -> usize {
        self.counted.lock().unwrap().len()
    }
}

impl Drop for Sensors {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the publisher lived");
            }
        }
    }
}

/// Publishes 1, 2, 3.. with QoS 1, one at a time. A message without an answer is not sent again: the next one is.
struct Publisher {
    broker: Mqtt,
    name: String,
    topic: String,
    payload: fn(u64) -> String,
    sending: Box<dyn Fn(u64) + Send>,
    sent: Box<dyn Fn(u64) + Send>,
}

impl Publisher {
    fn run(self, talks: &AtomicBool, ends: &AtomicBool) {
        let mut number = 0;
        let mut socket = None;
        while !ends.load(Ordering::SeqCst) {
            std::thread::sleep(PACE);
            if !talks.load(Ordering::SeqCst) {
                continue;
            }
            if socket.is_none() {
                socket = self.connect().ok();
            }
            let Some(open) = &mut socket else { continue };
            number += 1;
            (self.sending)(number);
            match publish(open, &self.topic, &(self.payload)(number)) {
                Ok(()) => (self.sent)(number),
                Err(_) => socket = None,
            }
        }
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.broker.0))?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        // MQTT 3.1.1, clean session, no keep alive.
        let body = [&text("MQTT")[..], &[4, 2, 0, 0], &text(&self.name)].concat();
        socket.write_all(&packet(0x10, &body))?;
        let mut answer = [0; 4];
        socket.read_exact(&mut answer)?;
        match answer {
            [0x20, 2, _, 0] => Ok(socket),
            other => Err(std::io::Error::other(format!("{other:?}"))),
        }
    }
}

/// Publishes one message and waits for its PUBACK.
fn publish(socket: &mut TcpStream, topic: &str, payload: &str) -> std::io::Result<()> {
    let body = [&text(topic)[..], &[0, 1], payload.as_bytes()].concat();
    socket.write_all(&packet(0x32, &body))?;
    let mut answer = [0; 4];
    socket.read_exact(&mut answer)?;
    match answer {
        [0x40, 2, 0, 1] => Ok(()),
        other => Err(std::io::Error::other(format!("{other:?}"))),
    }
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    loop {
        let low = u8::try_from(rest & 0x7F).unwrap();
        rest >>= 7;
        out.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            break;
        }
    }
    out.extend(body);
    out
}
