//! The task of one device: opens it, reads, writes and reports on its cycles, and opens it again.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::device::{DeviceInfo, PropertyInfo};
use super::driver::{Connection, Driver, DriverError};
use super::edge::{Reporter, Taken};
use super::pause::pause;
use super::progress::{Progress, State};

/// For opening a device.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// For one read or write; after that the connection counts as lost.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Longest sleep: nothing depends on it.
const IDLE: Duration = Duration::from_secs(3_600);

/// Works until dropped.
pub async fn work<D: Driver>(driver: Arc<D>, mut news: watch::Receiver<Arc<DeviceInfo>>, reporter: Reporter) {
    let first = Arc::clone(&news.borrow_and_update());
    let mut task = Task {
        started: Instant::now(),
        progress: Progress::new(first, 0),
        session: 0,
        owes_all: false,
        reporter,
        news,
    };
    let mut failures = 0;
    loop {
        task.warn_of_pushes();
        let info = Arc::clone(task.progress.info());
        let opened = timeout(CONNECT_DEADLINE, driver.connect(&info)).await;
        let late = || DriverError::Lost(format!("no answer within {CONNECT_DEADLINE:?}"));
        let err = match opened.unwrap_or_else(|_| Err(late())) {
            Ok(connection) => {
                tracing::info!(device = %info.id, "device is open");
                let opened = Instant::now();
                task.progress.opened(task.now());
                let end = task.serve(connection).await;
                if opened.elapsed() >= CONNECT_DEADLINE {
                    failures = 0;
                }
                match end {
                    End::Reconfigured => {
                        failures = 0;
                        continue;
                    }
                    End::Lost(why) => DriverError::Lost(why),
                }
            }
            Err(err) => err,
        };
        let state = match &err {
            DriverError::Lost(_) => State::Offline,
            DriverError::Refused(_) => State::Unhealthy,
        };
        if failures == 0 {
            tracing::warn!(device = %info.id, error = %err, state = state.as_str(), "device is not reachable; it is tried until it is");
        }
        task.progress.closed(state);
        let until = Instant::now() + pause(failures, fastrand::f64());
        failures = failures.saturating_add(1);
        if task.wait_closed(until).await {
            failures = 0;
        }
    }
}

enum End {
    /// It is to be reached in another way now.
    Reconfigured,
    Lost(String),
}

struct Task {
    started: Instant,
    progress: Progress,
    /// edgecore's registration that has everything.
    session: u64,
    /// Every value that is known is to be reported.
    owes_all: bool,
    reporter: Reporter,
    news: watch::Receiver<Arc<DeviceInfo>>,
}

impl Task {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn warn_of_pushes(&self) {
        let info = self.progress.info();
        if let Some(property) = info.properties.iter().find(|property| property.pushes) {
            tracing::warn!(device = %info.id, property = %property.name,
                "pushMethod is not served by this mapper: values go to edgecore only");
        }
    }

    /// Takes a changed device. `true`: it must be opened anew.
    fn take_news(&mut self) -> bool {
        let info = Arc::clone(&self.news.borrow_and_update());
        let other_way = info.protocol_config != self.progress.info().protocol_config;
        self.progress.replan(info, self.now());
        other_way
    }

    /// Sleeps until something is to be done. `true`: the device changed.
    async fn sleep(&mut self, until: Instant) -> bool {
        tokio::select! {
            changed = self.news.changed() => match changed {
                Ok(()) => true,
                // The fleet is gone; the task is about to be stopped.
                Err(_) => std::future::pending().await,
            },
            () = self.reporter.changed() => false,
            () = tokio::time::sleep_until(until) => false,
        }
    }

    fn wake(&self, is_open: bool) -> Instant {
        let ms = self.progress.wake(is_open);
        ms.map_or_else(|| Instant::now() + IDLE, |ms| self.started + Duration::from_millis(ms))
    }

    /// Tells the state while the device is closed. `true`: the device changed meanwhile.
    async fn wait_closed(&mut self, until: Instant) -> bool {
        while Instant::now() < until {
            self.tell_state().await;
            let next = self.wake(false).min(until);
            if self.sleep(next).await {
                self.take_news();
                return true;
            }
        }
        false
    }

    async fn serve<C: Connection>(&mut self, mut connection: C) -> End {
        loop {
            if let Err(why) = self.write(&mut connection).await {
                return End::Lost(why);
            }
            let due = self.progress.due(self.now());
            for index in due.collect {
                if let Err(why) = self.collect(&mut connection, index).await {
                    return End::Lost(why);
                }
            }
            self.tell_state().await;
            self.tell_values(&due.report).await;
            let until = self.wake(true);
            if self.sleep(until).await && self.take_news() {
                return End::Reconfigured;
            }
        }
    }

    async fn write<C: Connection>(&mut self, connection: &mut C) -> Result<(), String> {
        let (writes, complaints) = self.progress.writes(self.now());
        let info = Arc::clone(self.progress.info());
        for complaint in complaints {
            tracing::warn!(device = %info.id, error = %complaint, "desired value is not written");
        }
        for write in writes {
            let Some(property) = info.properties.get(write.index) else { continue };
            match timeout(CALL_DEADLINE, connection.write(property, &write.value)).await {
                Ok(Ok(())) => {
                    tracing::debug!(device = %info.id, property = %property.name, "desired value is written");
                    self.progress.wrote(&write, self.now());
                }
                Ok(Err(DriverError::Refused(why))) => {
                    tracing::warn!(device = %info.id, property = %property.name, error = %why, "device refused a desired value; it is tried again later");
                    self.progress.not_written(&write, self.now());
                }
                Ok(Err(DriverError::Lost(why))) => return Err(why),
                Err(_) => return Err(format!("no answer to a write within {CALL_DEADLINE:?}")),
            }
        }
        Ok(())
    }

    async fn collect<C: Connection>(&mut self, connection: &mut C, index: usize) -> Result<(), String> {
        let info = Arc::clone(self.progress.info());
        let Some(property) = info.properties.get(index) else { return Ok(()) };
        let outcome = match timeout(CALL_DEADLINE, connection.read(property)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(DriverError::Refused(why))) => Err(why),
            Ok(Err(DriverError::Lost(why))) => return Err(why),
            Err(_) => return Err(format!("no answer to a read within {CALL_DEADLINE:?}")),
        };
        if let Some(complaint) = self.progress.collected(index, outcome, wall_ms()) {
            tracing::warn!(device = %info.id, error = %complaint, "value is not reported");
        }
        Ok(())
    }

    /// edgecore came back: it gets everything, not only what is due.
    fn note_session(&mut self) {
        let session = self.reporter.session();
        if session != self.session {
            self.session = session;
            self.owes_all = true;
            self.progress.tell_again(self.now());
        }
    }

    async fn tell_values(&mut self, properties: &[usize]) {
        self.note_session();
        let all: Vec<usize>;
        let due = if std::mem::take(&mut self.owes_all) {
            let reports = |property: &PropertyInfo| property.cycles.report_ms.is_some();
            let places = 0..self.progress.info().properties.len();
            all = places.filter(|index| self.progress.property(*index).is_some_and(reports)).collect();
            &all
        } else {
            properties
        };
        let twins = self.progress.report(due);
        if twins.is_empty() {
            return;
        }
        // What edgecore refuses for good is not offered again; the next value may be better.
        if self.reporter.values(twins.clone()).await != Taken::Later {
            self.progress.reported(&twins);
        }
    }

    async fn tell_state(&mut self) {
        self.note_session();
        let now = self.now();
        if let Some(state) = self.progress.state_due(now) {
            let taken = self.reporter.state(state.as_str()).await;
            self.progress.state_told(state, taken != Taken::Later, self.now());
        }
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
