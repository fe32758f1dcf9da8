//! The receiving side of a load.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::load::{Shared, Tally};
use super::packet::{self, Frame};
use super::publisher::{self, Head};

const BUFFER: usize = 256 * 1024;

/// Connects and subscribes all, says `ready`, and counts until `ended`.
pub async fn run(
    address: String,
    shared: Arc<Shared>,
    tally: Arc<Mutex<Tally>>,
    ready: SyncSender<()>,
    ended: oneshot::Receiver<()>,
) -> Result<(), String> {
    let mut tasks = JoinSet::new();
    for number in 0..shared.shape.subscribers {
        let buffer = BUFFER / shared.shape.subscribers.min(8);
        let mut connection = Connection::open(&address, &format!("bench-sub-{number}"), buffer).await?;
        connection.subscribe(&shared.shape.filter(), shared.shape.qos, |_, _| ()).await?;
        tasks.spawn(receive(connection, Arc::clone(&shared), Arc::clone(&tally)));
    }
    ready.send(()).map_err(|err| err.to_string())?;
    tokio::select! {
        _ = ended => Ok(()),
        Some(ended) = tasks.join_next() => ended.map_err(|err| err.to_string())?,
    }
}

async fn receive(
    mut connection: Connection,
    shared: Arc<Shared>,
    tally: Arc<Mutex<Tally>>,
) -> Result<(), String> {
    let shape = shared.shape;
    let mut last = vec![0u32; shape.publishers];
    loop {
        connection.turn(false).await?;
        // Everything of one read has arrived by now.
        let (now, recording) = (shared.now(), shared.recording.load(Relaxed));
        let (mut count, mut wrong) = (0u64, None);
        let mut tally = tally.lock().unwrap();
        connection.each(|frame, out| match frame {
            Frame::Publish { qos, id, payload, .. } => {
                match qos {
                    1 => packet::ack(out, packet::PUBACK, id),
                    2 => packet::ack(out, packet::PUBREC, id),
                    _ => {}
                }
                let Some(Head { stamp, sequence, publisher }) = publisher::read_head(payload) else {
                    wrong = Some(format!("a payload of {} bytes", payload.len()));
                    return;
                };
                if payload.len() != shape.size || qos != shape.qos || publisher >= last.len() {
                    wrong = Some(format!("QoS {qos}, {} bytes, publisher {publisher}", payload.len()));
                    return;
                }
                tally.out_of_order += u64::from(sequence <= last[publisher]);
                last[publisher] = sequence.max(last[publisher]);
                if recording {
                    tally.latency.add(now.saturating_sub(stamp));
                }
                count += 1;
            }
            Frame::Ack { kind: packet::PUBREL, id } => packet::ack(out, packet::PUBCOMP, id),
            _ => {}
        })?;
        shared.received.fetch_add(count, Relaxed);
        if let Some(what) = wrong {
            return Err(format!("a message that nobody published: {what}"));
        }
    }
}
