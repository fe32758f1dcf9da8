//! Who talks to whom on an edge.

use crate::actors::edge::console_feed::FeedLinks;
use crate::actors::edge::device_twin::{self, DeviceTwin, TwinLinks};
use crate::actors::edge::dmi::{self, Dmi, DmiLinks};
use crate::actors::edge::edge_hub::{EdgeHub, HubLinks};
use crate::actors::edge::edged::{self, Edged};
use crate::actors::edge::event_bus::EventBus;
use crate::actors::edge::identity::{self, Identity, IdentityLinks};
use crate::actors::edge::meta_manager::{DeviceLinks, MetaLinks, MetaManager};
use crate::bus::Link;
use crate::bus::event_bus::NotPublished;
use crate::bus::identity::AuditFact;
use crate::supervise::{Slot, Tree};

/// The actors of an edge before they are built. The numbers are the most messages that wait for one.
pub(super) struct Slots {
    pub pods: Slot<Edged>,
    pub meta: Slot<MetaManager>,
    pub twin: Slot<DeviceTwin>,
    pub dmi: Slot<Dmi>,
    pub hub: Slot<EdgeHub>,
    pub identity: Slot<Identity>,
    /// `None` without `modules.eventBus.enable`.
    pub bus: Option<Slot<EventBus>>,
}

impl Slots {
    pub fn declare(tree: &mut Tree, with_bus: bool) -> Self {
        Self {
            pods: tree.slot(edged::NAME, 4_096),
            meta: tree.slot("MetaManager", 1_024),
            twin: tree.slot(device_twin::NAME, 4_096),
            dmi: tree.slot(dmi::NAME, 4_096),
            hub: tree.slot("EdgeHub", 1_024),
            identity: tree.slot(identity::NAME, 1_024),
            bus: with_bus.then(|| tree.slot("EventBus", 1_024)),
        }
    }

    /// Whom the console asks.
    pub fn shown(&self) -> FeedLinks {
        FeedLinks {
            running: self.pods.link(),
            values: self.twin.link(),
            devices: self.meta.link(),
            events: self.meta.link(),
        }
    }
}

/// What each actor may tell and ask the others. EventBus has its own beside where it is built.
pub(super) struct Links {
    pub pods: edged::MetaLinks,
    pub meta: MetaLinks,
    pub twin: TwinLinks,
    pub dmi: DmiLinks,
    pub hub: HubLinks,
    pub identity: IdentityLinks,
}

impl Links {
    /// `record` leads to the audit log.
    pub fn between(slots: &Slots, record: &Link<AuditFact>) -> Self {
        let Slots { pods, meta, twin, dmi, hub, identity, bus } = slots;
        Self {
            pods: edged::MetaLinks {
                list_pods: meta.link(),
                get_object: meta.link(),
                get_token: meta.link(),
                report_pod_status: meta.link(),
                confirm_pod_deleted: meta.link(),
                register_node: meta.link(),
                patch_node_status: meta.link(),
                renew_lease: meta.link(),
                report_event: meta.link(),
            },
            meta: MetaLinks {
                request: hub.link(),
                send: hub.link(),
                pod_changed: pods.link(),
                pod_removed: pods.link(),
                config_changed: pods.link(),
                node_changed: pods.link(),
                cloud_reachable: pods.link(),
                twin_link_changed: twin.link(),
                twin_report_anew: twin.link(),
                twin: DeviceLinks {
                    device_changed: twin.link(),
                    device_removed: twin.link(),
                    model_changed: twin.link(),
                    model_removed: twin.link(),
                },
                dmi: DeviceLinks {
                    device_changed: dmi.link(),
                    device_removed: dmi.link(),
                    model_changed: dmi.link(),
                    model_removed: dmi.link(),
                },
                edge_identity_changed: identity.link(),
            },
            twin: TwinLinks {
                list_devices: meta.link(),
                send: hub.link(),
                publish: bus.as_ref().map_or_else(|| Link::from_fn(|_| Err(no_broker())), Slot::link),
                members_changed: bus.as_ref().map_or_else(|| Link::from_fn(|_| ()), Slot::link),
                desired_changed: dmi.link(),
            },
            dmi: DmiLinks {
                list_devices: meta.link(),
                list_desired: twin.link(),
                report_twins: twin.link(),
                report_state: twin.link(),
                report_event: meta.link(),
            },
            hub: HubLinks {
                apply: meta.link(),
                link_changed: meta.link(),
                twin: twin.link(),
                audit: record.clone(),
            },
            identity: IdentityLinks {
                get_object: meta.link(),
                roots_changed: hub.link(),
                audit: record.clone(),
            },
        }
    }
}

/// What DeviceTwin is told when it publishes.
fn no_broker() -> NotPublished {
    NotPublished("modules.eventBus.enable is false".to_owned())
}
