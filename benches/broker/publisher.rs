//! The sending side of a load.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{interval_at, timeout};

use super::connection::Connection;
use super::load::{IN_FLIGHT, Pace, Shape, Shared};
use super::packet::{self, Frame};

/// Bytes of a payload that say something: time, sequence, publisher.
pub const HEAD: usize = 8 + 4 + 2;
/// What is given to the kernel at once.
const WRITE: usize = 32 * 1024;
const BUFFER: usize = 16 * 1024;
/// How long a broker may take for what is in flight at the end.
const LAST_ACKS: Duration = Duration::from_secs(20);
/// After this long without a delivery, what is missing counts as dropped and makes room.
const LOST: Duration = Duration::from_millis(500);

/// The start of a payload.
pub struct Head {
    /// Nanoseconds since the run began.
    pub stamp: u64,
    /// Of this publisher, from 1.
    pub sequence: u32,
    pub publisher: usize,
}

pub fn read_head(payload: &[u8]) -> Option<Head> {
    Some(Head {
        stamp: u64::from_be_bytes(payload.get(..8)?.try_into().ok()?),
        sequence: u32::from_be_bytes(payload.get(8..12)?.try_into().ok()?),
        publisher: u16::from_be_bytes(payload.get(12..14)?.try_into().ok()?).into(),
    })
}

/// Connects all, says `ready`, and publishes until told to stop. Ends when the broker has
/// acknowledged and read everything.
pub async fn run(address: String, shared: Arc<Shared>, ready: SyncSender<()>) -> Result<(), String> {
    let mut publishers = Vec::new();
    for number in 0..shared.shape.publishers {
        publishers.push(Publisher::open(&address, number, &shared).await?);
    }
    ready.send(()).map_err(|err| err.to_string())?;
    let mut tasks = JoinSet::new();
    for publisher in publishers {
        tasks.spawn(publisher.work());
    }
    let room = tokio::spawn(make_room(Arc::clone(&shared)));
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|err| err.to_string())??;
    }
    room.abort();
    Ok(())
}

/// Deliveries make room for more messages.
async fn make_room(shared: Arc<Shared>) {
    let fan = shared.shape.subscribers as u64;
    let (mut counted, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let done = shared.received.load(Relaxed) / fan;
        if done > counted {
            shared.room.add_permits((done - counted) as usize);
            (counted, since) = (done, Instant::now());
        } else if since.elapsed() > LOST {
            let sent = shared.sent.load(Relaxed);
            if sent > counted && shared.room.available_permits() < Shared::limit(shared.shape) / 2 {
                shared.room.add_permits((sent - counted) as usize);
                counted = sent;
            }
            since = Instant::now();
        }
    }
}

struct Publisher {
    connection: Connection,
    shared: Arc<Shared>,
    number: usize,
    /// A whole PUBLISH; identifier, time and sequence are filled in.
    template: Vec<u8>,
    sequence: u32,
    in_flight: usize,
}

impl Publisher {
    async fn open(address: &str, number: usize, shared: &Arc<Shared>) -> Result<Self, String> {
        let connection = Connection::open(address, &format!("bench-pub-{number}"), BUFFER).await?;
        let Shape { qos, size, .. } = shared.shape;
        let mut payload = vec![b'x'; size];
        payload[12..HEAD].copy_from_slice(&u16::try_from(number).unwrap().to_be_bytes());
        let mut template = Vec::new();
        packet::publish(&mut template, &Shape::topic(number), qos, false, 0, &payload);
        let shared = Arc::clone(shared);
        Ok(Self { connection, shared, number, template, sequence: 0, in_flight: 0 })
    }

    async fn work(mut self) -> Result<(), String> {
        match self.shared.pace {
            Pace::Full => self.flood().await?,
            Pace::PerSecond(rate) => self.paced(rate).await?,
        }
        let acknowledged = async {
            while self.in_flight > 0 || !self.connection.is_flushed() {
                self.connection.turn(self.in_flight == 0).await?;
                self.take_acks()?;
            }
            Ok::<(), String>(())
        };
        let done = timeout(LAST_ACKS, acknowledged).await;
        let left = self.in_flight;
        done.map_err(|_| format!("{left} messages unacknowledged after {LAST_ACKS:?}"))??;
        self.connection.close().await
    }

    /// Messages of one write. A share of what may be under way, or publishing would go stop and go.
    fn batch(&self) -> usize {
        let share = Shared::limit(self.shared.shape) / self.shared.shape.publishers / 8;
        (WRITE / self.template.len()).min(share).max(1)
    }

    async fn flood(&mut self) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        let batch = self.batch();
        while !shared.stop.load(Relaxed) {
            let want = if shared.shape.qos == 0 { batch } else { batch.min(IN_FLIGHT - self.in_flight) };
            if want == 0 {
                self.connection.turn(false).await?;
                self.take_acks()?;
                continue;
            }
            let got = tokio::select! {
                biased;
                room = shared.room.acquire_many(want as u32) => match room {
                    Ok(room) => { room.forget(); want }
                    Err(_closed) => break,
                },
                turned = self.connection.turn(false) => { turned?; 0 }
            };
            let now = shared.now();
            for _ in 0..got {
                self.append(now);
            }
            if got > 0 {
                self.connection.turn(true).await?;
            }
            self.take_acks()?;
            // The other publishers and the acknowledgements have their turn.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn paced(&mut self, rate: f64) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        let period = Duration::from_secs_f64(shared.shape.publishers as f64 / rate);
        let first = tokio::time::Instant::now() + Duration::from_secs_f64(self.number as f64 / rate);
        let mut ticks = interval_at(first, period);
        // When each was due: one that had to wait for the broker has waited from then on.
        let mut due = VecDeque::new();
        while !shared.stop.load(Relaxed) {
            tokio::select! {
                _ = ticks.tick() => due.push_back(shared.now()),
                turned = self.connection.turn(false) => turned?,
            }
            self.take_acks()?;
            while self.in_flight < IN_FLIGHT
                && let Some(stamp) = due.pop_front()
            {
                self.append(stamp);
            }
        }
        Ok(())
    }

    fn append(&mut self, stamp: u64) {
        let Shape { qos, size, .. } = self.shared.shape;
        let id = if qos == 0 { 0 } else { self.connection.next_id() };
        let out = &mut self.connection.output;
        out.extend_from_slice(&self.template);
        let payload = out.len() - size;
        if qos > 0 {
            out[payload - 2..payload].copy_from_slice(&id.to_be_bytes());
            self.in_flight += 1;
        }
        self.sequence += 1;
        out[payload..payload + 8].copy_from_slice(&stamp.to_be_bytes());
        out[payload + 8..payload + 12].copy_from_slice(&self.sequence.to_be_bytes());
        self.shared.sent.fetch_add(1, Relaxed);
    }

    fn take_acks(&mut self) -> Result<(), String> {
        let mut done = 0;
        self.connection.each(|frame, out| match frame {
            Frame::Ack { kind: packet::PUBACK | packet::PUBCOMP, .. } => done += 1,
            Frame::Ack { kind: packet::PUBREC, id } => packet::ack(out, packet::PUBREL, id),
            _ => {}
        })?;
        self.in_flight = self
            .in_flight
            .checked_sub(done)
            .ok_or("the broker acknowledged a message that was not in flight")?;
        Ok(())
    }
}
