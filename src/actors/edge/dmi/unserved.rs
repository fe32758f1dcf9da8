//! Devices whose protocol nobody serves: said once, and again after it was well meanwhile. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::DeviceId;

/// How long a device may wait for its mapper before somebody is told.
const GRACE: Duration = Duration::from_secs(30);
/// Most complaints at a time; the rest follows.
const AT_ONCE: usize = 20;

#[derive(Debug, Default)]
pub struct Unserved {
    waiting: BTreeMap<DeviceId, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    protocol: String,
    since: Instant,
    is_told: bool,
}

impl Unserved {
    /// Looks at all devices without a mapper, each with its protocol; returns those to complain of.
    pub fn look(
        &mut self,
        devices: impl Iterator<Item = (DeviceId, String)>,
        now: Instant,
    ) -> Vec<(DeviceId, String)> {
        let mut before = std::mem::take(&mut self.waiting);
        let mut complaints = Vec::new();
        for (id, protocol) in devices {
            let known = before.remove(&id).filter(|waiting| waiting.protocol == protocol);
            let mut waiting =
                known.unwrap_or_else(|| Waiting { protocol: protocol.clone(), since: now, is_told: false });
            let due = !waiting.is_told && now.saturating_duration_since(waiting.since) >= GRACE;
            if due && complaints.len() < AT_ONCE {
                waiting.is_told = true;
                complaints.push((id.clone(), protocol));
            }
            self.waiting.insert(id, waiting);
        }
        complaints
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_is_complained_of_once_after_its_grace() {
        let start = Instant::now();
        let device = |name: &str, protocol: &str| (DeviceId::new("default", name), protocol.to_owned());
        let mut unserved = Unserved::default();
        let mut look = |devices: Vec<(DeviceId, String)>, secs: u64| {
            let found = unserved.look(devices.into_iter(), start + Duration::from_secs(secs));
            found.iter().map(|(id, protocol)| format!("{id} {protocol}")).collect::<Vec<_>>()
        };
        assert!(look(vec![device("a", "modbus")], 0).is_empty());
        assert!(look(vec![device("a", "modbus"), device("b", "ble")], 29).is_empty());
        assert_eq!(look(vec![device("a", "modbus"), device("b", "ble")], 30), ["default/a modbus"]);
        assert_eq!(look(vec![device("a", "modbus"), device("b", "ble")], 59), ["default/b ble"]);
        assert!(look(vec![device("a", "modbus")], 100).is_empty(), "said before");
        assert!(look(vec![], 101).is_empty());
        assert!(look(vec![device("a", "modbus")], 102).is_empty(), "a new grace");
        assert_eq!(look(vec![device("a", "modbus")], 132), ["default/a modbus"]);
        assert!(look(vec![device("a", "other")], 133).is_empty(), "another protocol is another wait");
        let many: Vec<_> = (0..50).map(|n| device(&format!("d{n}"), "x")).collect();
        assert!(look(many.clone(), 200).is_empty());
        assert_eq!((look(many.clone(), 230).len(), look(many.clone(), 231).len()), (20, 20));
        assert_eq!((look(many.clone(), 232).len(), look(many, 233).len()), (10, 0));
        assert_eq!(unserved.len(), 50);
    }
}
