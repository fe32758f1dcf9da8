//! Metrics of a store on disk: does it grow, is the disk slow, does it refuse?

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const BYTES: &str = "kubeedge_store_bytes";
const ERRORS: &str = "kubeedge_store_errors_total";
const SECONDS: &str = "kubeedge_store_write_seconds";

/// Handles of one store.
#[derive(Clone)]
pub struct StoreMetrics {
    bytes: Gauge,
    errors: Counter,
    write_seconds: Histogram,
}

impl StoreMetrics {
    /// `store`: `api` in cloudcore, `edge` in edgecore.
    #[must_use]
    pub fn new(store: &'static str) -> Self {
        describe_gauge!(BYTES, Unit::Bytes, "Size of the store's files, logs included");
        describe_counter!(ERRORS, "Reads and writes that the store refused");
        describe_histogram!(
            SECONDS,
            Unit::Seconds,
            "Time of one synced write of everything that waited, first byte to on disk"
        );
        Self {
            bytes: gauge!(BYTES, "store" => store),
            errors: counter!(ERRORS, "store" => store),
            write_seconds: histogram!(SECONDS, "store" => store),
        }
    }

    /// Handles that show nothing: stores of tools and tests.
    #[must_use]
    pub fn none() -> Self {
        Self { bytes: Gauge::noop(), errors: Counter::noop(), write_seconds: Histogram::noop() }
    }

    /// The files take so much.
    pub fn sized(&self, bytes: u64) {
        self.bytes.set(bytes as f64);
    }

    /// A write ended, well or not.
    pub fn wrote(&self, took: Duration) {
        self.write_seconds.record(took.as_secs_f64());
    }

    /// Counts the failure, if it is one, and hands the result on.
    pub fn counted<T, E>(&self, result: Result<T, E>) -> Result<T, E> {
        if result.is_err() {
            self.errors.increment(1);
        }
        result
    }
}
