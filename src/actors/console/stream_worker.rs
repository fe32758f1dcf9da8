//! One open page: hello, what the feed tells, and a ping now and then, until somebody ends it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header;
use futures_util::stream;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::server_worker::{Place, Room};
use crate::console::door::Refused;
use crate::console::feed::{Ended, Outlet, PATIENCE, Visitor};
use crate::console::protocol::Change;
use crate::console::tree::now_ms;
use crate::web::Line;

/// A page takes a stream without a ping for 15 seconds for dead.
const PING_EVERY: Duration = Duration::from_secs(4);

/// The answer to a visitor who may come in; `place` is his until it ends.
pub(super) fn stream(room: &Arc<Room>, visitor: Visitor, place: Place, line: Option<Line>) -> HttpResponse {
    let (outlet, inlet) = Outlet::new();
    actix_web::rt::spawn(run(Arc::clone(room), visitor, outlet, place, line));
    let body = stream::unfold(inlet, async |mut inlet| {
        let frame = inlet.next().await?;
        Some((Ok::<_, Infallible>(frame), inlet))
    });
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        // For proxies in front: what waits for more is not live.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(Box::pin(body))
}

async fn run(room: Arc<Room>, visitor: Visitor, outlet: Outlet, place: Place, line: Option<Line>) {
    let user = visitor.user.clone();
    tracing::debug!(user, "a console opens");
    let hello = Change::Hello {
        program: room.feed.program(),
        version: env!("CARGO_PKG_VERSION"),
        node: room.feed.node(),
        user: visitor.user.clone(),
        now_ms: now_ms(),
    };
    let ended = match outlet.send(&hello).await {
        Err(ended) => ended,
        Ok(()) => tokio::select! {
            ended = Arc::clone(&room.feed).tell(visitor, outlet.clone()) => ended,
            ended = ping(&outlet) => ended,
            () = outlet.closed() => Ended::Left,
        },
    };
    tracing::debug!(user, ?ended, "a console closes");
    if ended == Ended::TooSlow {
        room.metrics.refused(Refused::SlowReader.label());
        if let Some(line) = line {
            line.cut();
        }
    }
    drop(place);
}

/// Pings, and sees whether the reader takes what waits for him.
async fn ping(outlet: &Outlet) -> Ended {
    let mut clock = interval(PING_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut taken, mut since) = (0, Instant::now());
    loop {
        clock.tick().await;
        let (now_taken, waits) = outlet.progress();
        if now_taken != taken || !waits {
            (taken, since) = (now_taken, Instant::now());
        } else if since.elapsed() > PATIENCE {
            return Ended::TooSlow;
        }
        if let Err(ended) = outlet.send(&Change::Ping { now_ms: now_ms() }).await {
            return ended;
        }
    }
}
