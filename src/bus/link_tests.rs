//! Links: bounds, outcomes, counters.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::dev::channel;
use actix::prelude::*;
use tokio::sync::Semaphore;

use super::{ActorStats, Link, LinkError};

/// Answers its number once the gate lets it.
#[derive(Debug, Message)]
#[rtype(result = "u32")]
struct Number(u32);

struct Gated(Arc<Semaphore>);

impl Actor for Gated {
    type Context = Context<Self>;
}

impl Handler<Number> for Gated {
    type Result = AtomicResponse<Self, u32>;
    fn handle(&mut self, msg: Number, _: &mut Self::Context) -> Self::Result {
        let gate = Arc::clone(&self.0);
        let wait = async move { gate.acquire().await.unwrap().forget() };
        AtomicResponse::new(Box::pin(wait.into_actor(self).map(move |(), _, _| msg.0)))
    }
}
crate::handles!(Gated: Number);

const DEADLINE: Duration = Duration::from_secs(10);
const FULL: LinkError = LinkError::Full { actor: "gated" };

fn gated(capacity: usize) -> (Link<Number>, Arc<ActorStats>, Arc<Semaphore>, Addr<Gated>) {
    let stats = Arc::new(ActorStats::bounded(capacity));
    let gate = Arc::new(Semaphore::new(0));
    let (sender, receiver) = channel::channel(0);
    Context::with_receiver(receiver).run(Gated(Arc::clone(&gate)));
    let addr = Addr::new(sender);
    (Link::to("gated", &addr, Arc::clone(&stats)), stats, gate, addr)
}

#[actix::test]
async fn a_mailbox_holds_what_it_says_however_many_links_send() {
    let (link, stats, gate, _addr) = gated(3);
    let mut sent = 0;
    while link.clone().tell(Number(sent)).is_ok() {
        sent += 1;
    }
    assert_eq!((sent, stats.depth()), (3, 3));
    assert_eq!(link.clone().tell(Number(9)), Err(FULL));
    assert_eq!(stats.refused.load(Ordering::Relaxed), 2);
    gate.add_permits(4);
    assert_eq!(link.ask(Number(9), DEADLINE).await, Ok(9));
    assert_eq!((stats.depth(), stats.dequeued.load(Ordering::Relaxed)), (0, 4));
}

#[actix::test]
async fn an_ask_waits_for_room_and_gives_up_at_its_deadline() {
    let (link, stats, gate, _addr) = gated(1);
    link.tell(Number(1)).unwrap();
    let late = link.ask(Number(2), Duration::from_millis(5)).await;
    // One message is in hand, one fills the mailbox: the next asks find no room.
    assert_eq!(late, Err(LinkError::Timeout { actor: "gated" }));
    let late = link.ask(Number(3), Duration::from_millis(5)).await;
    assert_eq!(late, Err(LinkError::Timeout { actor: "gated" }));
    assert_eq!(stats.depth(), 1, "what found no room is not in the mailbox");
    let (asked, ()) = tokio::join!(link.ask(Number(4), DEADLINE), async { gate.add_permits(8) });
    assert_eq!(asked, Ok(4));
}

#[actix::test]
async fn a_message_that_dies_with_its_actor_is_lost_and_leaves_the_count() {
    struct Dead;
    impl Actor for Dead {
        type Context = Context<Self>;
        fn started(&mut self, ctx: &mut Self::Context) {
            ctx.stop();
        }
    }
    impl Handler<Number> for Dead {
        type Result = u32;
        fn handle(&mut self, msg: Number, _: &mut Self::Context) -> u32 {
            msg.0
        }
    }
    crate::handles!(Dead: Number);
    let stats = Arc::new(ActorStats::bounded(4));
    let addr = Dead.start();
    let link = Link::<Number>::to("dead", &addr, Arc::clone(&stats));
    assert_eq!(link.ask(Number(1), DEADLINE).await, Err(LinkError::Lost { actor: "dead" }));
    assert_eq!(link.tell(Number(2)), Err(LinkError::Lost { actor: "dead" }));
    assert_eq!(stats.depth(), 0);
}

#[actix::test]
async fn a_function_link_runs_in_place() {
    let link = Link::<Number>::from_fn(|number| number.0 + 1);
    assert_eq!(link.ask(Number(1), DEADLINE).await, Ok(2));
    assert_eq!(link.tell(Number(1)), Ok(()));
}
