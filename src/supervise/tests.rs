//! The tree with real actors: every way to fail, and what survives it.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix::prelude::*;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Running, *};
use crate::bus::{Link, LinkError};

/// What a probe does with a message, and returns when it survives it.
#[derive(Debug, Message)]
#[rtype(result = "u32")]
enum Do {
    Note(u32),
    Panic,
    PanicInSpawned,
    PanicInReply,
    Stop,
    /// Never handles anything again.
    Stick,
    /// Blocks the thread.
    Block(Duration),
    /// The next `n` calls of `started` or `restarting` panic.
    ArmStarted(u32),
    ArmRestarting(u32),
    SpawnWorker(Policy),
    /// Through the worker's link.
    TellWorker(Box<Do>),
}

#[derive(Default)]
struct Trace {
    events: Mutex<Vec<String>>,
    arm_started: AtomicU32,
    arm_restarting: AtomicU32,
}

impl Trace {
    fn note(&self, event: impl Into<String>) {
        self.events.lock().push(event.into());
    }
    fn count(&self, event: &str) -> usize {
        self.events.lock().iter().filter(|seen| *seen == event).count()
    }
    fn all(&self) -> Vec<String> {
        self.events.lock().clone()
    }
}

fn panics_now(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
}

struct Probe {
    name: String,
    trace: Arc<Trace>,
    tree: Option<TreeHandle>,
    worker: Option<WorkerAddr<Probe>>,
}

impl Actor for Probe {
    type Context = Context<Self>;
    fn started(&mut self, _: &mut Self::Context) {
        self.trace.note(format!("{} started", self.name));
        assert!(!panics_now(&self.trace.arm_started), "in started");
    }
    fn stopped(&mut self, _: &mut Self::Context) {
        self.trace.note(format!("{} stopped", self.name));
    }
}

impl Supervised for Probe {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.trace.note(format!("{} restarting", self.name));
        self.worker = None;
        assert!(!panics_now(&self.trace.arm_restarting), "in restarting");
    }
}

impl Handler<Do> for Probe {
    type Result = ResponseActFuture<Self, u32>;
    fn handle(&mut self, msg: Do, ctx: &mut Self::Context) -> Self::Result {
        match msg {
            Do::Note(n) => {
                self.trace.note(format!("{} {n}", self.name));
                return Box::pin(actix::fut::ready(n));
            }
            Do::Panic => panic!("in a handler"),
            Do::PanicInSpawned => drop(ctx.spawn(async { panic!("in a spawned future") }.into_actor(self))),
            Do::PanicInReply => return Box::pin(async { panic!("in a reply") }.into_actor(self)),
            Do::Stop => ctx.stop(),
            Do::Stick => ctx.wait(pending::<()>().into_actor(self)),
            Do::Block(time) => std::thread::sleep(time),
            Do::ArmStarted(n) => self.trace.arm_started.store(n, Ordering::Relaxed),
            Do::ArmRestarting(n) => self.trace.arm_restarting.store(n, Ordering::Relaxed),
            Do::SpawnWorker(policy) => {
                let worker = Probe { name: "w".into(), trace: self.trace.clone(), tree: None, worker: None };
                let tree = self.tree.as_ref().unwrap();
                self.worker =
                    Some(tree.spawn_worker("a", "probe worker", "w/1".into(), 8, policy, || worker));
            }
            Do::TellWorker(msg) => self.worker.as_ref().unwrap().link::<Do>().tell(*msg).unwrap(),
        }
        Box::pin(actix::fut::ready(0))
    }
}
crate::handles!(Probe: Do);

const DEADLINE: Duration = Duration::from_secs(10);

fn quick() -> Policy {
    Policy {
        backoff_base: Duration::from_millis(1),
        backoff_cap: Duration::from_millis(4),
        ..Policy::default()
    }
}

fn settings() -> TreeSettings {
    TreeSettings { drain_deadline: Duration::from_secs(5), ..TreeSettings::default() }
}

struct Bench {
    trace: Arc<Trace>,
    links: Vec<Link<Do>>,
    running: Running,
}

/// A tree of probes, named `a`, `b`, .. in order.
fn bench(settings: TreeSettings, actors: &[(&'static str, &'static str, Policy)]) -> Bench {
    let trace = Arc::new(Trace::default());
    let mut tree = Tree::new("bench", settings);
    let mut links = Vec::new();
    for (name, thread, policy) in actors {
        let slot = tree.slot::<Probe>(name, 8);
        links.push(slot.link());
        let (trace, handle, name) = (trace.clone(), tree.handle(), (*name).to_owned());
        let build = move || Probe { name, trace, tree: Some(handle), worker: None };
        tree.add(slot, thread, policy.clone(), build);
    }
    Bench { trace, links, running: tree.start().unwrap() }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Bench {
    async fn ask(&self, n: usize, msg: Do) -> Result<u32, LinkError> {
        self.links[n].ask(msg, DEADLINE).await
    }
    fn row(&self, n: usize) -> ActorSnapshot {
        self.running.handle().snapshot().actors.swap_remove(n)
    }
    async fn end(self) -> ExitReason {
        tokio::time::timeout(DEADLINE, self.running.wait_for_end()).await.unwrap()
    }
}

#[actix::test]
async fn an_actor_survives_every_way_to_fail() {
    for (case, msg, failure) in [
        ("handler", Do::Panic, "panicked: in a handler"),
        ("spawned future", Do::PanicInSpawned, "panicked: in a spawned future"),
        ("reply future", Do::PanicInReply, "panicked: in a reply"),
        ("stops itself", Do::Stop, "stopped itself"),
    ] {
        let bench = bench(settings(), &[("a", MAIN_THREAD, quick())]);
        let answer = bench.ask(0, msg).await;
        assert_eq!(answer, Err(LinkError::Lost { actor: "a" }), "{case}: the message in hand is lost");
        assert_eq!(bench.ask(0, Do::Note(7)).await, Ok(7), "{case}: same link after the restart");
        let row = bench.row(0);
        assert!(row.last_failure.unwrap().text.starts_with(failure), "{case}");
        assert_eq!((row.restarts, row.state), (1, State::Running), "{case}");
        assert_eq!(row.panics, u64::from(failure.starts_with("panicked")), "{case}");
        assert_eq!(bench.trace.count("a started"), 2, "{case}: started runs again");
        assert_eq!(bench.trace.count("a restarting"), 1, "{case}");
    }
}

#[actix::test]
async fn messages_behind_the_panic_are_handled_after_the_restart_in_order() {
    let bench = bench(settings(), &[("a", MAIN_THREAD, quick())]);
    bench.links[0].tell(Do::Panic).unwrap();
    for n in 1..=5 {
        bench.links[0].tell(Do::Note(n)).unwrap();
    }
    assert_eq!(bench.ask(0, Do::Note(6)).await, Ok(6));
    let want = ["a started", "a restarting", "a started", "a 1", "a 2", "a 3", "a 4", "a 5", "a 6"];
    assert_eq!(bench.trace.all(), want);
    assert_eq!(bench.row(0).messages_total, 7);
}

#[actix::test]
async fn panics_in_started_and_restarting_are_failures_like_others() {
    let bench = bench(settings(), &[("a", MAIN_THREAD, quick())]);
    bench.ask(0, Do::ArmStarted(2)).await.unwrap();
    bench.ask(0, Do::ArmRestarting(3)).await.unwrap();
    assert!(bench.ask(0, Do::Panic).await.is_err());
    assert_eq!(bench.ask(0, Do::Note(1)).await, Ok(1));
    assert_eq!(bench.row(0).panics, 6);
    assert_eq!(bench.row(0).restarts, 6);
}

#[actix::test]
async fn an_actor_that_panics_while_it_is_first_started_comes_back() {
    let trace = Arc::new(Trace::default());
    trace.arm_started.store(1, Ordering::Relaxed);
    let mut tree = Tree::new("bench", settings());
    let slot = tree.slot::<Probe>("a", 8);
    let link = slot.link::<Do>();
    tree.add(slot, "other thread", quick(), move || Probe {
        name: "a".into(),
        trace,
        tree: None,
        worker: None,
    });
    let running = tree.start().unwrap();
    assert_eq!(link.ask(Do::Note(1), DEADLINE).await, Ok(1));
    running.handle().shut_down();
    assert_eq!(running.wait_for_end().await, ExitReason::Requested);
}

#[actix::test]
async fn too_many_failures_end_the_tree_after_a_last_chance() {
    let policy = Policy { max_restarts: 3, ..quick() };
    let bench = bench(settings(), &[("a", MAIN_THREAD, policy)]);
    bench.ask(0, Do::ArmStarted(100)).await.unwrap();
    bench.links[0].tell(Do::Panic).unwrap();
    let (trace, link) = (bench.trace.clone(), bench.links[0].clone());
    let ExitReason::Escalated { actor, reason } = bench.end().await else { panic!("no escalation") };
    assert_eq!((actor.as_str(), reason.contains("in started")), ("a", true), "{reason}");
    assert_eq!(trace.count("a restarting"), 4, "three allowed and the last chance");
    assert!(matches!(link.ask(Do::Note(1), DEADLINE).await, Err(LinkError::Lost { .. })), "it is gone");
}

#[actix::test]
async fn a_factory_that_panics_ends_the_tree() {
    let mut tree = Tree::new("bench", settings());
    let slot = tree.slot::<Probe>("a", 8);
    tree.add(slot, MAIN_THREAD, quick(), || panic!("no factory"));
    let reason = tree.start().unwrap().wait_for_end().await;
    assert_eq!(reason.code(), 1);
    assert!(reason.to_string().starts_with("a: panicked: no factory"), "{reason}");
}

#[actix::test]
async fn scope_rest_restarts_later_siblings_only() {
    let rest = Policy { scope: Scope::Rest, ..quick() };
    let actors = [("a", MAIN_THREAD, quick()), ("b", MAIN_THREAD, rest), ("c", "third", quick())];
    let bench = bench(settings(), &actors);
    assert_eq!(bench.ask(2, Do::Note(1)).await, Ok(1));
    assert!(bench.ask(1, Do::Panic).await.is_err());
    until("c restarted", || bench.trace.count("c restarting") == 1).await;
    assert_eq!(bench.ask(1, Do::Note(2)).await, Ok(2));
    assert_eq!(bench.ask(0, Do::Note(3)).await, Ok(3));
    assert_eq!(bench.trace.count("a restarting"), 0);
    assert_eq!(bench.row(2).restarts, 1);
    assert!(bench.row(2).last_failure.is_none(), "it did not fail itself");
}

#[actix::test]
async fn a_stuck_actor_is_restarted_by_its_heartbeat() {
    let settings = TreeSettings {
        heartbeat_interval: Duration::from_millis(5),
        heartbeat_timeout: Duration::from_millis(30),
        ..settings()
    };
    let bench = bench(settings, &[("a", MAIN_THREAD, quick()), ("b", "other", quick())]);
    for n in [0, 1] {
        bench.links[n].tell(Do::Stick).unwrap();
        assert_eq!(bench.ask(n, Do::Note(1)).await, Ok(1), "queued while it was stuck");
        assert!(bench.row(n).last_failure.unwrap().text.starts_with("handled nothing"));
    }
}

#[actix::test]
async fn a_blocked_thread_ends_the_tree_and_names_the_actor_inside() {
    let settings = TreeSettings {
        heartbeat_interval: Duration::from_millis(20),
        heartbeat_timeout: Duration::from_millis(100),
        drain_deadline: Duration::from_millis(50),
        ..settings()
    };
    let bench = bench(settings, &[("a", MAIN_THREAD, quick()), ("b", "blocked", quick())]);
    assert_eq!(bench.ask(1, Do::Note(1)).await, Ok(1));
    bench.links[1].tell(Do::Block(Duration::from_secs(60))).unwrap();
    let begun = Instant::now();
    let ExitReason::Escalated { actor, reason } = bench.end().await else { panic!("no escalation") };
    assert_eq!(actor, "b");
    assert!(reason.starts_with("thread blocked stood still"), "{reason}");
    assert!(begun.elapsed() < Duration::from_secs(30), "it does not wait for the thread");
}

#[actix::test]
async fn draining_empties_mailboxes_in_reverse_order() {
    let actors = [("a", MAIN_THREAD, quick()), ("b", "other", quick()), ("c", MAIN_THREAD, quick())];
    let bench = bench(settings(), &actors);
    bench.ask(0, Do::SpawnWorker(quick())).await.unwrap();
    for link in &bench.links {
        link.tell(Do::Note(1)).unwrap();
    }
    let trace = bench.trace.clone();
    bench.running.handle().shut_down();
    let reason = bench.end().await;
    assert_eq!((reason.code(), reason), (0, ExitReason::Requested));
    let stops: Vec<_> = trace.all().into_iter().filter(|event| event.ends_with("stopped")).collect();
    assert_eq!(stops, ["c stopped", "b stopped", "w stopped", "a stopped"], "workers before their parent");
    for name in ["a 1", "b 1", "c 1"] {
        assert_eq!(trace.count(name), 1, "{name}");
    }
}

#[actix::test]
async fn draining_cuts_what_is_stuck_and_still_drains_the_rest() {
    let settings = TreeSettings { drain_deadline: Duration::from_secs(2), ..settings() };
    let bench = bench(settings, &[("a", MAIN_THREAD, quick()), ("b", MAIN_THREAD, quick())]);
    bench.links[1].tell(Do::Stick).unwrap();
    bench.links[1].tell(Do::Note(1)).unwrap();
    bench.links[0].tell(Do::Note(2)).unwrap();
    let trace = bench.trace.clone();
    bench.running.handle().shut_down();
    assert_eq!(bench.end().await.code(), 0);
    assert_eq!((trace.count("b 1"), trace.count("a 2"), trace.count("a stopped")), (0, 1, 1));
}

#[actix::test]
async fn an_actor_that_waits_for_its_restart_drains_first() {
    let slow =
        Policy { backoff_base: Duration::from_secs(60), backoff_cap: Duration::from_secs(60), ..quick() };
    let bench = bench(settings(), &[("a", MAIN_THREAD, slow)]);
    bench.links[0].tell(Do::Panic).unwrap();
    bench.links[0].tell(Do::Note(1)).unwrap();
    until("it failed", || bench.row(0).state == State::Waiting).await;
    let trace = bench.trace.clone();
    bench.running.handle().shut_down();
    assert_eq!(bench.end().await.code(), 0);
    assert_eq!(trace.count("a 1"), 1);
}

#[actix::test]
async fn a_worker_restarts_alone_until_its_policy_is_used_up_then_its_parent_restarts() {
    let bench = bench(settings(), &[("a", MAIN_THREAD, quick())]);
    bench.ask(0, Do::SpawnWorker(Policy { max_restarts: 1, ..quick() })).await.unwrap();
    bench.ask(0, Do::TellWorker(Box::new(Do::Panic))).await.unwrap();
    bench.ask(0, Do::TellWorker(Box::new(Do::Note(1)))).await.unwrap();
    until("the worker is back", || bench.trace.count("w 1") == 1).await;
    let row = bench.row(0);
    assert_eq!((row.restarts, row.children_total), (0, 1));
    assert_eq!((row.children[0].name.as_str(), row.children[0].restarts), ("w/1", 1));

    bench.ask(0, Do::TellWorker(Box::new(Do::Panic))).await.unwrap();
    until("the parent restarted", || bench.trace.count("a started") == 2).await;
    let row = bench.row(0);
    assert_eq!((row.restarts, row.children_total), (1, 0));
    let failure = row.last_failure.unwrap().text;
    assert!(failure.starts_with("worker w/1 gave up: panicked: in a handler"), "{failure}");
}

#[actix::test]
async fn workers_end_with_their_owner_their_stop_and_their_parent() {
    let bench = bench(settings(), &[("a", MAIN_THREAD, quick())]);
    let gone = || bench.row(0).children_total == 0;
    bench.ask(0, Do::SpawnWorker(quick())).await.unwrap();
    bench.ask(0, Do::TellWorker(Box::new(Do::Stop))).await.unwrap();
    until("a worker that stopped itself is gone", gone).await;
    assert_eq!(bench.row(0).restarts, 0, "that is no failure");

    bench.ask(0, Do::SpawnWorker(quick())).await.unwrap();
    bench.ask(0, Do::SpawnWorker(quick())).await.unwrap();
    until("the replaced worker is gone", || bench.row(0).children_total == 1).await;
    assert!(bench.ask(0, Do::Panic).await.is_err());
    until("the worker of a failed parent is gone", gone).await;
}

#[actix::test]
async fn faults_can_be_injected_by_name() {
    let bench = bench(settings(), &[("a", "other", quick())]);
    bench.ask(0, Do::SpawnWorker(quick())).await.unwrap();
    let handle = bench.running.handle();
    assert_eq!(handle.inject_panic("w/2"), Err(UnknownActor("w/2".into())));
    handle.inject_panic("w/1").unwrap();
    until("the worker restarted", || bench.row(0).children.first().is_some_and(|row| row.restarts == 1))
        .await;
    handle.inject_panic("a").unwrap();
    until("the actor restarted", || bench.trace.count("a started") == 2).await;
    let text = bench.row(0).last_failure.unwrap().text;
    assert!(text.starts_with("panicked: asked for by fault injection"), "{text}");
}

#[actix::test]
async fn a_tree_declared_wrongly_does_not_start() {
    let mut tree = Tree::new("bench", settings());
    drop(tree.slot::<Probe>("a", 1));
    assert!(matches!(tree.start(), Err(StartError::NeverAdded { name: "a" })));
    let mut tree = Tree::new("bench", settings());
    drop(tree.slot::<Probe>("a", 1));
    drop(tree.slot::<Probe>("a", 1));
    assert!(matches!(tree.start(), Err(StartError::Twice { name: "a" })));
}
