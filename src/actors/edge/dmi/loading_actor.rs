//! What Dmi must know before it tells mappers anything: the objects, and which desired values are
//! in force.

use std::time::Duration;

use actix::prelude::*;

use super::{ASK_DEADLINE, Dmi};
use crate::bus::device_twin::{DeviceObjects, ListDesired, ListDevices};

const ASK_RETRY: Duration = Duration::from_secs(1);
/// So long mappers wait at a start for DeviceTwin to say which desired values are in force: nobody
/// should see an actuator go to an old value and back.
const SETTLE: Duration = Duration::from_secs(30);

impl Dmi {
    /// Asks for everything that is stored, until it is answered.
    pub(super) fn ask_devices(&mut self, ctx: &mut Context<Self>) {
        let link = self.links.list_devices.clone();
        let asked = async move { link.ask(ListDevices, ASK_DEADLINE).await };
        ctx.spawn(asked.into_actor(self).map(|answer, dmi, ctx| {
            let why = match answer {
                Ok(Ok(objects)) => return dmi.take_listing(objects, ctx),
                Ok(Err(err)) => err.to_string(),
                Err(err) => err.to_string(),
            };
            tracing::debug!(error = %why, "stored devices are not known yet");
            ctx.run_later(ASK_RETRY, Self::ask_devices);
        }));
    }

    pub(super) fn take_listing(&mut self, objects: DeviceObjects, ctx: &mut Context<Self>) {
        let newer = self.changed_early.take().unwrap_or_default();
        for object in objects.models {
            self.put(&object, true, |key| !newer.contains(key));
        }
        for object in objects.devices {
            self.put(&object, false, |key| !newer.contains(key));
        }
        self.complain_of_objects();
        self.ask_desired(ctx);
        ctx.run_later(SETTLE, Self::settle);
    }

    /// Asks DeviceTwin for the desired values in force, until it is answered.
    pub(super) fn ask_desired(&mut self, ctx: &mut Context<Self>) {
        let link = self.links.list_desired.clone();
        let asked = async move { link.ask(ListDesired, ASK_DEADLINE).await };
        ctx.spawn(asked.into_actor(self).map(|answer, dmi, ctx| {
            let why = match answer {
                Ok(Ok(all)) => {
                    let newer = std::mem::take(&mut dmi.desired_early);
                    for told in all.into_iter().filter(|told| !newer.contains(&told.device)) {
                        let touched = dmi.catalog.put_desired(told.device, told.desired);
                        dmi.spread_news(touched, ctx);
                    }
                    dmi.settle(ctx);
                    return;
                }
                Ok(Err(err)) => err.to_string(),
                Err(err) => err.to_string(),
            };
            tracing::debug!(error = %why, "desired values are not known yet");
            ctx.run_later(ASK_RETRY, Self::ask_desired);
        }));
    }

    /// From here on mappers are told.
    pub(super) fn settle(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let protocols: Vec<String> = self.mappers.keys().cloned().collect();
        for protocol in protocols {
            self.mark_all(&protocol);
            self.dial(&protocol, ctx);
        }
        for (register, answer) in std::mem::take(&mut self.early) {
            self.register(register, answer, ctx);
        }
    }
}
