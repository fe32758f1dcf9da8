//! Times as numbers.

use std::time::SystemTime;

/// Whole unix seconds; 0 for anything before 1970.
#[must_use]
pub fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Unix milliseconds, as messages carry them; 0 for anything before 1970.
#[must_use]
pub fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
