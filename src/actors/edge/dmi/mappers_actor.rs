//! Dmi and its mappers: their registrations, the way back to them, their next calls.

use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::oneshot;

use super::lane::{Lane, Outcome, Step};
use super::roster::{self, Mapper};
use super::{Dmi, Register, Registered, gauge, mapper_worker, now};
use crate::store::Table;
use crate::supervise::{doubled, spread};
use crate::wire::dmi::{MapperClient, MapperRegisterResponse};

/// Protocols, and so mappers, one node serves at most.
const MAX_MAPPERS: usize = 256;
/// A mapper that was dialled so often in vain gives its place to a new one when there is no other: half a
/// minute.
const DEAD_AFTER: u32 = 8;
const DIAL_FIRST: Duration = Duration::from_millis(200);
const DIAL_LONGEST: Duration = Duration::from_secs(10);
/// A connection this long proves the mapper well: the next failure starts over.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// A registered mapper and how it is reached.
pub(super) struct Connection {
    pub(super) mapper: Mapper,
    /// Tells apart what was begun for an earlier registration or connection.
    pub(super) session: u64,
    pub(super) client: Option<MapperClient>,
    pub(super) since: Instant,
    pub(super) failures: u32,
    pub(super) lane: Lane,
    pub(super) is_calling: bool,
    pub(super) wake: Option<SpawnHandle>,
    /// The last complaint of the mapper that was logged.
    pub(super) complaint: String,
}

impl Dmi {
    /// The mappers as they registered before this start.
    pub(super) fn load_mappers(&mut self) {
        match self.store.scan(Table::Objects, roster::PREFIX.as_bytes(), None, MAX_MAPPERS) {
            Ok(rows) => {
                for mapper in rows.iter().filter_map(Mapper::from_row) {
                    self.add(mapper, Lane::default());
                }
            }
            Err(err) => tracing::error!(error = %err, "registered mappers cannot be read"),
        }
    }

    pub(super) fn add(&mut self, mapper: Mapper, lane: Lane) {
        self.sessions += 1;
        let connection = Connection {
            session: self.sessions,
            client: None,
            since: now(),
            failures: 0,
            lane,
            is_calling: false,
            wake: None,
            complaint: String::new(),
            mapper,
        };
        self.mappers.insert(connection.mapper.protocol.clone(), connection);
    }

    pub(super) fn connection(&mut self, protocol: &str, session: u64) -> Option<&mut Connection> {
        self.mappers.get_mut(protocol).filter(|connection| connection.session == session)
    }

    pub(super) fn dial(&mut self, protocol: &str, ctx: &mut Context<Self>) {
        let Some(connection) = self.mappers.get(protocol) else { return };
        let (session, path) = (connection.session, connection.mapper.address.clone());
        let protocol = protocol.to_owned();
        let dialled = async move { mapper_worker::dial(&path).await };
        ctx.spawn(dialled.into_actor(self).map(move |outcome, dmi, ctx| match outcome {
            Ok((client, closed)) => dmi.connected(&protocol, session, client, closed, ctx),
            Err(why) => {
                let Some(connection) = dmi.connection(&protocol, session) else { return };
                if connection.failures == 0 {
                    tracing::warn!(%protocol, error = %why, "mapper is not reachable; it is dialled until it is");
                }
                dmi.dial_later(&protocol, session, ctx);
            }
        }));
    }

    pub(super) fn dial_later(&mut self, protocol: &str, session: u64, ctx: &mut Context<Self>) {
        let Some(connection) = self.connection(protocol, session) else { return };
        let pause = spread(doubled(DIAL_FIRST, connection.failures, DIAL_LONGEST), fastrand::f64());
        connection.failures = connection.failures.saturating_add(1);
        let protocol = protocol.to_owned();
        ctx.run_later(pause, move |dmi, ctx| {
            if dmi.connection(&protocol, session).is_some() {
                dmi.dial(&protocol, ctx);
            }
        });
    }

    pub(super) fn connected(
        &mut self,
        protocol: &str,
        session: u64,
        client: MapperClient,
        closed: oneshot::Receiver<()>,
        ctx: &mut Context<Self>,
    ) {
        let Some(connection) = self.connection(protocol, session) else { return };
        connection.client = Some(client);
        connection.since = now();
        tracing::info!(%protocol, mapper = %connection.mapper.name, waiting = connection.lane.len(), "mapper is connected");
        self.count();
        let name = protocol.to_owned();
        let closing = async move { drop(closed.await) };
        ctx.spawn(closing.into_actor(self).map(move |(), dmi, ctx| dmi.lost(&name, session, ctx)));
        self.pump(protocol, ctx);
    }

    /// The connection ended: whoever comes back knows nothing.
    pub(super) fn lost(&mut self, protocol: &str, session: u64, ctx: &mut Context<Self>) {
        self.sessions += 1;
        let next = self.sessions;
        let Some(connection) = self.connection(protocol, session) else { return };
        tracing::warn!(%protocol, mapper = %connection.mapper.name, "mapper is gone; its devices are told again when it is back");
        connection.session = next;
        connection.client = None;
        connection.is_calling = false;
        if now().saturating_duration_since(connection.since) >= GOOD_CONNECTION {
            connection.failures = 0;
        }
        connection.lane.forget();
        self.mark_all(protocol);
        self.count();
        self.dial_later(protocol, next, ctx);
    }

    /// Makes the mapper's next call, one at a time.
    pub(super) fn pump(&mut self, protocol: &str, ctx: &mut Context<Self>) {
        let Self { mappers, catalog, settled, metrics, .. } = self;
        let Some(connection) = mappers.get_mut(protocol).filter(|connection| !connection.is_calling) else {
            return;
        };
        let Some(client) = connection.client.clone().filter(|_| *settled) else { return };
        if let Some(wake) = connection.wake.take() {
            ctx.cancel_future(wake);
        }
        let now = now();
        match connection.lane.next(|key| catalog.want(protocol, key), now) {
            Step::Idle => {}
            Step::Wait(until) => {
                let protocol = protocol.to_owned();
                let pause = until.saturating_duration_since(now);
                let woken = ctx.run_later(pause, move |dmi, ctx| {
                    if let Some(connection) = dmi.mappers.get_mut(&protocol) {
                        connection.wake = None;
                    }
                    dmi.pump(&protocol, ctx);
                });
                connection.wake = Some(woken);
            }
            Step::Call { key, call, hash } => {
                connection.is_calling = true;
                let (session, protocol) = (connection.session, protocol.to_owned());
                let name = call.name();
                let made = mapper_worker::make(client, call, metrics.clone());
                let made = made.into_actor(self).map(move |(outcome, why), dmi, ctx| {
                    let Some(connection) = dmi.connection(&protocol, session) else { return };
                    connection.is_calling = false;
                    if outcome == Outcome::Failed && connection.complaint != why {
                        tracing::warn!(%protocol, call = name, object = ?key, error = %why, "mapper refused; it is told again later");
                        connection.complaint = why;
                    }
                    connection.lane.done(key, hash, outcome, self::now(), fastrand::f64());
                    dmi.pump(&protocol, ctx);
                });
                ctx.spawn(made);
            }
        }
    }

    /// The mapper that was tried most often in vain.
    fn dead(&self) -> Option<String> {
        let lost = self.mappers.iter().filter(|(_, it)| it.client.is_none() && it.failures >= DEAD_AFTER);
        lost.max_by_key(|(_, it)| it.failures).map(|(protocol, _)| protocol.clone())
    }

    /// Stores the mapper, then answers and connects back.
    pub(super) fn register(&mut self, register: Register, answer: Registered, ctx: &mut Context<Self>) {
        let Register { mapper, with_data } = register;
        let mut batch = mapper.stored();
        if !self.mappers.contains_key(&mapper.protocol) && self.mappers.len() >= MAX_MAPPERS {
            let Some(dead) = self.dead() else {
                drop(answer.send(Err(format!("{MAX_MAPPERS} mappers are registered, no more are taken"))));
                return;
            };
            tracing::warn!(protocol = %dead, "forgotten: its mapper is not reached, and another one needs the place");
            batch = batch.delete(Table::Objects, roster::key(&dead));
            self.mappers.remove(&dead);
        }
        let committer = self.committer.clone();
        let written = async move { committer.commit(batch).await };
        ctx.spawn(written.into_actor(self).map(move |outcome, dmi, ctx| {
            if let Err(err) = outcome {
                drop(answer.send(Err(format!("the registration was not stored: {err}"))));
                return;
            }
            let protocol = mapper.protocol.clone();
            tracing::info!(%protocol, mapper = %mapper.name, version = %mapper.version, "mapper registered");
            let mut lane = Lane::default();
            let mut response = MapperRegisterResponse::default();
            if with_data {
                // The answer is the delivery; only what differs from it is called.
                let listing = dmi.catalog.listing(&protocol);
                lane.was_told(listing.told);
                response.model_list = listing.models;
                response.device_list = listing.devices;
            }
            if let Some(wake) = dmi.mappers.get_mut(&protocol).and_then(|before| before.wake.take()) {
                ctx.cancel_future(wake);
            }
            dmi.add(mapper, lane);
            dmi.mark_all(&protocol);
            dmi.count();
            drop(answer.send(Ok(response)));
            dmi.dial(&protocol, ctx);
        }));
    }

    pub(super) fn count(&self) {
        let connected = self.mappers.values().filter(|connection| connection.client.is_some()).count();
        self.metrics.mappers.set(gauge(connected));
    }
}
