//! The network side of one simulated edge: it joins, dials, keeps its session, and dials again. One task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::edge::{Edge, Effect};
use super::figures::{Counted, Figures, Timed};
use crate::actors::edge::edge_hub::backoff::Backoff;
use crate::actors::edge::edge_hub::credential_files::Identity;
use crate::actors::edge::edge_hub::join_error::JoinError;
use crate::actors::edge::edge_hub::join_worker::Joiner;
use crate::actors::edge::edge_hub::link_worker::{Dialling, Stream, dial, keepalive, patience};
use crate::config::EdgeHubConfig;
use crate::model::{Envelope, Moment, NodeName};
use crate::wire::frame::{self, MAX_MESSAGE_BYTES};

/// Everything of one edge.
pub struct Linked {
    pub node: NodeName,
    pub joiner: Joiner,
    pub config: EdgeHubConfig,
    pub edge: Edge,
    pub figures: Arc<Figures>,
    /// Bounds what joins at once.
    pub joining: Arc<Semaphore>,
    pub stop: watch::Receiver<bool>,
}

impl Linked {
    /// Lives until it is told to stop.
    pub async fn live(mut self) {
        let instance = uuid::Uuid::new_v4().to_string();
        let mut backoff = Backoff::default();
        let mut lost_at: Option<Instant> = None;
        let mut stop = self.stop.clone();
        while !*stop.borrow() {
            let attempt = tokio::select! {
                attempt = self.attempt(&instance) => attempt,
                _ = stop.changed() => return,
            };
            if let Some((stream, resync, reports)) = attempt {
                if let Some(lost_at) = lost_at.take() {
                    self.figures.time(Timed::Away, lost_at.elapsed());
                }
                let opened = Instant::now();
                self.figures.connected(true);
                let (registered, why) = self.session(stream, resync, reports, &mut stop).await;
                self.edge.closed();
                self.figures.connected(false);
                if registered {
                    self.figures.registered(false);
                }
                if !*stop.borrow() {
                    self.figures.trouble(Counted::SessionLost, why);
                }
                lost_at = Some(Instant::now());
                backoff.session_lasted(opened.elapsed());
            }
            let pause = backoff.next(Instant::now(), fastrand::f64());
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.changed() => return,
            }
        }
    }

    async fn attempt(&self, instance: &str) -> Option<(Stream, bool, bool)> {
        let identity = self.identity().await?;
        let begun = Instant::now();
        let dialling = Dialling { config: &self.config, node: &self.node, identity: &identity, instance };
        match dial(dialling).await {
            Ok(dialled) => {
                self.figures.time(Timed::Connect, begun.elapsed());
                Some((dialled.stream, dialled.resync, dialled.report))
            }
            Err(err) => {
                self.figures.trouble(Counted::DialFailed, err.why);
                None
            }
        }
    }

    /// What it holds, or what it gets by joining.
    async fn identity(&self) -> Option<Identity> {
        let held = self.joiner.load().await.ok().flatten();
        if held.is_some_and(|held| held.certificate.not_after > std::time::SystemTime::now()) {
            return self.joiner.ensure().await.ok();
        }
        let _turn = self.joining.acquire().await.ok()?;
        let begun = Instant::now();
        match self.joiner.ensure().await {
            Ok(identity) => {
                self.figures.time(Timed::Join, begun.elapsed());
                Some(identity)
            }
            Err(JoinError::Refused { status, .. }) if status.as_u16() == 429 => {
                self.figures.count(Counted::Throttled, 1);
                sleep(Duration::from_secs_f64(0.5 + fastrand::f64())).await;
                None
            }
            Err(err) => {
                self.figures.trouble(Counted::JoinFailed, err.to_string());
                sleep(Duration::from_secs_f64(1.0 + fastrand::f64())).await;
                None
            }
        }
    }

    /// One session; whether its node was registered in it, and why it ended.
    async fn session(
        &mut self,
        mut stream: Stream,
        resync: bool,
        reports: bool,
        stop: &mut watch::Receiver<bool>,
    ) -> (bool, String) {
        let mut registered = false;
        let heartbeat = Duration::from_secs(self.config.heartbeat.max(1));
        let idle = patience(&self.config);
        let first = tokio::time::Instant::now() + heartbeat.mul_f64(fastrand::f64());
        let mut beat = interval_at(first, heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = tokio::time::Instant::now();
        let mut effects = self.edge.opened(resync, reports, fastrand::f64(), Moment::now());
        loop {
            match self.run(effects, &mut stream).await {
                Ok(now) if now && !registered => {
                    registered = true;
                    self.figures.registered(true);
                }
                Ok(_) => {}
                Err(why) => return (registered, why),
            }
            let wakeup = self.edge.next_wakeup().map(tokio::time::Instant::from_std);
            effects = tokio::select! {
                message = stream.next() => {
                    heard = tokio::time::Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => self.received(text.as_bytes()),
                        Some(Ok(Message::Binary(bytes))) => self.received(&bytes),
                        Some(Ok(Message::Close(_))) | None => {
                            return (registered, "the cloud closed it".to_owned());
                        }
                        Some(Ok(_)) => Vec::new(),
                        Some(Err(err)) => return (registered, err.to_string()),
                    }
                }
                _ = beat.tick() => {
                    if let Err(why) = self.beat(&mut stream).await {
                        return (registered, why);
                    }
                    Vec::new()
                }
                () = sleep_until(wakeup.unwrap_or(heard + idle)) => self.edge.tick(Moment::now()),
                () = sleep_until(heard + idle) => {
                    return (registered, format!("nothing was read for {idle:?}"));
                }
                _ = stop.changed() => {
                    // The peer may be gone already; either way this ends.
                    timeout(Duration::from_secs(2), stream.close(None)).await.ok();
                    return (registered, "told to stop".to_owned());
                }
            };
        }
    }

    fn received(&mut self, bytes: &[u8]) -> Vec<Effect> {
        self.figures.count(Counted::ReceivedBytes, bytes.len() as u64);
        match frame::decode(bytes, MAX_MESSAGE_BYTES) {
            Ok(envelope) => self.edge.received(envelope, Moment::now()),
            Err(err) => {
                self.figures.trouble(Counted::BadFrame, err.to_string());
                Vec::new()
            }
        }
    }

    /// Does what the edge decided; whether it counts as registered from now on.
    async fn run(&self, effects: Vec<Effect>, stream: &mut Stream) -> Result<bool, String> {
        let mut is_registered = false;
        let mut frames = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send(envelope) => frames.push(self.message(&envelope)?),
                Effect::Time(what, took) => self.figures.time(what, took),
                Effect::Count(what) => self.figures.count(what, 1),
                Effect::Registered => is_registered = true,
            }
        }
        self.write(frames, stream).await?;
        Ok(is_registered)
    }

    fn message(&self, envelope: &Envelope) -> Result<Message, String> {
        let bytes = frame::encode(envelope).map_err(|err| err.to_string())?;
        self.figures.count(Counted::SentBytes, bytes.len() as u64);
        Utf8Bytes::try_from(Bytes::from(bytes)).map(Message::Text).map_err(|err| err.to_string())
    }

    async fn beat(&self, stream: &mut Stream) -> Result<(), String> {
        self.write(vec![keepalive()?, Message::Ping(Bytes::new())], stream).await
    }

    async fn write(&self, messages: Vec<Message>, stream: &mut Stream) -> Result<(), String> {
        if messages.is_empty() {
            return Ok(());
        }
        let deadline = Duration::from_secs(self.config.websocket.write_deadline.max(1));
        let written = async {
            for message in messages {
                stream.feed(message).await?;
            }
            stream.flush().await
        };
        match timeout(deadline, written).await {
            Ok(outcome) => outcome.map_err(|err| err.to_string()),
            Err(_) => Err(format!("frames were not written within {deadline:?}")),
        }
    }
}
