//! Group commit: one thread writes whatever is waiting with one sync, then answers everybody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Batch, PROBE_EVERY, Store, StoreError, probe};
use crate::telemetry::readiness::{Readiness, STORE};

/// Bounds of the commit queue.
pub struct CommitterSettings {
    /// Batches that may wait. More callers wait for room.
    pub capacity: usize,
    /// How long a caller waits for room before it gets [`StoreError::Busy`].
    pub wait: Duration,
    /// Seconds from the start of a group's write until it is on disk.
    pub seconds: metrics::Histogram,
    /// Told, under [`STORE`], whether the last write succeeded.
    pub readiness: Readiness,
}

impl Default for CommitterSettings {
    fn default() -> Self {
        Self {
            capacity: 1024,
            wait: Duration::from_secs(5),
            seconds: metrics::Histogram::noop(),
            readiness: Readiness::default(),
        }
    }
}

/// Where batches become durable. Cheap to clone; batches of one caller that awaits each keep
/// their order.
#[derive(Clone)]
pub struct Committer {
    queue: Arc<Queue>,
}

/// Owns the thread. Dropping it writes what is queued, then ends the thread; later commits get
/// [`StoreError::Closed`].
pub struct CommitterGuard {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    room: Arc<Semaphore>,
    wait: Duration,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closing: bool,
}

struct Job {
    batch: Batch,
    answer: oneshot::Sender<Result<(), StoreError>>,
    /// Gives the place in the queue back when the job is answered.
    place: OwnedSemaphorePermit,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the system refuses a thread.
    pub fn start(
        store: Arc<dyn Store>,
        settings: CommitterSettings,
    ) -> Result<(Self, CommitterGuard), StoreError> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            room: Arc::new(Semaphore::new(settings.capacity.max(1))),
            wait: settings.wait,
        });
        let for_thread = Arc::clone(&queue);
        let (seconds, readiness) = (settings.seconds, settings.readiness);
        readiness.set(STORE, true);
        let thread = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || for_thread.run(&*store, &seconds, &readiness))
            .map_err(|err| StoreError::Io {
                op: "start the commit thread of",
                path: "store".into(),
                why: err.to_string().into(),
            })?;
        let guard = CommitterGuard { queue: Arc::clone(&queue), thread: Some(thread) };
        Ok((Self { queue }, guard))
    }

    /// Returns once `batch` is on disk, all of it. If the caller goes away while waiting for room
    /// nothing is written; once queued it is written whether somebody waits or not.
    ///
    /// # Errors
    /// The engine's error, for the whole group that was written together;
    /// [`StoreError::Busy`] when there was no room in time; [`StoreError::Closed`].
    pub async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let room = Arc::clone(&self.queue.room).acquire_owned();
        let place = match tokio::time::timeout(self.queue.wait, room).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(StoreError::Closed),
            Err(_) => return Err(StoreError::Busy),
        };
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.queue.state.lock();
            if state.closing {
                return Err(StoreError::Closed);
            }
            state.jobs.push_back(Job { batch, answer, place });
        }
        self.queue.filled.notify_one();
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Queue {
    fn run(&self, store: &dyn Store, seconds: &metrics::Histogram, readiness: &Readiness) {
        // If the engine panics, nobody may wait for a thread that is gone.
        let _closes = CloseOnDrop(self);
        let mut failing = false;
        loop {
            let jobs = {
                let mut state = self.state.lock();
                while state.jobs.is_empty() {
                    if state.closing {
                        return;
                    }
                    if !failing {
                        self.filled.wait(&mut state);
                    } else if self.filled.wait_for(&mut state, PROBE_EVERY).timed_out() {
                        break;
                    }
                }
                std::mem::take(&mut state.jobs)
            };
            if jobs.is_empty() {
                failing = probe(store).is_err();
                readiness.set(STORE, !failing);
                continue;
            }
            let mut batches = Vec::with_capacity(jobs.len());
            let mut answers = Vec::with_capacity(jobs.len());
            for job in jobs {
                batches.push(job.batch);
                answers.push((job.answer, job.place));
            }
            let begun = Instant::now();
            let outcome = store.write(&batches);
            seconds.record(begun.elapsed().as_secs_f64());
            failing = outcome.is_err();
            readiness.set(STORE, !failing);
            if let Err(err) = &outcome {
                tracing::error!(error = %err, batches = batches.len(), "commit failed");
            }
            for (answer, _place) in answers {
                // A caller that went away does not want its answer.
                answer.send(outcome.clone()).ok();
            }
        }
    }

    fn close(&self) {
        self.state.lock().closing = true;
        self.room.close();
        self.filled.notify_all();
    }
}

struct CloseOnDrop<'a>(&'a Queue);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
        self.0.state.lock().jobs.clear();
    }
}

impl Drop for CommitterGuard {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the commit thread had panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Faults, MemoryStore, Table};

    fn batch(n: u32) -> Batch {
        Batch::new().put(Table::Outbox, format!("{n:04}"), "v")
    }

    fn start(store: &Arc<MemoryStore>, settings: CommitterSettings) -> (Committer, CommitterGuard) {
        Committer::start(Arc::clone(store) as Arc<dyn Store>, settings).unwrap()
    }

    #[tokio::test]
    async fn groups_what_waits_into_one_write() {
        let store = Arc::new(MemoryStore::new());
        store.set_faults(Faults { write_delay: Duration::from_millis(30), ..Faults::default() });
        let (committer, _guard) = start(&store, CommitterSettings::default());
        let all = futures_util::future::join_all((0..100).map(|n| committer.commit(batch(n)))).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(store.scan(Table::Outbox, b"", None, 1000).unwrap().len(), 100);
        assert!(store.writes() <= 4, "{} writes for 100 commits", store.writes());
    }

    #[tokio::test]
    async fn an_engine_error_answers_its_group_and_no_other() {
        let store = Arc::new(MemoryStore::new());
        store.set_faults(Faults { fail_writes: 1, ..Faults::default() });
        let (committer, _guard) = start(&store, CommitterSettings::default());
        assert!(matches!(committer.commit(batch(1)).await, Err(StoreError::Io { .. })));
        committer.commit(batch(2)).await.unwrap();
        assert_eq!(store.get(Table::Outbox, b"0001").unwrap(), None);
    }

    #[tokio::test]
    async fn a_full_queue_is_busy_after_a_bounded_wait() {
        let store = Arc::new(MemoryStore::new());
        store.set_faults(Faults { write_delay: Duration::from_millis(300), ..Faults::default() });
        let settings = CommitterSettings {
            capacity: 1,
            wait: Duration::from_millis(20),
            ..CommitterSettings::default()
        };
        let (committer, _guard) = start(&store, settings);
        let (first, second) = tokio::join!(committer.commit(batch(1)), committer.commit(batch(2)));
        first.unwrap();
        assert!(matches!(second, Err(StoreError::Busy)), "{second:?}");
        committer.commit(batch(3)).await.unwrap();
    }

    #[tokio::test]
    async fn dropping_the_guard_drains_then_closes() {
        let store = Arc::new(MemoryStore::new());
        store.set_faults(Faults { write_delay: Duration::from_millis(20), ..Faults::default() });
        let (committer, guard) = start(&store, CommitterSettings::default());
        let waiting = {
            let committer = committer.clone();
            tokio::spawn(async move {
                futures_util::future::join_all((0..10).map(|n| committer.commit(batch(n)))).await
            })
        };
        tokio::task::yield_now().await;
        drop(guard);
        assert!(waiting.await.unwrap().iter().all(Result::is_ok));
        assert_eq!(store.scan(Table::Outbox, b"", None, 1000).unwrap().len(), 10);
        assert!(matches!(committer.commit(batch(11)).await, Err(StoreError::Closed)));
    }

    #[tokio::test]
    async fn a_panicking_engine_closes_the_queue_instead_of_hanging_it() {
        struct Broken;
        impl Store for Broken {
            fn get(&self, _: Table, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
                Ok(None)
            }
            fn scan(
                &self,
                _: Table,
                _: &[u8],
                _: Option<&[u8]>,
                _: usize,
            ) -> Result<Vec<crate::store::Row>, StoreError> {
                Ok(Vec::new())
            }
            fn write(&self, _: &[Batch]) -> Result<(), StoreError> {
                panic!("engine")
            }
            fn size_bytes(&self) -> u64 {
                0
            }
        }
        let (committer, _guard) = Committer::start(Arc::new(Broken), CommitterSettings::default()).unwrap();
        assert!(matches!(committer.commit(batch(1)).await, Err(StoreError::Closed)));
        assert!(matches!(committer.commit(batch(2)).await, Err(StoreError::Closed)));
    }
}
