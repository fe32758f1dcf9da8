//! What one device's task knows: last values, what was reported and what was written, its state.
//! Pure; time is milliseconds of the task's clock, `wall_ms` is Unix time for the values.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::device::{DeviceInfo, PropertyInfo};
use super::schedule::{Due, Schedule};
use super::value::Value;
use crate::wire::dmi::{Twin, TwinProperty};

/// Pause before a write the device refused is tried again.
const WRITE_AGAIN_MS: u64 = 10_000;
/// Pause before a state that did not reach edgecore is sent again.
const STATE_AGAIN_MS: u64 = 1_000;

/// State of a device, in the words of `state/update`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Online,
    Offline,
    Unhealthy,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unhealthy => "unhealthy",
        }
    }
}

#[derive(Debug)]
pub struct Progress {
    info: Arc<DeviceInfo>,
    schedule: Schedule,
    latest: BTreeMap<String, Latest>,
    /// Properties that cannot be read now, and why.
    bad: BTreeMap<String, String>,
    /// Desired values that were written.
    acted: BTreeMap<String, String>,
    /// Desired values that were not, and when to try again (`None`: not before they change).
    refused: BTreeMap<String, (String, Option<u64>)>,
    state: State,
    told: Option<State>,
    state_at: u64,
}

#[derive(Debug)]
struct Latest {
    text: String,
    wall_ms: u64,
    /// Not yet reported.
    is_fresh: bool,
}

/// A desired value to write.
#[derive(Debug, PartialEq)]
pub struct Write {
    pub index: usize,
    pub value: Value,
    pub text: String,
}

impl Progress {
    pub fn new(info: Arc<DeviceInfo>, now: u64) -> Self {
        let schedule = Schedule::new(info.properties.iter().map(|property| property.cycles), now);
        Self {
            info,
            schedule,
            latest: BTreeMap::new(),
            bad: BTreeMap::new(),
            acted: BTreeMap::new(),
            refused: BTreeMap::new(),
            state: State::Offline,
            told: None,
            state_at: now,
        }
    }

    pub fn info(&self) -> &Arc<DeviceInfo> {
        &self.info
    }

    /// The device changed but not how it is reached: what is known of its properties stays.
    pub fn replan(&mut self, info: Arc<DeviceInfo>, now: u64) {
        self.schedule = Schedule::new(info.properties.iter().map(|property| property.cycles), now);
        let stays = |name: &String| info.properties.iter().any(|property| property.name == *name);
        self.latest.retain(|name, _| stays(name));
        self.bad.retain(|name, _| stays(name));
        self.acted.retain(|name, _| stays(name));
        let is_wanted = |name: &String, text: &String| {
            let mut properties = info.properties.iter();
            properties.any(|property| property.name == *name && property.desired.as_ref() == Some(text))
        };
        self.refused.retain(|name, (text, _)| is_wanted(name, text));
        self.info = info;
    }

    pub fn property(&self, index: usize) -> Option<&PropertyInfo> {
        self.info.properties.get(index)
    }

    /// The device was just opened: everything is due.
    pub fn opened(&mut self, now: u64) {
        for index in 0..self.info.properties.len() {
            self.schedule.hurry(index, now);
        }
        self.bad.clear();
        self.state = State::Online;
    }

    /// The device cannot be reached (`Offline`) or not be used (`Unhealthy`).
    pub fn closed(&mut self, state: State) {
        self.state = state;
    }

    pub fn due(&mut self, now: u64) -> Due {
        self.schedule.due(now)
    }

    /// When there is something to do next.
    pub fn wake(&self, is_open: bool) -> Option<u64> {
        let cycles = self.schedule.next().filter(|_| is_open);
        let writes = self.refused.values().filter_map(|(_, again)| *again).min().filter(|_| is_open);
        let state =
            (self.told != Some(self.state) || self.info.state_cycle_ms.is_some()).then_some(self.state_at);
        [cycles, writes, state].into_iter().flatten().min()
    }

    /// Desired values to write now, and complaints about those that cannot be written as they are.
    pub fn writes(&mut self, now: u64) -> (Vec<Write>, Vec<String>) {
        let (mut writes, mut complaints) = (Vec::new(), Vec::new());
        for (index, property) in self.info.properties.iter().enumerate() {
            let Some(desired) = &property.desired else { continue };
            if self.acted.get(&property.name) == Some(desired) {
                continue;
            }
            if let Some((refused, again)) = self.refused.get(&property.name)
                && refused == desired
                && again.is_none_or(|again| again > now)
            {
                continue;
            }
            self.refused.remove(&property.name);
            match property.accept_desired(desired) {
                Ok(value) => writes.push(Write { index, value, text: desired.clone() }),
                Err(why) => {
                    self.refused.insert(property.name.clone(), (desired.clone(), None));
                    complaints.push(format!("desired value of {}: {why}", property.name));
                }
            }
        }
        (writes, complaints)
    }

    /// The device took the value: it is read back and reported at once.
    pub fn wrote(&mut self, write: &Write, now: u64) {
        if let Some(property) = self.info.properties.get(write.index) {
            self.acted.insert(property.name.clone(), write.text.clone());
            self.schedule.hurry(write.index, now);
        }
    }

    /// The device refused the value.
    pub fn not_written(&mut self, write: &Write, now: u64) {
        if let Some(property) = self.info.properties.get(write.index) {
            let again = Some(now.saturating_add(WRITE_AGAIN_MS));
            self.refused.insert(property.name.clone(), (write.text.clone(), again));
        }
    }

    /// A property was read, or could not be. Returns what is new to complain of.
    pub fn collected(
        &mut self,
        index: usize,
        outcome: Result<Value, String>,
        wall_ms: u64,
    ) -> Option<String> {
        let property = self.info.properties.get(index)?;
        let name = property.name.clone();
        let accepted = outcome.and_then(|value| property.accept(value));
        let complaint = match accepted {
            Ok(value) => {
                self.bad.remove(&name);
                self.latest.insert(name, Latest { text: value.to_string(), wall_ms, is_fresh: true });
                None
            }
            Err(why) => {
                // The text holds the value, which may differ each time: said once until it is well.
                let before = self.bad.insert(name.clone(), why.clone());
                before.is_none().then(|| format!("{name}: {why}"))
            }
        };
        self.state = if self.bad.is_empty() { State::Online } else { State::Unhealthy };
        complaint
    }

    /// What to report of these properties: values that are new since the last report.
    pub fn report(&self, properties: &[usize]) -> Vec<Twin> {
        let due = properties.iter().filter_map(|index| self.info.properties.get(*index));
        due.filter_map(|property| {
            let latest = self.latest.get(&property.name).filter(|latest| latest.is_fresh)?;
            let metadata = [
                ("timestamp".to_owned(), latest.wall_ms.to_string()),
                ("type".to_owned(), property.kind.twin_type().to_owned()),
            ];
            let with =
                |value: &str| TwinProperty { value: value.to_owned(), metadata: metadata.clone().into() };
            Some(Twin {
                property_name: property.name.clone(),
                observed_desired: Some(with(self.acted.get(&property.name).map_or("", String::as_str))),
                reported: Some(with(&latest.text)),
            })
        })
        .collect()
    }

    /// edgecore has stored these.
    pub fn reported(&mut self, twins: &[Twin]) {
        for twin in twins {
            let is_same = |latest: &Latest| {
                let stamp = twin.reported.as_ref().and_then(|reported| reported.metadata.get("timestamp"));
                stamp.is_some_and(|stamp| *stamp == latest.wall_ms.to_string())
            };
            if let Some(latest) = self.latest.get_mut(&twin.property_name).filter(|latest| is_same(latest)) {
                latest.is_fresh = false;
            }
        }
    }

    /// edgecore is a new one, or was away: it gets everything again.
    pub fn tell_again(&mut self, now: u64) {
        self.told = None;
        self.state_at = now;
        self.latest.values_mut().for_each(|latest| latest.is_fresh = true);
    }

    /// The state to tell now, if any.
    pub fn state_due(&self, now: u64) -> Option<State> {
        let is_news = self.told.is_none_or(|told| told != self.state);
        let again = self.state_at <= now;
        let cyclic = self.info.state_cycle_ms.is_some() && again;
        // A change is told at once, unless telling it just failed.
        ((is_news && (self.told.is_some() || again)) || cyclic).then_some(self.state)
    }

    pub fn state_told(&mut self, state: State, is_taken: bool, now: u64) {
        self.told = is_taken.then_some(state);
        let pause =
            if is_taken { self.info.state_cycle_ms.unwrap_or(STATE_AGAIN_MS) } else { STATE_AGAIN_MS };
        self.state_at = now.saturating_add(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapper::schedule::Cycles;
    use crate::mapper::value::{Kind, Range};
    use crate::model::DeviceId;
    use proptest::prelude::*;
    use serde_json::Map;

    fn info(desired: &str, state_cycle_ms: Option<u64>) -> Arc<DeviceInfo> {
        let property = |name: &str, writable: bool, desired: Option<&str>| PropertyInfo {
            name: name.to_owned(),
            kind: Kind::Int,
            writable,
            range: Range::parse("0", "50").unwrap(),
            desired: desired.map(str::to_owned),
            visitor: Map::new(),
            cycles: Cycles::new(100, 200, true),
            pushes: false,
        };
        let properties = vec![property("t", false, None), property("set", true, Some(desired))];
        Arc::new(DeviceInfo {
            id: DeviceId::new("n", "d"),
            protocol_config: Map::new(),
            properties,
            state_cycle_ms,
        })
    }

    fn values(twins: &[Twin]) -> Vec<String> {
        let value = |property: &Option<TwinProperty>| property.clone().unwrap().value;
        twins
            .iter()
            .map(|twin| {
                format!("{}={}/{}", twin.property_name, value(&twin.reported), value(&twin.observed_desired))
            })
            .collect()
    }

    #[test]
    fn a_desired_value_is_written_once_for_each_change() {
        let mut progress = Progress::new(info("7", None), 0);
        let (writes, complaints) = progress.writes(0);
        assert_eq!((writes.len(), complaints.len()), (1, 0));
        progress.not_written(&writes[0], 0);
        assert!(progress.writes(9_999).0.is_empty(), "a refused one waits");
        let (writes, _) = progress.writes(10_000);
        assert_eq!(writes, [Write { index: 1, value: Value::Int(7), text: "7".to_owned() }]);
        progress.not_written(&writes[0], 10_000);
        let mut other = info("7", None);
        Arc::make_mut(&mut other).properties[1].desired = None;
        progress.due(10_000);
        progress.replan(other, 10_000);
        progress.due(10_000);
        progress.state_told(State::Offline, true, 10_000);
        assert_eq!(progress.wake(true), Some(10_100), "what is not wanted any more wakes nobody");
        progress.replan(info("7", None), 10_000);
        progress.due(10_000);
        progress.wrote(&writes[0], 10_001);
        assert_eq!(progress.due(10_001), Due { collect: vec![1], report: vec![1] }, "read back at once");
        assert!(progress.writes(50_000).0.is_empty());
        progress.closed(State::Offline);
        progress.opened(60_000);
        assert!(progress.writes(60_000).0.is_empty(), "not again when the device comes back");
        progress.replan(info("8", None), 60_001);
        assert_eq!(progress.writes(60_001).0.len(), 1);
    }

    #[test]
    fn what_may_not_be_written_is_said_once() {
        let mut progress = Progress::new(info("51", None), 0);
        let (writes, complaints) = progress.writes(0);
        assert!(writes.is_empty());
        assert_eq!(complaints, ["desired value of set: 51 is above the maximum 50"]);
        assert_eq!(progress.writes(1_000_000), (vec![], vec![]));
        progress.replan(info("hot", None), 1_000_001);
        assert_eq!(progress.writes(1_000_001).1, ["desired value of set: \"hot\" is not of type INT"]);
    }

    #[test]
    fn values_are_reported_once_and_kept_until_they_are_stored() {
        let mut progress = Progress::new(info("7", None), 0);
        assert!(progress.report(&[0, 1]).is_empty(), "nothing was read");
        assert_eq!(progress.collected(0, Ok(Value::Int(1)), 1_000), None);
        assert_eq!(progress.collected(1, Ok(Value::Int(2)), 1_000), None);
        let twins = progress.report(&[0]);
        assert_eq!(values(&twins), ["t=1/"]);
        assert_eq!(values(&progress.report(&[0, 1])), ["t=1/", "set=2/"], "not stored yet");
        // A newer value comes while the report is under way.
        progress.collected(0, Ok(Value::Int(3)), 2_000);
        progress.reported(&twins);
        assert_eq!(values(&progress.report(&[0])), ["t=3/"]);
        progress.reported(&progress.report(&[0]));
        assert!(progress.report(&[0]).is_empty());
        progress.tell_again(5);
        assert_eq!(values(&progress.report(&[0, 1])), ["t=3/", "set=2/"]);
    }

    #[test]
    fn a_bad_value_is_complained_of_once_and_makes_the_device_unhealthy() {
        let mut progress = Progress::new(info("7", None), 0);
        progress.opened(0);
        assert_eq!(progress.state_due(0), Some(State::Online));
        progress.state_told(State::Online, true, 0);
        let complaint = progress.collected(0, Ok(Value::Int(51)), 1).unwrap();
        assert_eq!(complaint, "t: 51 is above the maximum 50");
        assert_eq!(progress.collected(0, Ok(Value::Int(52)), 2), None);
        assert_eq!(progress.collected(1, Ok(Value::Int(5)), 2), None);
        assert_eq!(progress.state_due(3), Some(State::Unhealthy), "one bad property is enough");
        assert!(progress.report(&[0]).is_empty());
        progress.state_told(State::Unhealthy, false, 3);
        assert_eq!(
            (progress.state_due(4), progress.wake(false)),
            (None, Some(1_003)),
            "not taken: a second later"
        );
        progress.collected(0, Ok(Value::Int(50)), 5);
        assert_eq!(progress.state_due(1_003), Some(State::Online));
    }

    #[test]
    fn a_state_is_told_on_change_and_on_its_cycle() {
        let mut quiet = Progress::new(info("7", None), 0);
        quiet.opened(0);
        quiet.state_told(State::Online, true, 0);
        assert_eq!((quiet.state_due(1_000_000), quiet.wake(false)), (None, None));
        let mut cyclic = Progress::new(info("7", Some(5_000)), 0);
        cyclic.opened(0);
        cyclic.state_told(State::Online, true, 0);
        assert_eq!((cyclic.state_due(4_999), cyclic.state_due(5_000)), (None, Some(State::Online)));
        cyclic.closed(State::Offline);
        assert_eq!(cyclic.state_due(1), Some(State::Offline), "a change does not wait for the cycle");
    }

    proptest! {
        /// Whatever edgecore takes or not, it ends with the last good value of the property.
        #[test]
        fn edgecore_ends_with_the_last_good_value(steps in prop::collection::vec((0_i64..80, any::<bool>(), any::<bool>()), 1..40)) {
            let mut progress = Progress::new(info("7", None), 0);
            let (mut stored, mut good) = (None, None);
            for (wall, (value, reports, takes)) in (1..).zip(steps) {
                progress.collected(0, Ok(Value::Int(value)), wall);
                good = if value <= 50 { Some(value.to_string()) } else { good };
                if reports {
                    let twins = progress.report(&[0]);
                    if takes {
                        stored = twins.first().map(|twin| twin.reported.clone().unwrap().value).or(stored);
                        progress.reported(&twins);
                    }
                }
            }
            let twins = progress.report(&[0]);
            stored = twins.first().map(|twin| twin.reported.clone().unwrap().value).or(stored);
            prop_assert_eq!(stored, good);
        }
    }
}
