//! MQTT clients of the edge's broker: some report lamps for a while, some only look in.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::churn::LAMPS;
use super::connection::Connection;
use super::packet::{self, Frame};
use super::tally::Tally;

/// Between two reports of one client.
const REPORT: Duration = Duration::from_millis(100);
/// Reports of one client until it goes.
const REPORTS: usize = 100;
const BUFFER: usize = 1 << 20;
/// Retained messages that are replaced again and again.
const RETAINED: usize = 50;

/// Reports lamps with QoS 1, ten times a second; every tenth second another client, whose
/// predecessor has said goodbye or has not.
pub async fn reporters(address: String, number: usize, tally: std::sync::Arc<Tally>) {
    for turn in 0usize.. {
        let name = format!("reporter-{number}-{turn}");
        if tally.note("MQTT client reports for 10 s", report(&address, &name, number, turn).await).is_none() {
            sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn report(address: &str, name: &str, number: usize, turn: usize) -> Result<(), String> {
    let mut connection = Connection::open(address, name, BUFFER).await?;
    let lamp = format!("lamp-{}", (number + turn) % LAMPS);
    connection
        .subscribe(&format!("$hw/events/device/default/{lamp}/twin/update/result"), 1, |_, _| ())
        .await?;
    connection.subscribe("soak/#", 0, |_, _| ()).await?;
    let topic = format!("$hw/events/device/default/{lamp}/twin/update");
    for n in 0..REPORTS {
        let power = if n % 2 == 0 { "on" } else { "off" };
        let update = json!({"event_id": n.to_string(), "timestamp": 0,
            "twin": {"power": {"actual": {"value": format!("{power}-{n}")}, "metadata": {"type": "string"}}}});
        let id = connection.next_id();
        packet::publish(&mut connection.output, &topic, 1, false, id, update.to_string().as_bytes());
        let until = Instant::now() + REPORT;
        while let Ok(turned) = timeout_at(until, connection.turn(false)).await {
            turned?;
            connection.each(|frame, out| {
                if let Frame::Publish { qos: 1, id, .. } = frame {
                    packet::ack(out, packet::PUBACK, id);
                }
            })?;
        }
    }
    if turn.is_multiple_of(2) { connection.close().await } else { Ok(()) }
}

/// A new client every second that leaves a retained message.
pub async fn visitors(address: String, tally: std::sync::Arc<Tally>) {
    for turn in 0usize.. {
        sleep(Duration::from_secs(1)).await;
        tally.note("MQTT client looks in", visit(&address, turn).await);
    }
}

async fn visit(address: &str, turn: usize) -> Result<(), String> {
    let mut connection = Connection::open(address, &format!("visitor-{turn}"), BUFFER).await?;
    connection.subscribe(&format!("visit/{turn}/+"), 1, |_, _| ()).await?;
    let topic = format!("soak/{}", turn % RETAINED);
    packet::publish(&mut connection.output, &topic, 0, true, 0, &[b'v'; 256]);
    connection.close().await
}
