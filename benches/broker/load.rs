//! A load on a broker: one thread publishes, one subscribes, the time of sending stands in the payload.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use super::histogram::Histogram;
use super::machine::{cpu_seconds, is_alive, machine_seconds, thread_seconds};
use super::{publisher, subscriber};

/// Unacknowledged QoS 1 and 2 messages per publisher.
pub const IN_FLIGHT: usize = 100;
/// Deliveries that may be under way in all: enough that nobody waits for the generator, and few
/// enough that no queue has to drop.
pub const UNDER_WAY: usize = 10_000;
/// Names of the threads.
const PUBLISHERS: &str = "publishers";
const SUBSCRIBERS: &str = "subscribers";
const WARM: Duration = Duration::from_millis(500);
/// A run with nothing coming any more is over after this.
const SILENCE: Duration = Duration::from_millis(1_500);

/// Who talks to how many about what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub publishers: usize,
    pub subscribers: usize,
    pub qos: u8,
    /// Bytes of payload, at least [`publisher::HEAD`].
    pub size: usize,
}

impl Shape {
    pub fn topic(publisher: usize) -> String {
        format!("bench/load/{publisher}")
    }

    pub fn filter(&self) -> String {
        if self.publishers == 1 { Self::topic(0) } else { "bench/load/+".into() }
    }
}

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as it goes.
    Full,
    /// Messages published a second, all publishers together.
    PerSecond(f64),
}

/// What both threads know.
pub struct Shared {
    pub shape: Shape,
    pub pace: Pace,
    pub begun: Instant,
    /// Published and delivered so far.
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// Samples are taken.
    pub recording: AtomicBool,
    pub stop: AtomicBool,
    /// Messages that may be published before more are delivered.
    pub room: Semaphore,
}

impl Shared {
    pub fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap()
    }

    /// Messages, each delivered to every subscriber, that may be under way.
    pub fn limit(shape: Shape) -> usize {
        (UNDER_WAY / shape.subscribers).max(1)
    }
}

/// What a subscriber's thread saw.
#[derive(Default)]
pub struct Tally {
    pub latency: Histogram,
    /// Not the successor of the last one from that publisher, and not a gap either.
    pub out_of_order: u64,
}

/// What came of a run.
pub struct Outcome {
    /// Deliveries a second.
    pub rate: f64,
    pub latency: Histogram,
    /// CPU seconds of the broker per million deliveries.
    pub cpu: Option<f64>,
    pub expected: u64,
    pub received: u64,
    pub out_of_order: u64,
    pub busy: Busy,
}

/// Cores used in the window.
#[derive(Clone, Copy)]
pub struct Busy {
    pub broker: Option<f64>,
    pub publishers: f64,
    pub subscribers: f64,
    /// By anybody else, the kernel's work for nobody in particular included.
    pub others: f64,
}

/// CPU seconds so far.
struct Spent {
    broker: Option<f64>,
    publishers: f64,
    subscribers: f64,
    machine: f64,
}

impl Spent {
    fn now(pid: Option<u32>) -> Self {
        Self {
            broker: pid.filter(|pid| is_alive(*pid)).map(cpu_seconds),
            publishers: thread_seconds(PUBLISHERS),
            subscribers: thread_seconds(SUBSCRIBERS),
            machine: machine_seconds(),
        }
    }

    fn since(&self, before: &Self, took: f64) -> Busy {
        let broker = self.broker.zip(before.broker).map(|(now, before)| (now - before) / took);
        let publishers = (self.publishers - before.publishers) / took;
        let subscribers = (self.subscribers - before.subscribers) / took;
        let all = (self.machine - before.machine) / took;
        let others = all - publishers - subscribers - broker.unwrap_or(0.0);
        Busy { broker, publishers, subscribers, others }
    }
}

/// Runs a load for `window` after a short warm-up.
///
/// # Errors
/// A connection that failed or a broker that hangs; drops are no error.
pub fn run(
    address: &str,
    pid: Option<u32>,
    shape: Shape,
    pace: Pace,
    window: Duration,
) -> Result<Outcome, String> {
    let shared = Arc::new(Shared {
        shape,
        pace,
        begun: Instant::now(),
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
        recording: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        room: Semaphore::new(Shared::limit(shape)),
    });
    let tally = Arc::new(Mutex::new(Tally::default()));
    let (end, ended) = oneshot::channel();
    let subscribers = start(SUBSCRIBERS, address, &shared, {
        let tally = Arc::clone(&tally);
        move |address, shared, ready| subscriber::run(address, shared, tally, ready, ended)
    });
    let subscribers = wait_ready(subscribers)?;
    let publishers = wait_ready(start(PUBLISHERS, address, &shared, publisher::run))?;

    std::thread::sleep(WARM);
    let (spent, before, begun) = (Spent::now(pid), shared.received.load(Relaxed), Instant::now());
    shared.recording.store(true, Relaxed);
    while begun.elapsed() < window && !subscribers.is_finished() && !publishers.is_finished() {
        std::thread::sleep(Duration::from_millis(10).min(window.saturating_sub(begun.elapsed())));
    }
    let (took, after) = (begun.elapsed().as_secs_f64(), shared.received.load(Relaxed));
    let busy = Spent::now(pid).since(&spent, took);
    shared.recording.store(false, Relaxed);
    shared.stop.store(true, Relaxed);
    shared.room.close();

    let expected = join(publishers).map(|()| shared.sent.load(Relaxed) * shape.subscribers as u64);
    if let Ok(expected) = &expected {
        drain(&shared, *expected, || subscribers.is_finished());
    }
    // Its thread may have ended already, with an error.
    end.send(()).ok();
    join(subscribers)?;
    let tally = std::mem::take(&mut *tally.lock().unwrap());
    let delivered = after - before;
    Ok(Outcome {
        rate: delivered as f64 / took,
        latency: tally.latency,
        cpu: busy.broker.map(|cores| cores * took / (delivered as f64 / 1e6)),
        expected: expected?,
        received: shared.received.load(Relaxed),
        out_of_order: tally.out_of_order,
        busy,
    })
}

type Ready = SyncSender<()>;
type Thread = JoinHandle<Result<(), String>>;

fn start<F>(name: &str, address: &str, shared: &Arc<Shared>, work: F) -> (Thread, Receiver<()>)
where
    F: AsyncFnOnce(String, Arc<Shared>, Ready) -> Result<(), String> + Send + 'static,
{
    let (ready, is_ready) = sync_channel(1);
    let (address, shared) = (address.to_owned(), Arc::clone(shared));
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(address, shared, ready))
    });
    (thread.unwrap(), is_ready)
}

/// The thread once all its connections stand.
fn wait_ready((thread, is_ready): (Thread, Receiver<()>)) -> Result<Thread, String> {
    if is_ready.recv().is_ok() {
        return Ok(thread);
    }
    join(thread)?;
    Err("it ended before it began".into())
}

fn join(thread: Thread) -> Result<(), String> {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    let ended = thread.join().map_err(|_| format!("{name}: panicked"))?;
    ended.map_err(|err| format!("{name}: {err}"))
}

/// Waits until everything has arrived, or nothing comes any more.
fn drain(shared: &Shared, expected: u64, failed: impl Fn() -> bool) {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let received = shared.received.load(Relaxed);
        if received >= expected || failed() || since.elapsed() > SILENCE {
            return;
        }
        if received != last {
            (last, since) = (received, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
