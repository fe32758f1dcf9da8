//! A local application: reports values of devices over MQTT and reads what becomes of them
//! (protocol section 7.6).

use serde_json::{Value, json};

use super::connection::Connection;
use super::harness::process::PATIENCE;
use super::packet::{self, Frame};

pub const PROPERTY: &str = "temperature";
/// Unacknowledged messages.
const IN_FLIGHT: usize = 100;
/// A membership answer names every device of the node.
const BUFFER: usize = 4 << 20;

pub struct App {
    connection: Connection,
    in_flight: usize,
    /// Answers so far, good ones.
    pub results: usize,
    /// Events are numbered, and so are the values they carry.
    last_event: usize,
    last_result: String,
    refused: Option<String>,
    members: Option<usize>,
    node: String,
}

impl App {
    /// Connects to the broker inside edgecore and subscribes to what answers.
    pub async fn open(address: &str, node: &str) -> Self {
        let connection = Connection::open(address, "bench-app", BUFFER).await;
        let connection = connection.unwrap_or_else(|err| {
            panic!("edgecore serves no MQTT on {address} (modules.eventBus.mqttServerInternal): {err}")
        });
        let mut this = Self {
            connection,
            in_flight: 0,
            results: 0,
            last_event: 0,
            last_result: String::new(),
            refused: None,
            members: None,
            node: node.to_owned(),
        };
        let members = format!("$hw/events/node/{node}/membership/get/result");
        for filter in ["$hw/events/device/+/+/twin/update/result", &members] {
            this.connection.subscribe(filter, 1, |_, _| ()).await.unwrap();
        }
        this
    }

    /// Asks until the node has this many devices. Seconds it took.
    pub async fn wait_devices(&mut self, count: usize) -> f64 {
        let begun = std::time::Instant::now();
        let topic = format!("$hw/events/node/{}/membership/get", self.node);
        loop {
            self.members = None;
            self.publish(&topic, &json!({"event_id": "members", "timestamp": 0}));
            while self.members.is_none() {
                self.pump().await;
            }
            if self.members == Some(count) {
                return begun.elapsed().as_secs_f64();
            }
            assert!(begun.elapsed() < PATIENCE, "the node has {:?} devices and not {count}", self.members);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Puts a report of the next value in line; [`Self::pump`] sends it. The value.
    pub fn report(&mut self, device: &str) -> usize {
        self.last_event += 1;
        let event = self.last_event;
        let update = json!({
            "event_id": event.to_string(),
            "timestamp": 0,
            "twin": {PROPERTY: {"actual": {"value": event.to_string()}, "metadata": {"type": "int"}}},
        });
        self.publish(&format!("$hw/events/device/default/{device}/twin/update"), &update);
        event
    }

    fn publish(&mut self, topic: &str, payload: &Value) {
        let id = self.connection.next_id();
        let payload = payload.to_string();
        packet::publish(&mut self.connection.output, topic, 1, false, id, payload.as_bytes());
        self.in_flight += 1;
    }

    /// Sends what waits and reads what comes; returns after something came. Nothing is lost when
    /// it is dropped.
    pub async fn pump(&mut self) {
        let turned = tokio::time::timeout(PATIENCE, self.connection.turn(false)).await;
        let turned = turned.unwrap_or_else(|_| {
            panic!("edgecore says nothing on MQTT; {} of {} reports answered", self.results, self.last_event)
        });
        turned.unwrap_or_else(|err| panic!("MQTT to edgecore: {err}"));
        let Self { connection, in_flight, results, last_result, refused, members, .. } = self;
        let read = connection.each(|frame, out| match frame {
            Frame::Ack { kind: packet::PUBACK, .. } => *in_flight -= 1,
            Frame::Publish { topic, qos, id, payload, .. } => {
                if qos == 1 {
                    packet::ack(out, packet::PUBACK, id);
                }
                let answer: Value = serde_json::from_slice(payload).unwrap();
                if topic.ends_with(b"membership/get/result") {
                    *members = Some(answer["devices"].as_array().map_or(0, Vec::len));
                } else if answer.get("code").is_some() {
                    *refused = Some(answer.to_string());
                } else {
                    *results += 1;
                    answer["event_id"].as_str().unwrap_or_default().clone_into(last_result);
                }
            }
            _ => {}
        });
        read.unwrap();
        if let Some(why) = refused {
            panic!("edgecore refused a report: {why}");
        }
    }

    /// Reads for ever.
    pub async fn drain(&mut self) -> ! {
        loop {
            self.pump().await;
        }
    }

    /// May another report be sent now?
    pub fn has_room(&self) -> bool {
        self.in_flight < IN_FLIGHT
    }

    /// Reports `count` values over the devices in turn as fast as they are acknowledged; does not
    /// wait for their results.
    pub async fn flood(&mut self, devices: &[String], count: usize) {
        for n in 0..count {
            while !self.has_room() {
                self.pump().await;
            }
            self.report(&devices[n % devices.len()]);
        }
        while self.in_flight > 0 {
            self.pump().await;
        }
    }

    /// Waits until every report has its result.
    pub async fn settle(&mut self) {
        while self.results < self.last_event {
            self.pump().await;
        }
        assert_eq!(self.results, self.last_event, "one result for each report");
    }

    /// One report: seconds until its result is here.
    pub async fn round_trip(&mut self, device: &str) -> f64 {
        let begun = std::time::Instant::now();
        let event = self.report(device).to_string();
        while self.last_result != event {
            self.pump().await;
        }
        begun.elapsed().as_secs_f64()
    }
}
