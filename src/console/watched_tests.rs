//! What a stream is told, whatever the watches do.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn named(name: &str, more: Value) -> Value {
    let mut object = json!({"metadata": {"namespace": "d", "name": name}});
    for (field, value) in more.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    object
}

fn device(name: &str) -> Value {
    named(name, json!({"spec": {"deviceModelRef": {"name": "m"}, "properties": [{"name": "t"}]}}))
}

fn status(name: &str, value: &str) -> Value {
    named(name, json!({"status": {"twins": [{"propertyName": "t", "reported": {"value": value}}]}}))
}

fn model(unit: &str) -> Value {
    named("m", json!({"spec": {"properties": [{"name": "t", "unit": unit}]}}))
}

fn event(name: &str, second: usize) -> Value {
    named(
        name,
        json!({"lastTimestamp": jiff::Timestamp::from_second(i64::try_from(second).unwrap()).unwrap().to_string()}),
    )
}

/// A page that believes what it hears.
#[derive(Default)]
struct Page {
    items: BTreeMap<(Kind, String), Item>,
    synced: Vec<Kind>,
    trouble: BTreeMap<Kind, String>,
}

impl Page {
    fn hear(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put { item } => drop(self.items.insert((item.kind(), item.key().to_owned()), *item)),
                Change::Gone { kind, key } => assert!(self.items.remove(&(kind, key)).is_some()),
                Change::Synced { kind } => {
                    self.synced.push(kind);
                    self.trouble.remove(&kind);
                }
                Change::Trouble { kind, why } => drop(self.trouble.insert(kind, why)),
                other => panic!("{other:?}"),
            }
        }
    }

    fn twin(&self, name: &str) -> (String, String) {
        match self.items.get(&(Kind::Device, format!("d/{name}"))) {
            Some(Item::Device(view)) => (view.twins[0].reported.clone(), view.twins[0].unit.clone()),
            other => panic!("{other:?}"),
        }
    }
}

fn list(watches: &mut Watches, page: &mut Page, resource: Resource, objects: Vec<Value>) {
    page.hear(watches.hear(resource, Watched::Listing));
    for object in objects {
        page.hear(watches.hear(resource, Watched::Applied(object)));
    }
    page.hear(watches.hear(resource, Watched::Listed));
}

#[test]
fn devices_wait_for_all_three_of_their_objects() {
    let (mut watches, mut page) = (Watches::default(), Page::default());
    list(&mut watches, &mut page, Resource::DeviceStatuses, vec![status("lamp", "1")]);
    list(&mut watches, &mut page, Resource::Devices, vec![device("lamp"), device("fan")]);
    assert!(page.items.is_empty() && page.synced.is_empty());
    list(&mut watches, &mut page, Resource::DeviceModels, vec![model("C")]);
    assert_eq!(page.synced, [Kind::Device]);
    assert_eq!(page.twin("lamp"), ("1".to_owned(), "C".to_owned()));
    assert_eq!(page.twin("fan"), (String::new(), "C".to_owned()));
    // One change is one put; a model's change is one for each device that uses it.
    assert_eq!(watches.hear(Resource::DeviceStatuses, Watched::Applied(status("lamp", "1"))), []);
    let said = watches.hear(Resource::DeviceStatuses, Watched::Applied(status("fan", "2")));
    assert_eq!(said.len(), 1);
    page.hear(said);
    page.hear(watches.hear(Resource::DeviceModels, Watched::Applied(model("F"))));
    assert_eq!((page.twin("lamp").1, page.twin("fan")), ("F".to_owned(), ("2".to_owned(), "F".to_owned())));
    page.hear(watches.hear(Resource::Devices, Watched::Removed(device("fan"))));
    assert!(!page.items.contains_key(&(Kind::Device, "d/fan".to_owned())));
    // The status of a device that is gone is no device.
    assert_eq!(watches.hear(Resource::DeviceStatuses, Watched::Applied(status("fan", "3"))), []);
}

#[test]
fn what_is_forbidden_is_trouble_for_its_kind_alone() {
    let (mut watches, mut page) = (Watches::default(), Page::default());
    list(&mut watches, &mut page, Resource::Pods, vec![named("web", json!({}))]);
    for resource in [Resource::Nodes, Resource::Events, Resource::DeviceModels, Resource::DeviceStatuses] {
        page.hear(watches.hear(resource, Watched::Failed(format!("{resource:?} is forbidden"))));
    }
    assert!(!watches.sees_nodes());
    assert_eq!(page.trouble.keys().copied().collect::<Vec<_>>(), [Kind::Node, Kind::Event]);
    // Devices may be seen, their values not.
    list(&mut watches, &mut page, Resource::Devices, vec![device("lamp")]);
    assert_eq!(page.twin("lamp").0, "");
    assert_eq!(page.trouble.get(&Kind::Device).map(String::as_str), Some("DeviceModels is forbidden"));
    // The same refusal again is no news.
    let again = Watched::Failed("DeviceStatuses is forbidden".to_owned());
    assert_eq!(watches.hear(Resource::DeviceStatuses, again), []);
    list(&mut watches, &mut page, Resource::DeviceModels, vec![model("C")]);
    list(&mut watches, &mut page, Resource::DeviceStatuses, vec![status("lamp", "1")]);
    assert_eq!(page.twin("lamp"), ("1".to_owned(), "C".to_owned()));
    assert!(!page.trouble.contains_key(&Kind::Device));
    list(&mut watches, &mut page, Resource::Nodes, vec![]);
    assert!(watches.sees_nodes());
}

#[test]
fn a_list_after_a_break_forgets_what_went() {
    let (mut watches, mut page) = (Watches::default(), Page::default());
    let pods = |names: &[&str]| names.iter().map(|name| named(name, json!({}))).collect::<Vec<_>>();
    list(&mut watches, &mut page, Resource::Pods, pods(&["a", "b"]));
    page.hear(watches.hear(Resource::Pods, Watched::Failed("away".to_owned())));
    list(&mut watches, &mut page, Resource::Pods, pods(&["b", "c"]));
    let keys: Vec<&str> = page.items.keys().map(|(_, key)| key.as_str()).collect();
    assert_eq!((keys, page.synced.len(), page.trouble.len()), (vec!["d/b", "d/c"], 2, 0));
}

#[test]
fn only_the_newest_events_are_shown() {
    let (mut watches, mut page) = (Watches::default(), Page::default());
    let many = (0..MAX_EVENTS + 50).rev().map(|n| event(&format!("e{n:04}"), n)).collect();
    list(&mut watches, &mut page, Resource::Events, many);
    let first = |page: &Page| page.items.keys().next().map(|(_, key)| key.clone()).unwrap();
    assert_eq!((page.items.len(), first(&page).as_str()), (MAX_EVENTS, "d/e0050"));
    page.hear(watches.hear(Resource::Events, Watched::Applied(event("new", 9_999))));
    assert_eq!((page.items.len(), first(&page).as_str()), (MAX_EVENTS, "d/e0051"));
    // An old one that happens again is new.
    page.hear(watches.hear(Resource::Events, Watched::Applied(event("e0000", 10_000))));
    assert_eq!((page.items.len(), first(&page).as_str()), (MAX_EVENTS, "d/e0000"));
    // What is older than all of them stays out.
    assert_eq!(watches.hear(Resource::Events, Watched::Applied(event("old", 1))), []);
    page.hear(watches.hear(Resource::Events, Watched::Removed(event("new", 9_999))));
    assert_eq!(page.items.len(), MAX_EVENTS - 1);
    page.hear(watches.hear(Resource::Events, Watched::Applied(event("old", 1))));
    assert_eq!(page.items.len(), MAX_EVENTS);
}

#[derive(Debug, Clone)]
enum Step {
    Device(u8, bool),
    Status(u8, Option<u8>),
    Model(Option<u8>),
    /// Nothing is heard of what happens until the next list of this resource.
    Break(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8, any::<bool>()).prop_map(|(name, there)| Step::Device(name, there)),
        (0..3_u8, prop::option::of(0..3_u8)).prop_map(|(name, value)| Step::Status(name, value)),
        prop::option::of(0..3_u8).prop_map(Step::Model),
        (0..3_usize).prop_map(Step::Break),
    ]
}

proptest! {
    /// After every step the page shows the devices that there are, with the values they have.
    #[test]
    fn a_page_shows_what_is(steps in prop::collection::vec(step(), 1..40)) {
        let (mut watches, mut page) = (Watches::default(), Page::default());
        let mut world: BTreeMap<(Resource, String), Value> = BTreeMap::new();
        for resource in Devices::THREE {
            list(&mut watches, &mut page, resource, vec![]);
        }
        for step in steps {
            let (resource, name, object) = match step {
                Step::Device(name, there) => (Resource::Devices, name.to_string(), there.then(|| device(&name.to_string()))),
                Step::Status(name, value) => (
                    Resource::DeviceStatuses,
                    name.to_string(),
                    value.map(|value| status(&name.to_string(), &value.to_string())),
                ),
                Step::Model(unit) => (Resource::DeviceModels, "m".to_owned(), unit.map(|unit| model(&unit.to_string()))),
                Step::Break(which) => {
                    let resource = Devices::THREE[which];
                    page.hear(watches.hear(resource, Watched::Failed("away".to_owned())));
                    let all = world.iter().filter(|((of, _), _)| *of == resource);
                    let all: Vec<Value> = all.map(|(_, object)| object.clone()).collect();
                    list(&mut watches, &mut page, resource, all);
                    continue;
                }
            };
            let said = match &object {
                Some(object) => Watched::Applied(object.clone()),
                None => Watched::Removed(named(&name, json!({}))),
            };
            match object {
                Some(object) => drop(world.insert((resource, name), object)),
                None => drop(world.remove(&(resource, name))),
            }
            page.hear(watches.hear(resource, said));
            let part = |of: Resource, name: &str| world.get(&(of, name.to_owned()));
            let want: Vec<Item> = world
                .iter()
                .filter(|((of, _), _)| *of == Resource::Devices)
                .map(|((_, name), object)| {
                    let model = part(Resource::DeviceModels, "m").map(view::model_part);
                    let status = part(Resource::DeviceStatuses, name).map(view::status_part);
                    Item::Device(view::device(&view::device_part(object), model.as_ref(), status.as_ref()))
                })
                .collect();
            prop_assert_eq!(page.items.values().cloned().collect::<Vec<_>>(), want);
        }
    }
}
