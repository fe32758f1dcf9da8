//! Simulated devices: a day of plausible data for demos and load, the same for the same device,
//! seed and time of day, and actuators that do what they are told.
//!
//! `protocol.configData`: `seed` (number; default from the device's name), `speed` (how much faster
//! than the clock the day goes, 1), `latency` (ms each read takes, 0). Visitors: `signal`, one of
//! `temperature`, `humidity`, `illuminance`, `power`, `door`, `counter`, `constant`; default is the
//! property's own name, else `temperature`. `shape: day` with `low` and `high` is any quantity that
//! follows the sun between these two. A `ReadWrite` property, and any with `shape: hold`, keeps
//! what was written to it, from `initial` (0) on.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::device::{DeviceInfo, PropertyInfo};
use super::driver::{Connection, Driver, DriverError};
use super::fields::Fields;
use super::value::{Kind, Value};

/// Seconds of a day.
const DAY: f64 = 86_400.0;

/// What a simulated sensor measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Degrees Celsius, coldest before dawn.
    Temperature,
    /// Percent, falls when it is warm.
    Humidity,
    /// Lux, dark at night.
    Illuminance,
    /// Watts: a base load, machines that come and go, a working day.
    Power,
    /// Open now and then in the day: 0 or 1.
    Door,
    /// Goes up by one each second.
    Counter,
    /// Always 0.
    Constant,
}

impl Signal {
    /// Reads a name, in any case; also names that contain one (`room-temperature`).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let known = [
            ("temp", Self::Temperature),
            ("humid", Self::Humidity),
            ("lux", Self::Illuminance),
            ("illuminance", Self::Illuminance),
            ("light", Self::Illuminance),
            ("power", Self::Power),
            ("door", Self::Door),
            ("count", Self::Counter),
            ("constant", Self::Constant),
        ];
        known.iter().find(|(part, _)| name.contains(part)).map(|(_, signal)| *signal)
    }
}

/// What `signal` is at `seconds` since the epoch for the device of this seed. Pure.
#[must_use]
pub fn sample(signal: Signal, seed: u64, seconds: f64) -> f64 {
    let day = seconds.rem_euclid(DAY) / DAY;
    // Warmest at three in the afternoon.
    let warmth = -((day - 0.125) * TAU).cos();
    let place = share(seed, 1) - 0.5;
    let noise = |salt: u64, period: f64| wave(seed.wrapping_add(salt), seconds / period);
    let value = match signal {
        Signal::Temperature => {
            21.0 + 4.0 * place + 5.0 * warmth + 0.6 * noise(2, 900.0) + 0.1 * noise(3, 20.0)
        }
        Signal::Humidity => {
            55.0 + 10.0 * place - 12.0 * warmth + 3.0 * noise(4, 1_200.0) + 0.5 * noise(5, 30.0)
        }
        Signal::Illuminance => {
            let sun = (-(day * TAU).cos() - 0.1).max(0.0);
            sun * (40_000.0 + 15_000.0 * noise(6, 600.0)) + 3.0 + noise(7, 60.0)
        }
        Signal::Power => {
            let at_work = if (7.0 / 24.0..18.0 / 24.0).contains(&day) { 800.0 } else { 60.0 };
            let machine = if noise(8, 420.0) > 0.35 { 1_500.0 } else { 0.0 };
            120.0 + at_work * (1.0 + 0.2 * noise(9, 300.0)) + machine + 8.0 * noise(10, 5.0)
        }
        Signal::Door => {
            let busy = if (6.0 / 24.0..22.0 / 24.0).contains(&day) { 0.55 } else { 0.9 };
            f64::from(u8::from(noise(11, 90.0) > busy))
        }
        Signal::Counter => seconds.floor(),
        Signal::Constant => 0.0,
    };
    let (low, high) = match signal {
        Signal::Temperature => (-40.0, 85.0),
        Signal::Humidity => (0.0, 100.0),
        _ => (0.0, f64::MAX),
    };
    (value.clamp(low, high) * 100.0).round() / 100.0
}

/// A quantity that is `low` at three in the night and `high` at three in the afternoon, with a
/// little noise; never beyond the two. Pure.
#[must_use]
pub fn daily(low: f64, high: f64, seed: u64, seconds: f64) -> f64 {
    let day = seconds.rem_euclid(DAY) / DAY;
    let warmth = 0.5 - 0.5 * ((day - 0.125) * TAU).cos();
    let noise = 0.03 * wave(seed.wrapping_add(12), seconds / 120.0);
    let value = low + (high - low) * (warmth + noise).clamp(0.0, 1.0);
    (value * 100.0).round() / 100.0
}

/// A smooth random walk in -1.0..=1.0, fixed by the seed.
fn wave(seed: u64, at: f64) -> f64 {
    let floor = at.floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "time is positive and far below 2^63"
    )]
    let step = floor.max(0.0) as u64;
    let (from, to) = (share(seed, step), share(seed, step.wrapping_add(1)));
    let part = at - floor;
    let smooth = part * part * (3.0 - 2.0 * part);
    (from + (to - from) * smooth) * 2.0 - 1.0
}

/// A number in 0.0..1.0 fixed by both arguments (splitmix64).
fn share(seed: u64, step: u64) -> f64 {
    let mut mixed = seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    f64::from(u32::try_from(mixed >> 32).unwrap_or_default()) / 4_294_967_296.0
}

/// The driver.
#[derive(Debug, Clone, Copy, Default)]
pub struct Simulator;

/// A simulated device.
pub struct SimDevice {
    seed: u64,
    speed: f64,
    latency: Duration,
    opened: f64,
    /// What was written, by property.
    written: BTreeMap<String, Value>,
}

impl Driver for Simulator {
    type Connection = SimDevice;

    async fn connect(&self, device: &DeviceInfo) -> Result<SimDevice, DriverError> {
        let fields = Fields::new("configData", &device.protocol_config);
        let read = || {
            let seed = fields.int(&["seed"], 0, i64::from(u32::MAX))?.map(i64::unsigned_abs);
            let speed = fields.float(&["speed"])?.filter(|speed| *speed > 0.0).unwrap_or(1.0);
            let latency = fields.int(&["latency"], 0, 60_000)?.unwrap_or(0);
            Ok((seed, speed, Duration::from_millis(latency.unsigned_abs())))
        };
        let (seed, speed, latency) = read().map_err(DriverError::Refused)?;
        let seed = seed.unwrap_or_else(|| named_seed(&device.id.to_string()));
        Ok(SimDevice { seed, speed, latency, opened: now_secs(), written: BTreeMap::new() })
    }
}

/// FNV-1a: the same for the same name, on every machine.
fn named_seed(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn now_secs() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl SimDevice {
    /// Seconds since the epoch, in this device's time.
    fn time(&self) -> f64 {
        self.opened + (now_secs() - self.opened) * self.speed
    }
}

impl Connection for SimDevice {
    async fn read(&mut self, property: &PropertyInfo) -> Result<Value, DriverError> {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let fields = Fields::new("visitors.configData", &property.visitor);
        let refused = DriverError::Refused;
        let shape = fields.text(&["shape"]).map_err(refused)?.unwrap_or_default();
        if property.writable || shape == "hold" {
            if let Some(value) = self.written.get(&property.name) {
                return Ok(value.clone());
            }
            let initial = fields.text(&["initial"]).map_err(DriverError::Refused)?;
            let value = initial
                .unwrap_or_else(|| if property.kind == Kind::Text { String::new() } else { "0".to_owned() });
            return Ok(Value::Text(value));
        }
        let (low, high) =
            (fields.float(&["low"]).map_err(refused)?, fields.float(&["high"]).map_err(refused)?);
        match (shape.as_str(), low, high) {
            ("" | "day", Some(low), Some(high)) if low <= high => {
                return Ok(Value::Float(daily(low, high, self.seed, self.time())));
            }
            ("", None, None) => {}
            ("" | "day", ..) => {
                let why = "visitors.configData.low: low and high are wanted, low not above high";
                return Err(DriverError::Refused(why.to_owned()));
            }
            _ => {
                let why = format!("visitors.configData.shape: {shape:?} is neither day nor hold");
                return Err(DriverError::Refused(why));
            }
        }
        let named = fields.text(&["signal"]).map_err(DriverError::Refused)?;
        let signal = match &named {
            Some(name) => Signal::parse(name).ok_or_else(|| {
                DriverError::Refused(format!("visitors.configData.signal: {name:?} is not known"))
            })?,
            None => Signal::parse(&property.name).unwrap_or(Signal::Temperature),
        };
        let value = sample(signal, self.seed, self.time());
        Ok(if property.kind == Kind::Boolean { Value::Bool(value > 0.5) } else { Value::Float(value) })
    }

    async fn write(&mut self, property: &PropertyInfo, value: &Value) -> Result<(), DriverError> {
        self.written.insert(property.name.clone(), value.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Signal; 7] = [
        Signal::Temperature,
        Signal::Humidity,
        Signal::Illuminance,
        Signal::Power,
        Signal::Door,
        Signal::Counter,
        Signal::Constant,
    ];

    #[test]
    fn a_day_looks_like_one() {
        let at =
            |signal, hour: f64| sample(signal, 7, 1_790_000_000.0 - 1_790_000_000.0 % DAY + hour * 3_600.0);
        assert!(at(Signal::Temperature, 15.0) > at(Signal::Temperature, 3.0) + 5.0);
        assert!(at(Signal::Humidity, 15.0) < at(Signal::Humidity, 3.0));
        assert!(at(Signal::Illuminance, 12.0) > 10_000.0 && at(Signal::Illuminance, 0.5) < 10.0);
        let doors: Vec<f64> = (0..1_440).map(|minute| at(Signal::Door, f64::from(minute) / 60.0)).collect();
        let open = doors.iter().filter(|door| **door > 0.5).count();
        assert!((10..700).contains(&open), "open {open} minutes of the day");
    }

    #[test]
    fn a_daily_quantity_stays_between_its_ends() {
        let midnight = 1_790_000_000.0 - 1_790_000_000.0 % DAY;
        let values: Vec<f64> =
            (0..288).map(|five| daily(17.0, 24.0, 9, midnight + 300.0 * f64::from(five))).collect();
        assert!(values.iter().all(|value| (17.0..=24.0).contains(value)));
        assert!(values[180] > 23.5 && values[36] < 17.5, "{} {}", values[180], values[36]);
        assert!((daily(5.0, 5.0, 9, midnight) - 5.0).abs() < 1e-9);
    }

    #[tokio::test]
    async fn visitors_choose_the_signal_and_actuators_hold() {
        let property = |name: &str, writable: bool, visitor: serde_json::Value| PropertyInfo {
            name: name.to_owned(),
            kind: Kind::Float,
            writable,
            range: crate::mapper::value::Range::default(),
            desired: None,
            visitor: visitor.as_object().cloned().unwrap(),
            cycles: crate::mapper::schedule::Cycles::new(0, 0, true),
            pushes: false,
        };
        let mut device = SimDevice {
            seed: 1,
            speed: 60.0,
            latency: Duration::ZERO,
            opened: now_secs(),
            written: BTreeMap::new(),
        };
        let lamp = property("lamp", true, serde_json::json!({"initial": "1"}));
        assert_eq!(device.read(&lamp).await, Ok(Value::Text("1".to_owned())));
        device.write(&lamp, &Value::Float(0.5)).await.unwrap();
        assert_eq!(device.read(&lamp).await, Ok(Value::Float(0.5)));
        let day = property("x", false, serde_json::json!({"shape": "day", "low": 3, "high": 3}));
        assert_eq!(device.read(&day).await, Ok(Value::Float(3.0)));
        for (visitor, want) in [
            (
                serde_json::json!({"shape": "square"}),
                "visitors.configData.shape: \"square\" is neither day nor hold",
            ),
            (serde_json::json!({"shape": "day"}), "visitors.configData.low: low and high are wanted"),
            (serde_json::json!({"low": 5, "high": 4}), "visitors.configData.low: low and high are wanted"),
            (serde_json::json!({"signal": "smell"}), "visitors.configData.signal: \"smell\" is not known"),
        ] {
            let err = device.read(&property("x", false, visitor)).await.unwrap_err();
            assert!(err.to_string().starts_with(want), "{err}");
        }
    }

    #[test]
    fn devices_differ_and_each_repeats_itself() {
        let seeds = ["default/a", "default/b"].map(named_seed);
        let [a, b] = seeds.map(|seed| sample(Signal::Temperature, seed, 1e9));
        assert!((a - b).abs() > 0.001);
        for signal in ALL {
            assert_eq!(sample(signal, 3, 1e9).to_bits(), sample(signal, 3, 1e9).to_bits());
        }
        assert_eq!(Signal::parse("Room-Temperature"), Some(Signal::Temperature));
        assert_eq!(Signal::parse("nonsense"), None);
    }

    proptest! {
        #[test]
        fn values_stay_plausible(seed in any::<u64>(), seconds in 0.0_f64..4e9, pick in 0_usize..7) {
            let value = sample(ALL[pick], seed, seconds);
            prop_assert!(value.is_finite());
            let fine = match ALL[pick] {
                Signal::Temperature => (5.0..40.0).contains(&value),
                Signal::Humidity => (0.0..=100.0).contains(&value),
                Signal::Illuminance => (0.0..70_000.0).contains(&value),
                Signal::Power => (100.0..4_000.0).contains(&value),
                Signal::Door => value == 0.0 || value == 1.0,
                Signal::Counter => (value - seconds.floor()).abs() < 0.01,
                Signal::Constant => value == 0.0,
            };
            prop_assert!(fine, "{:?} {}", ALL[pick], value);
        }
    }
}
