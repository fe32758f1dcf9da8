//! The values of all devices, for the console. Pure.

use super::device::Held;
use super::twins::Twins;
use crate::bus::device_twin::{DeviceValues, MAX_LISTED_VALUES, PropertyValues};

impl Twins {
    /// What is known of every device, without deleted properties; cut at [`MAX_LISTED_VALUES`].
    #[must_use]
    pub fn all_values(&self) -> Vec<DeviceValues> {
        let mut room = MAX_LISTED_VALUES;
        let mut all = Vec::new();
        for (id, device) in self.devices.iter().take(MAX_LISTED_VALUES) {
            let there = device.properties.iter().filter(|(_, property)| !property.is_deleted());
            let values: Vec<PropertyValues> = there
                .take(room)
                .map(|(name, property)| PropertyValues {
                    property: name.clone(),
                    reported: text(property.actual.as_ref()),
                    reported_ms: property.actual.as_ref().map(|held| held.at_ms).unwrap_or_default(),
                    desired: text(property.expected.as_ref()),
                })
                .collect();
            room = room.saturating_sub(values.len());
            all.push(DeviceValues {
                device: id.clone(),
                state: device.state.clone(),
                last_online: device.last_online.clone(),
                values,
            });
        }
        all
    }
}

fn text(held: Option<&Held>) -> String {
    held.map(|held| held.value.clone()).unwrap_or_default()
}
