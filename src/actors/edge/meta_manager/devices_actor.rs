//! MetaManager and the two who act on devices: DeviceTwin and Dmi. Each is told on its own, so that
//! one with a full mailbox delays neither the other nor the pods.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::prelude::*;
use serde_json::Value;

use super::MetaManager;
use super::objects::{DeviceNotice, Notice};
use crate::bus::device_twin::{
    DeviceChanged, DeviceObjects, DeviceRemoved, ListDevices, ModelChanged, ModelRemoved,
};
use crate::bus::meta::MetaError;
use crate::bus::{Link, LinkError};

/// The way to one who acts on devices.
#[derive(Clone)]
pub struct DeviceLinks {
    pub device_changed: Link<DeviceChanged>,
    pub device_removed: Link<DeviceRemoved>,
    pub model_changed: Link<ModelChanged>,
    pub model_removed: Link<ModelRemoved>,
}

impl DeviceLinks {
    fn tell(&self, notice: DeviceNotice) -> Result<(), LinkError> {
        match notice {
            DeviceNotice::DeviceChanged(device) => self.device_changed.tell(DeviceChanged(device)),
            DeviceNotice::DeviceRemoved(device) => self.device_removed.tell(DeviceRemoved(device)),
            DeviceNotice::ModelChanged(model) => self.model_changed.tell(ModelChanged(model)),
            DeviceNotice::ModelRemoved { namespace, name } => {
                self.model_removed.tell(ModelRemoved { namespace, name })
            }
        }
    }
}

/// One of them, and what it was not told yet.
pub struct Listener {
    links: DeviceLinks,
    untold: VecDeque<DeviceNotice>,
}

impl Listener {
    pub fn new(links: DeviceLinks) -> Self {
        Self { links, untold: VecDeque::new() }
    }

    /// In order; what finds a full mailbox is told again later.
    pub fn tell(&mut self) {
        while let Some(notice) = self.untold.front() {
            if let Err(LinkError::Full { .. }) = self.links.tell(notice.clone()) {
                return;
            }
            self.untold.pop_front();
        }
    }

    /// What waits is bounded by the objects there are: a later change of one says it all, only the
    /// removal between two lives of a name must be seen.
    fn keep(&mut self, notice: DeviceNotice) {
        self.untold.retain(|older| !notice.replaces(older));
        self.untold.push_back(notice);
    }

    pub fn clear(&mut self) {
        self.untold.clear();
    }
}

impl MetaManager {
    /// Puts notices where they wait to be told.
    pub(super) fn keep_notices(&mut self, notices: impl IntoIterator<Item = Notice>) {
        for notice in notices {
            match notice {
                Notice::Device(notice) => {
                    for listener in &mut self.listeners {
                        listener.keep(notice.clone());
                    }
                }
                notice => {
                    self.untold.retain(|older| !notice.replaces(older));
                    self.untold.push_back(notice);
                }
            }
        }
    }

    fn stored(&self, kind: &str) -> Result<Vec<Arc<Value>>, MetaError> {
        let mut objects = Vec::new();
        for key in self.index.of_kind(kind) {
            // Indexed but not there: its write is under way, and the notice follows it.
            objects.extend(self.read(key)?.map(Arc::new));
        }
        Ok(objects)
    }
}

impl Handler<ListDevices> for MetaManager {
    type Result = Result<DeviceObjects, MetaError>;

    fn handle(&mut self, _: ListDevices, _: &mut Context<Self>) -> Self::Result {
        self.check()?;
        Ok(DeviceObjects { models: self.stored("devicemodel")?, devices: self.stored("device")? })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::model::DeviceId;

    #[test]
    fn what_waits_for_a_full_mailbox_is_the_latest_of_each_object() {
        let device = |name: &str, version: &str| {
            let meta = json!({"namespace": "default", "name": name, "resourceVersion": version});
            DeviceNotice::DeviceChanged(Arc::new(json!({ "metadata": meta })))
        };
        let told = Arc::new(Mutex::new(Vec::new()));
        let (changed, removed) = (Arc::clone(&told), Arc::clone(&told));
        let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let mut listener = Listener::new(DeviceLinks {
            device_changed: Link::from_fn(move |DeviceChanged(object)| {
                changed.lock().unwrap().push(version(&object));
            }),
            device_removed: Link::from_fn(move |DeviceRemoved(id)| {
                removed.lock().unwrap().push(format!("-{}", id.name));
            }),
            model_changed: Link::from_fn(|_| ()),
            model_removed: Link::from_fn(|_| ()),
        });
        for round in 1..=100 {
            listener.keep(device("a", &round.to_string()));
            listener.keep(device("b", &(1000 + round).to_string()));
        }
        listener.keep(DeviceNotice::DeviceRemoved(DeviceId::new("default", "a")));
        listener.keep(device("a", "200"));
        assert_eq!(listener.untold.len(), 3);
        listener.tell();
        assert_eq!(*told.lock().unwrap(), ["1100", "-a", "200"]);
    }

    #[test]
    fn of_a_pod_that_changes_on_and_on_one_notice_waits() {
        let changed = |uid: &str, version: u32| {
            Notice::PodChanged(Arc::new(
                json!({"metadata": {"uid": uid, "resourceVersion": version.to_string()}}),
            ))
        };
        let removed = |uid: &str| Notice::PodRemoved {
            namespace: "default".to_owned(),
            name: "pod".to_owned(),
            uid: uid.to_owned(),
        };
        let config = |name: &str| Notice::ConfigChanged {
            kind: "secret".to_owned(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
        };
        for (new, old, want) in [
            (changed("a", 2), changed("a", 1), true),
            (changed("b", 2), changed("a", 1), false),
            (removed("a"), changed("a", 1), true),
            (removed("a"), removed("a"), true),
            (changed("b", 1), removed("a"), false),
            (config("s"), config("s"), true),
            (config("t"), config("s"), false),
            (Notice::EdgeIdentity(None), Notice::EdgeIdentity(None), true),
            (Notice::EdgeIdentity(None), removed("a"), false),
        ] {
            assert_eq!(new.replaces(&old), want, "{new:?} after {old:?}");
        }
    }
}
