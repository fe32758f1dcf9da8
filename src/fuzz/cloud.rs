//! What the cloud gets: messages of nodes, objects of its watches, files of manifests.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::kube::now;
use super::{json, parts, text};
use crate::actors::cloud::cloud_hub::token_use;
use crate::actors::cloud::device_controller::report;
use crate::actors::cloud::device_controller::status::Status;
use crate::actors::cloud::edge_controller::answer::{answers, not_understood};
use crate::actors::cloud::edge_controller::plan::{plan, singles};
use crate::actors::cloud::identity_controller::{document, ledger, sources};
use crate::actors::cloud::manifests::read::{File, read};
use crate::actors::cloud::node_monitor::judge;
use crate::actors::cloud::scheduler::place::{Room, explain, place};
use crate::actors::cloud::scheduler::view;
use crate::actors::cloud::sync_controller::compare::compare;
use crate::actors::cloud::sync_controller::listing::Listing;
use crate::console::view as page;
use crate::console::watched::{Resource, Watched, Watches};
use crate::model::{NodeName, Status as ApiStatus};
use crate::wire::frame;

fn edge() -> NodeName {
    NodeName::parse("edge-1").expect("a name")
}

/// Messages of a node, each after a zero byte. Whatever it asks for, it asks for itself, and what is answered can be sent.
pub fn message(bytes: &[u8]) {
    let (node, mut listing) = (edge(), Listing::default());
    for part in parts(bytes, 12) {
        let Ok(envelope) = frame::decode(part, 1 << 20) else { continue };
        drop(report::read(&envelope));
        if let Ok(Some(held)) = listing.add(&envelope.body) {
            let differences = compare(&held, &held);
            drop(format!("{differences:?}"));
            compare(&[], &held);
        }
        for single in singles(envelope).into_iter().take(100) {
            let Ok(plan) = plan(&node, &single) else {
                if let Some(answer) = not_understood(&single, 1) {
                    frame::encode(&answer).expect("an answer");
                }
                continue;
            };
            for call in &plan.calls {
                assert!(!call.path.contains("/../") && !call.path.contains("//"), "{call:?}");
            }
            for result in [Ok(Value::Null), Err(Box::new(ApiStatus::default()))] {
                for answer in answers(&single, plan.shape, result, 1) {
                    frame::encode(&answer).expect("an answer");
                }
            }
        }
    }
}

/// A DeviceStatus of the API and another, after a zero byte: joining does not depend on the order, and a patch of what is there
/// already is none.
pub fn device_status(bytes: &[u8]) {
    let all: Vec<Value> = parts(bytes, 3).filter_map(json).collect();
    let read: Vec<Status> = all.iter().map(Status::read).collect();
    let join = |order: &[usize]| {
        let mut joined = Status::default();
        order.iter().filter_map(|at| read.get(*at)).for_each(|status| joined.join(status));
        joined
    };
    let joined = join(&[0, 1, 2]);
    assert_eq!(joined, join(&[2, 0, 1]), "the order does not matter");
    assert_eq!(joined, join(&[0, 1, 2, 1, 0]), "nor how often");
    for status in &read {
        assert!(status.patch(status).is_none(), "nothing changes");
        if let (Some(patch), Some(object)) = (joined.patch(status), all.first()) {
            let mut patched = object.clone();
            crate::kube::patch::merge(&mut patched, &patch);
            drop(Status::read(&patched));
        }
    }
}

/// Files of `apiServer.manifestsDir`, each after a zero byte.
pub fn manifests(bytes: &[u8]) {
    let texts = parts(bytes, 4).filter_map(text);
    let files: Vec<File> = texts
        .enumerate()
        .map(|(at, text)| File { name: format!("{at}.yaml"), text: text.to_owned() })
        .collect();
    let wanted = read(&files);
    for manifest in &wanted.manifests {
        assert!(!manifest.key.name.is_empty() && !manifest.key.kind.is_empty());
        shown(&manifest.object);
    }
}

/// Pods and nodes in any state the API lets them have, each after a zero byte.
pub fn placement(bytes: &[u8]) {
    let objects: Vec<Value> = parts(bytes, 8).filter_map(json).collect();
    let is_node = |object: &&Value| object.get("kind").and_then(Value::as_str) == Some("Node");
    let mut rooms: Vec<Room> = objects
        .iter()
        .filter(is_node)
        .map(|node| Room { node: view::Node::read(node), ..Room::default() })
        .collect();
    for object in &objects {
        let pod = view::Pod::read(object, "default-scheduler");
        match place(&pod, rooms.iter()) {
            Ok(name) => {
                let room =
                    rooms.iter_mut().find(|room| room.node.name == name).expect("a node that is there");
                let before = room.used.clone();
                room.take(&pod);
                room.free(&pod);
                let is_same = room
                    .used
                    .iter()
                    .all(|(what, used)| before.get(what).copied().unwrap_or_default() == *used);
                assert!(is_same, "what is given back is what was taken");
                room.take(&pod);
            }
            Err(reasons) => drop(explain(rooms.len(), &reasons)),
        }
        let node = judge::Node::read(object);
        for heard in [None, Some(now())] {
            judge::judge(&node, heard, now(), now(), jiff::SignedDuration::from_secs(40), now());
        }
        drop((judge::pod_patch(object, true, now()), judge::pod_patch(object, false, now())));
        shown(object);
    }
}

/// An object as the console's page and the identity controller see it.
pub fn shown(object: &Value) {
    drop((page::node(object), page::pod(object), page::key(object)));
    let mut watches = Watches::default();
    for resource in Resource::ALL {
        let mut said = watches.hear(resource, Watched::Listing);
        said.extend(watches.hear(resource, Watched::Applied(object.clone())));
        said.extend(watches.hear(resource, Watched::Listed));
        said.extend(watches.hear(resource, Watched::Removed(object.clone())));
        for change in said {
            serde_json::to_string(&change).expect("the page is told in JSON");
        }
    }
    let data = object.get("data").and_then(Value::as_object);
    let data: sources::Data = data
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    let (revoked, _) = ledger::revocations(&data);
    drop(ledger::bundle_keys(&data, &revoked));
    data.values().for_each(|text| drop(document::lists_of(text)));
    data.values().for_each(|text| drop(token_use::read(text.as_bytes())));
    let _later = Instant::now() + Duration::from_secs(1);
}
