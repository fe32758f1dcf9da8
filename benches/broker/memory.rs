//! What a broker holds in memory: connections that do nothing, and retained messages.

use std::time::Duration;

use super::connection::Connection;
use super::machine;
use super::packet::{self, Frame};
use super::target::Broker;

/// Connections made at once.
const AT_ONCE: usize = 100;
/// Time for buffers of the set-up to be given back.
const SETTLE: Duration = Duration::from_secs(2);
const RETAINED_BYTES: usize = 64;
const IN_FLIGHT: usize = 100;
const KIB_PER_MIB: f64 = 1024.0;

/// KiB for each of many, by RSS and by anonymous memory.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub rss: f64,
    pub anonymous: f64,
}

/// Memory of one idle connection out of `count`.
///
/// # Errors
/// A connection that was refused or lost.
pub async fn idle(broker: &Broker, count: usize) -> Result<Share, String> {
    let pid = broker.pid.ok_or("its process id is not known")?;
    tokio::time::sleep(SETTLE).await;
    let before = memory(pid)?;
    let mut connections = Vec::with_capacity(count);
    while connections.len() < count {
        let first = connections.len();
        let wave = (first..count.min(first + AT_ONCE)).map(|number| {
            let (address, client) = (broker.address.clone(), format!("bench-idle-{number}"));
            tokio::spawn(async move { Connection::open(&address, &client, 64).await })
        });
        for opened in wave.collect::<Vec<_>>() {
            connections.push(opened.await.map_err(|err| err.to_string())??);
        }
    }
    tokio::time::sleep(SETTLE).await;
    let after = memory(pid)?;
    for connection in &mut connections {
        if let Ok(turned) = tokio::time::timeout(Duration::ZERO, connection.turn(false)).await {
            turned.map_err(|err| format!("an idle connection was lost: {err}"))?;
        }
    }
    Ok(share(before, after, count))
}

/// Memory of one retained message of 64 bytes out of `count`, each on a topic of its own. Checks
/// that all are there.
///
/// # Errors
/// A message that is not.
pub async fn retained(broker: &Broker, count: usize) -> Result<Share, String> {
    let pid = broker.pid.ok_or("its process id is not known")?;
    tokio::time::sleep(SETTLE).await;
    let before = memory(pid)?;
    let mut connection = Connection::open(&broker.address, "bench-retained", 16 * 1024).await?;
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < count {
        while sent < count && sent - acknowledged < IN_FLIGHT {
            let id = connection.next_id();
            let topic = format!("bench/retained/{sent:06}");
            packet::publish(&mut connection.output, &topic, 1, true, id, &[b'r'; RETAINED_BYTES]);
            sent += 1;
        }
        connection.turn(false).await?;
        connection.each(|frame, _| {
            acknowledged += usize::from(matches!(frame, Frame::Ack { kind: packet::PUBACK, .. }));
        })?;
    }
    connection.close().await?;
    tokio::time::sleep(SETTLE).await;
    let after = memory(pid)?;
    let seen = count_retained(broker, count).await?;
    if seen != count {
        return Err(format!("{seen} of {count} retained messages are there"));
    }
    Ok(share(before, after, count))
}

async fn count_retained(broker: &Broker, count: usize) -> Result<usize, String> {
    let mut reader = Connection::open(&broker.address, "bench-reader", 64 * 1024).await?;
    let mut seen = 0;
    let is_retained = |frame: Frame<'_>| matches!(frame, Frame::Publish { topic, .. } if topic.starts_with(b"bench/retained/"));
    reader.subscribe("bench/retained/+", 0, |frame, _| seen += usize::from(is_retained(frame))).await?;
    while seen < count {
        let Ok(turned) = tokio::time::timeout(SETTLE, reader.turn(false)).await else { break };
        turned?;
        reader.each(|frame, _| seen += usize::from(is_retained(frame)))?;
    }
    Ok(seen)
}

fn memory(pid: u32) -> Result<[f64; 4], String> {
    if machine::is_alive(pid) { Ok(machine::memory(pid)) } else { Err("it has ended".into()) }
}

/// `memory` gives RSS, PSS, private, anonymous in MiB.
fn share(before: [f64; 4], after: [f64; 4], count: usize) -> Share {
    let grown = |at: usize| (after[at] - before[at]) * KIB_PER_MIB / count as f64;
    Share { rss: grown(0), anonymous: grown(3) }
}
