//! A small plant behind a Modbus device, for demos and tests without one: a boiler that is heated to
//! a set point and a pump that draws warm water from it. Pure: the caller brings the time.
//!
//! | table | offset | what |
//! |---|---|---|
//! | coil | 0 | pump on |
//! | coil | 1 | heating allowed |
//! | discrete input | 0 | alarm: hotter than 95 °C |
//! | discrete input | 1 | burner on |
//! | holding register | 0 | speed of the pump, rpm, 0 to 3000 |
//! | holding register | 1 | set point, 0.1 °C, 200 to 900 |
//! | input register | 0 | temperature, 0.1 °C |
//! | input register | 1 | flow, 0.1 l/min |
//! | input register | 2 | pressure, mbar |
//! | input register | 3, 4 | heat given since the start, Wh, high word first |

use std::time::Duration;

/// Fastest the pump turns, rpm.
const MAX_SPEED: u16 = 3_000;
/// Range of the set point, 0.1 °C.
const SET_POINTS: std::ops::RangeInclusive<u16> = 200..=900;
/// Flow at full speed, l/min.
const MAX_FLOW: f64 = 12.0;
/// What the burner gives, W.
const BURNER: f64 = 24_000.0;
/// Heat that warms the boiler by one degree, J/K: 40 l of water.
const CAPACITY: f64 = 167_000.0;
/// Heat that a litre of water carries per degree, J/(l K).
const WATER: f64 = 4_186.0;
/// Of the water that comes back and of the room, °C.
const RETURN: f64 = 35.0;
const ROOM: f64 = 20.0;
/// Lost through the walls, W/K.
const WALLS: f64 = 15.0;
/// Around the set point, °C: the burner starts below and stops above.
const BAND: f64 = 0.8;
/// Above this, °C, there is an alarm and the burner stops.
const TOO_HOT: f64 = 95.0;
/// The flow follows the pump with this delay, s.
const INERTIA: f64 = 2.0;
/// Longest step that is computed at once, s.
const STEP: f64 = 0.5;
/// Most steps of one call: a plant that slept an hour wakes as it was.
const MAX_STEPS: u32 = 240;

/// Why a request is refused, in Modbus' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No such coil or register.
    Address,
    /// It cannot have this value.
    Value,
}

/// The plant.
#[derive(Debug, Clone, PartialEq)]
pub struct Plant {
    pump: bool,
    heating_allowed: bool,
    speed: u16,
    set_point: u16,
    burner: bool,
    temperature: f64,
    flow: f64,
    heat_joules: f64,
    seconds: f64,
}

impl Default for Plant {
    fn default() -> Self {
        Self {
            pump: true,
            heating_allowed: true,
            speed: 1_200,
            set_point: 600,
            burner: false,
            temperature: 55.0,
            flow: 0.0,
            heat_joules: 0.0,
            seconds: 0.0,
        }
    }
}

impl Plant {
    /// Lets time pass, at most two minutes at once.
    pub fn advance(&mut self, passed: Duration) {
        let mut left = passed.as_secs_f64();
        for _ in 0..MAX_STEPS {
            if left <= 0.0 {
                return;
            }
            let step = left.min(STEP);
            self.step(step);
            left -= step;
        }
    }

    fn step(&mut self, dt: f64) {
        self.seconds += dt;
        let set_point = f64::from(self.set_point) / 10.0;
        self.burner = self.heating_allowed
            && self.temperature < TOO_HOT
            && if self.burner {
                self.temperature < set_point + BAND
            } else {
                self.temperature < set_point - BAND
            };
        let wanted = if self.pump { MAX_FLOW * f64::from(self.speed) / f64::from(MAX_SPEED) } else { 0.0 };
        // Valves of rooms open and close: what flows is never quite what the pump could give.
        let valves = 1.0 + 0.08 * (self.seconds / 7.0).sin() + 0.03 * (self.seconds / 1.7).sin();
        self.flow += (wanted * valves - self.flow) * (dt / INERTIA).min(1.0);
        let given = if self.burner { BURNER } else { 0.0 };
        let drawn = self.flow / 60.0 * WATER * (self.temperature - RETURN).max(0.0);
        let lost = WALLS * (self.temperature - ROOM);
        self.temperature = (self.temperature + (given - drawn - lost) * dt / CAPACITY).clamp(0.0, 120.0);
        self.heat_joules += given * dt;
    }

    #[must_use]
    pub fn coils(&self) -> [bool; 2] {
        [self.pump, self.heating_allowed]
    }

    #[must_use]
    pub fn discrete_inputs(&self) -> [bool; 2] {
        [self.temperature > TOO_HOT, self.burner]
    }

    #[must_use]
    pub fn holding_registers(&self) -> [u16; 2] {
        [self.speed, self.set_point]
    }

    #[must_use]
    pub fn input_registers(&self) -> [u16; 5] {
        let pressure = 1_500.0 + 4.0 * (self.temperature - ROOM) - 25.0 * self.flow;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a counter of Wh that wraps"
        )]
        let energy = (self.heat_joules / 3_600.0) as u64;
        let word = |shift: u32| u16::try_from(energy >> shift & 0xffff).unwrap_or_default();
        [whole(self.temperature * 10.0), whole(self.flow * 10.0), whole(pressure), word(16), word(0)]
    }

    /// Sets coils from `address` on; all of them or none.
    ///
    /// # Errors
    /// [`Refused::Address`].
    pub fn write_coils(&mut self, address: u16, values: &[bool]) -> Result<(), Refused> {
        let mut coils = self.coils();
        let [pump, heating_allowed] = *put(&mut coils, address, values)?;
        (self.pump, self.heating_allowed) = (pump, heating_allowed);
        Ok(())
    }

    /// Sets holding registers from `address` on; all of them or none.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn write_registers(&mut self, address: u16, values: &[u16]) -> Result<(), Refused> {
        let mut registers = self.holding_registers();
        let [speed, set_point] = *put(&mut registers, address, values)?;
        if speed > MAX_SPEED || !SET_POINTS.contains(&set_point) {
            return Err(Refused::Value);
        }
        (self.speed, self.set_point) = (speed, set_point);
        Ok(())
    }
}

/// Writes `values` over `all` from `address` on.
fn put<'a, T: Copy, const N: usize>(
    all: &'a mut [T; N],
    address: u16,
    values: &[T],
) -> Result<&'a [T; N], Refused> {
    let from = usize::from(address);
    all.get_mut(from..from + values.len()).ok_or(Refused::Address)?.copy_from_slice(values);
    Ok(all)
}

/// What a read of `count` from `address` on gives.
///
/// # Errors
/// [`Refused::Address`].
pub fn taken<T: Copy>(all: &[T], address: u16, count: u16) -> Result<Vec<T>, Refused> {
    let from = usize::from(address);
    let values = all.get(from..from + usize::from(count)).filter(|values| !values.is_empty());
    values.map(<[T]>::to_vec).ok_or(Refused::Address)
}

fn whole(value: f64) -> u16 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let whole = value.round().clamp(0.0, 65_535.0) as u16;
    whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(plant: &mut Plant, seconds: u64) -> f64 {
        for _ in 0..seconds {
            plant.advance(Duration::from_secs(1));
        }
        f64::from(plant.input_registers()[0]) / 10.0
    }

    #[test]
    fn the_set_point_acts_on_the_temperature() {
        let mut plant = Plant::default();
        assert!((58.0..62.0).contains(&after(&mut plant, 1_200)));
        plant.write_registers(1, &[700]).expect("a set point");
        assert!((68.0..72.0).contains(&after(&mut plant, 1_800)));
        plant.write_coils(1, &[false]).expect("a coil");
        assert!(after(&mut plant, 1_800) < 50.0);
        assert!(!plant.discrete_inputs()[1]);
    }

    #[test]
    fn it_moves_and_the_pump_draws() {
        let mut plant = Plant::default();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..60 {
            plant.advance(Duration::from_secs(1));
            seen.insert(plant.input_registers());
        }
        assert!(seen.len() > 30, "{} different pictures in a minute", seen.len());
        assert!(plant.input_registers()[1] > 20);
        plant.write_coils(0, &[false]).expect("a coil");
        after(&mut plant, 60);
        assert_eq!(plant.input_registers()[1], 0);
        let [.., high, low] = plant.input_registers();
        assert!(u32::from(high) << 16 | u32::from(low) > 100);
    }

    #[test]
    fn what_it_does_not_have_is_refused_whole() {
        let mut plant = Plant::default();
        let before = plant.clone();
        for (address, values, want) in [
            (2, &[1_u16][..], Refused::Address),
            (1, &[500, 1], Refused::Address),
            (u16::MAX, &[1], Refused::Address),
            (0, &[3_001], Refused::Value),
            (0, &[100, 901], Refused::Value),
            (1, &[199], Refused::Value),
        ] {
            assert_eq!(plant.write_registers(address, values), Err(want), "{address} {values:?}");
        }
        assert_eq!(plant.write_coils(1, &[true, true]), Err(Refused::Address));
        assert_eq!(plant, before);
        for (address, count, want) in
            [(0, 2, Some(2)), (1, 1, Some(1)), (1, 2, None), (0, 0, None), (u16::MAX, u16::MAX, None)]
        {
            let taken = taken(&plant.coils(), address, count);
            assert_eq!(taken.ok().map(|values| values.len()), want, "{address} {count}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_done_to_it_it_stays_a_plant(
            steps in proptest::collection::vec((0_u64..400, any::<bool>(), 0_u16..=3_000, 200_u16..=900), 1..40)
        ) {
            let mut plant = Plant::default();
            for (seconds, on, speed, set_point) in steps {
                plant.write_coils(0, &[on, !on]).expect("coils");
                plant.write_registers(0, &[speed, set_point]).expect("registers");
                plant.advance(Duration::from_secs(seconds));
                let [temperature, flow, pressure, ..] = plant.input_registers();
                prop_assert!((150..=1_000).contains(&temperature), "{temperature}");
                prop_assert!(flow <= 140, "{flow}");
                prop_assert!((1_000..=2_000).contains(&pressure), "{pressure}");
            }
        }
    }
}
