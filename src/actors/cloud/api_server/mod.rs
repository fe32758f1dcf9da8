//! ApiServer: owns the socket of the embedded Kubernetes API and its housekeeping.
//!
//! The API itself (`apiserver::ApiCore`) is not in here and does not end with this actor:
//! controllers of this program keep working while the socket is being served anew.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::dev::ServerHandle;

use crate::apiserver::{ApiCore, http, kubeconfig};
use crate::identity::{Ca, CloudServerTls};
use crate::telemetry::doors::DoorMetrics;
use crate::web::Lobby;

/// Pause between looks at expired events and ending namespaces.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Pause between looks at the authorities.
const FOLLOW_EVERY: Duration = Duration::from_secs(5);
/// Pause before the socket is served again after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the actor is made of.
#[derive(Clone)]
pub struct ApiServerParts {
    pub core: Arc<ApiCore>,
    pub ca: Arc<Ca>,
    /// Bound by the program before the tree starts, so that a taken port is an error at once and
    /// a restart cannot lose the port.
    pub listener: Arc<TcpListener>,
    /// Whoever reloads the authorities refreshes it.
    pub tls: Arc<CloudServerTls>,
    /// Written 0600 at each start and whenever the authorities changed; nothing is written for an
    /// empty path.
    pub kubeconfig: PathBuf,
    pub deadlines: http::Deadlines,
}

/// See the module.
pub struct ApiServer {
    parts: ApiServerParts,
    lobby: Arc<Lobby>,
    server: Option<ServerHandle>,
    /// Counts servers: the end of an older one is expected.
    generation: u64,
    sweeping: bool,
    /// Of the authorities when the kubeconfig was written.
    written: u64,
}

impl ApiServer {
    #[must_use]
    pub fn new(parts: ApiServerParts) -> Self {
        let lobby = Lobby::new(http::MAX_STRANGERS, http::MAX_OF_ONE_USER, DoorMetrics::new("api"));
        Self { parts, lobby, server: None, generation: 0, sweeping: false, written: 0 }
    }

    fn serve(&mut self, ctx: &mut Context<Self>) {
        self.stop_server();
        self.generation += 1;
        let served = self.parts.listener.try_clone().and_then(|listener| {
            let (core, tls) = (&self.parts.core, self.parts.tls.config());
            http::serve(core, listener, &tls, self.parts.deadlines, &self.lobby)
        });
        match served {
            Ok(server) => {
                self.server = Some(server.handle());
                let generation = self.generation;
                // Not in the context: after a panic it must still be polled to take the stop command.
                let ended = actix_web::rt::spawn(server);
                ctx.spawn(ended.into_actor(self).map(move |result, actor, ctx| {
                    if generation == actor.generation {
                        actor.ended(&result.map_err(std::io::Error::other).and_then(|done| done), ctx);
                    }
                }));
                tracing::info!(address = %self.address(), "kubernetes api listening");
            }
            Err(err) => self.ended(&Err(err), ctx),
        }
    }

    /// The server ended by itself: serve again.
    fn ended(&mut self, result: &std::io::Result<()>, ctx: &mut Context<Self>) {
        tracing::error!(err = ?result.as_ref().err(), "kubernetes api stopped listening, starting again");
        ctx.run_later(RETRY_AFTER, Self::serve);
    }

    fn stop_server(&mut self) {
        if let Some(server) = self.server.take() {
            // The command is sent by the call; nobody needs to wait for the end.
            drop(server.stop(false));
        }
    }

    fn address(&self) -> String {
        self.parts.listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }

    fn write_kubeconfig(&mut self) {
        self.written = self.parts.ca.generation();
        let parts = self.parts.clone();
        if parts.kubeconfig.as_os_str().is_empty() {
            return;
        }
        let Ok(address) = parts.listener.local_addr() else { return };
        drop(tokio::task::spawn_blocking(move || write_kubeconfig(&parts, address)));
    }

    fn sweep(&mut self, ctx: &mut Context<Self>) {
        if !self.parts.core.is_healthy() {
            // Only a new process helps; failing again and again gets us there.
            tracing::error!("kubernetes api cannot write its store");
            return ctx.stop();
        }
        if std::mem::replace(&mut self.sweeping, true) {
            return;
        }
        let core = Arc::clone(&self.parts.core);
        let work = async move { core.sweep().await }.into_actor(self).map(|result, actor, _| {
            actor.sweeping = false;
            if let Err(err) = result {
                tracing::warn!(%err, "api housekeeping failed, tried again later");
            }
        });
        ctx.spawn(work);
    }
}

fn write_kubeconfig(parts: &ApiServerParts, address: SocketAddr) {
    let url = kubeconfig::server_url(address);
    match kubeconfig::write_admin(&parts.ca, &parts.kubeconfig, &url) {
        Ok(()) => tracing::info!(path = %parts.kubeconfig.display(), url, "admin kubeconfig written"),
        Err(err) => tracing::error!(%err, "admin kubeconfig not written"),
    }
}

impl Actor for ApiServer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.write_kubeconfig();
        self.serve(ctx);
        self.sweep(ctx);
        ctx.run_interval(SWEEP_EVERY, Self::sweep);
        ctx.run_interval(FOLLOW_EVERY, |actor, _| {
            if actor.parts.ca.generation() != actor.written {
                actor.write_kubeconfig();
            }
        });
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.stop_server();
    }
}

impl Supervised for ApiServer {
    /// All state is in the core and on disk; the socket is served anew in `started`.
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.stop_server();
        self.sweeping = false;
    }
}

crate::handles!(ApiServer);
