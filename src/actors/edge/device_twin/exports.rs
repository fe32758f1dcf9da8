//! Device values as Prometheus series, only where a Device asks for it, and bounded.
//!
//! The metrics registry cannot forget a series. One whose device or annotation is gone shows `NaN`
//! and still counts against the bound, until edgecore restarts; the same property of a device of the
//! same name takes it up again.

use std::collections::BTreeMap;

use super::value::number;
use crate::model::DeviceId;

/// One gauge to set.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub device: DeviceId,
    pub property: String,
    /// `NaN`: gone.
    pub value: f64,
}

/// The series this process ever made, and whether they are alive.
#[derive(Debug)]
pub struct Exports {
    most: usize,
    series: BTreeMap<(DeviceId, String), bool>,
    /// Values that found no room.
    pub refused: u64,
}

impl Exports {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, series: BTreeMap::new(), refused: 0 }
    }

    /// How many there may be.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// A value was reported that the Device wants to be seen; text that is no number has no series.
    pub fn set(&mut self, device: &DeviceId, property: &str, value: &str) -> Option<Sample> {
        let value = number(value)?;
        let key = (device.clone(), property.to_owned());
        if !self.series.contains_key(&key) && self.series.len() >= self.most {
            self.refused += 1;
            return None;
        }
        self.series.insert(key, true);
        Some(Sample { device: device.clone(), property: property.to_owned(), value })
    }

    /// Ends the series of a device that `keep` does not want.
    pub fn end(&mut self, device: &DeviceId, keep: impl Fn(&str) -> bool) -> Vec<Sample> {
        let mut ended = Vec::new();
        let from = (device.clone(), String::new());
        for ((of, property), alive) in self.series.range_mut(from..) {
            if of != device {
                break;
            }
            if *alive && !keep(property) {
                *alive = false;
                ended.push(Sample { device: device.clone(), property: property.clone(), value: f64::NAN });
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_ended() {
        let (a, b) = (DeviceId::new("default", "a"), DeviceId::new("default", "b"));
        let mut exports = Exports::new(2);
        assert_eq!(exports.set(&a, "t", "1.5").unwrap().value, 1.5);
        assert_eq!(exports.set(&a, "t", "true").unwrap().value, 1.0);
        assert_eq!(exports.set(&a, "s", "text"), None, "no number, no series");
        assert!(exports.set(&b, "t", "2").is_some());
        assert_eq!((exports.set(&b, "h", "2"), exports.refused), (None, 1));
        let ended = exports.end(&a, |property| property != "t");
        assert!(ended.len() == 1 && ended[0].value.is_nan() && ended[0].device == a);
        assert!(exports.end(&a, |_| false).is_empty(), "told once");
        assert_eq!((exports.set(&b, "h", "2"), exports.refused), (None, 2), "a gone series keeps its place");
        assert!(exports.set(&a, "t", "3").is_some(), "and is taken up again");
    }

    #[test]
    fn a_thousand_odd_devices_fill_what_there_is_and_no_more() {
        let mut exports = Exports::new(500);
        let mut samples = std::collections::BTreeSet::new();
        for i in 0..1_000 {
            let device = DeviceId::new("odd\"\n", format!("{{{i}}}\\"));
            let made = exports.set(&device, &format!("p{}", i % 7), "1");
            samples.extend(made.map(|sample| (sample.device, sample.property)));
            drop(exports.end(&device, |_| false));
        }
        assert_eq!((samples.len(), exports.refused), (500, 500));
    }
}
