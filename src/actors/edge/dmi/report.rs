//! What mappers report, in DeviceTwin's words. Pure.

use std::collections::BTreeMap;

use crate::bus::device_twin::{MapperReport, ReportState, ReportTwins};
use crate::model::DeviceId;
use crate::wire::dmi::{ReportDeviceStatesRequest, ReportDeviceStatusRequest};

fn device(namespace: String, name: String) -> Result<DeviceId, String> {
    for (field, text) in [("deviceName", &name), ("deviceNamespace", &namespace)] {
        if text.is_empty() {
            return Err(format!("{field}: is missing"));
        }
        if text.contains('/') {
            return Err(format!("{field}: {text:?} contains a slash"));
        }
    }
    Ok(DeviceId::new(namespace, name))
}

/// Values. A desired value that was observed as empty means none was.
///
/// # Errors
/// Names the field that is wrong.
pub fn twins(request: ReportDeviceStatusRequest) -> Result<ReportTwins, String> {
    let device = device(request.device_namespace, request.device_name)?;
    let twins = request.reported_device.map(|status| status.twins).unwrap_or_default();
    if twins.is_empty() {
        return Err("reportedDevice.twins: is empty".to_owned());
    }
    let mut reports = BTreeMap::new();
    for (index, twin) in twins.into_iter().enumerate() {
        let name = twin.property_name;
        if name.is_empty() {
            return Err(format!("reportedDevice.twins[{index}].propertyName: is missing"));
        }
        let observed = twin.observed_desired.map(|property| property.value).filter(|value| !value.is_empty());
        let reported = twin.reported.map(|property| property.value);
        if reported.is_none() && observed.is_none() {
            return Err(format!(
                "reportedDevice.twins[{index}] ({name}): neither reported nor observedDesired"
            ));
        }
        let report = MapperReport { reported, observed_desired: observed };
        if reports.insert(name.clone(), report).is_some() {
            return Err(format!("reportedDevice.twins[{index}] ({name}): reported twice"));
        }
    }
    Ok(ReportTwins { device, twins: reports })
}

/// A state.
///
/// # Errors
/// Names the field that is wrong.
pub fn state(request: ReportDeviceStatesRequest) -> Result<ReportState, String> {
    let device = device(request.device_namespace, request.device_name)?;
    if request.state.is_empty() {
        return Err("state: is missing".to_owned());
    }
    Ok(ReportState { device, state: request.state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dmi::{DeviceStatus, Twin, TwinProperty};

    fn twin(name: &str, observed: Option<&str>, reported: Option<&str>) -> Twin {
        let property = |value: &str| TwinProperty { value: value.to_owned(), ..Default::default() };
        Twin {
            property_name: name.to_owned(),
            observed_desired: observed.map(property),
            reported: reported.map(property),
        }
    }

    fn request(twins: Vec<Twin>) -> ReportDeviceStatusRequest {
        ReportDeviceStatusRequest {
            device_name: "sensor-1".to_owned(),
            device_namespace: "default".to_owned(),
            reported_device: Some(DeviceStatus { twins, ..Default::default() }),
        }
    }

    #[test]
    fn values_and_observed_desires_are_kept_apart() {
        let report = twins(request(vec![
            twin("a", Some("2"), Some("1")),
            twin("b", Some(""), Some("")),
            twin("c", Some("3"), None),
        ]))
        .unwrap();
        assert_eq!(report.device, DeviceId::new("default", "sensor-1"));
        let of = |reported: Option<&str>, observed: Option<&str>| MapperReport {
            reported: reported.map(str::to_owned),
            observed_desired: observed.map(str::to_owned),
        };
        assert_eq!(report.twins["a"], of(Some("1"), Some("2")));
        assert_eq!(report.twins["b"], of(Some(""), None));
        assert_eq!(report.twins["c"], of(None, Some("3")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (change, want) in [
            (request(vec![]), "reportedDevice.twins: is empty"),
            (request(vec![twin("", None, Some("1"))]), "reportedDevice.twins[0].propertyName: is missing"),
            (
                request(vec![twin("a", None, Some("1")), twin("b", Some(""), None)]),
                "reportedDevice.twins[1] (b): neither reported nor observedDesired",
            ),
            (
                request(vec![twin("a", None, Some("1")), twin("a", None, Some("2"))]),
                "reportedDevice.twins[1] (a): reported twice",
            ),
            (
                ReportDeviceStatusRequest { device_namespace: String::new(), ..request(vec![]) },
                "deviceNamespace: is missing",
            ),
            (
                ReportDeviceStatusRequest { device_name: "a/b".to_owned(), ..request(vec![]) },
                "deviceName: \"a/b\" contains a slash",
            ),
        ] {
            assert_eq!(twins(change).unwrap_err(), want);
        }
        let nothing = ReportDeviceStatesRequest {
            device_name: "d".to_owned(),
            device_namespace: "n".to_owned(),
            state: String::new(),
        };
        assert_eq!(state(nothing).unwrap_err(), "state: is missing");
    }
}
