//! What DeviceTwin takes: news of objects, requests, the cloud's messages.

use actix::prelude::*;

use super::{DeviceTwin, MAX_WAITING, News, now};
use crate::bus::device_twin::{
    DesiredChanged, DeviceChanged, DeviceMessage, DeviceRemoved, DeviceValues, FromCloud, ListDesired,
    ListValues, ModelChanged, ModelRemoved, NotTaken, ReportAnew, ReportRejected, ReportState, ReportTwins,
};
use crate::bus::edge_hub::CloudLinkChanged;

crate::handles!(
    DeviceTwin: FromCloud, CloudLinkChanged, DeviceChanged, DeviceRemoved, ModelChanged, ModelRemoved,
    DeviceMessage, ReportTwins, ReportState, ReportAnew, ListDesired, ListValues,
);

impl Handler<FromCloud> for DeviceTwin {
    type Result = ();

    fn handle(&mut self, FromCloud(message): FromCloud, ctx: &mut Context<Self>) {
        self.core.cloud_message(&message, now(), fastrand::f64());
        self.write(false, ctx);
    }
}

impl Handler<CloudLinkChanged> for DeviceTwin {
    type Result = ();

    fn handle(&mut self, msg: CloudLinkChanged, ctx: &mut Context<Self>) {
        if msg.session < self.link.session {
            return;
        }
        self.link = msg;
        self.core.link_changed(msg.connected, now());
        self.write(false, ctx);
    }
}

impl Handler<ReportAnew> for DeviceTwin {
    type Result = ();

    fn handle(&mut self, _: ReportAnew, ctx: &mut Context<Self>) {
        self.news(News::Anew, ctx);
    }
}

impl DeviceTwin {
    fn news(&mut self, news: News, ctx: &mut Context<Self>) {
        if self.closed.is_none() {
            self.apply(news);
            self.write(false, ctx);
        } else if self.early.len() < MAX_WAITING {
            self.early.push(news);
        } else {
            self.early.clear();
            self.early_lost = true;
        }
    }

    /// Decides on news; the caller writes.
    pub(super) fn apply(&mut self, news: News) {
        match news {
            News::Device(object) => self.core.device_changed(&object, now()),
            News::NoDevice(device) => self.core.device_removed(&device, now()),
            News::Model(object) => self.core.model_changed(&object, now()),
            News::NoModel { namespace, name } => self.core.model_removed(&namespace, &name),
            News::Anew => self.core.report_anew(now()),
        }
    }
}

impl Handler<DeviceChanged> for DeviceTwin {
    type Result = ();

    fn handle(&mut self, DeviceChanged(object): DeviceChanged, ctx: &mut Context<Self>) {
        self.news(News::Device(object), ctx);
    }
}

impl Handler<DeviceRemoved> for DeviceTwin {
    type Result = ();

    fn handle(&mut self, DeviceRemoved(device): DeviceRemoved, ctx: &mut Context<Self>) {
        self.news(News::NoDevice(device), ctx);
    }
}

impl Handler<ModelChanged> for DeviceTwin {
    type Result = ();

    fn handle(&mut self, ModelChanged(object): ModelChanged, ctx: &mut Context<Self>) {
        self.news(News::Model(object), ctx);
    }
}

impl Handler<ModelRemoved> for DeviceTwin {
    type Result = ();

    fn handle(&mut self, ModelRemoved { namespace, name }: ModelRemoved, ctx: &mut Context<Self>) {
        self.news(News::NoModel { namespace, name }, ctx);
    }
}

impl Handler<DeviceMessage> for DeviceTwin {
    type Result = ResponseFuture<Result<(), NotTaken>>;

    fn handle(&mut self, msg: DeviceMessage, ctx: &mut Context<Self>) -> Self::Result {
        if let Err(why) = self.check() {
            return Box::pin(async { Err(NotTaken(why)) });
        }
        self.core.message(&msg.topic, &msg.payload, msg.receipt, now());
        let durable = self.durable(ctx);
        Box::pin(async { durable.await.map_err(NotTaken) })
    }
}

impl DeviceTwin {
    fn answer_mapper(
        &mut self,
        outcome: Result<(), ReportRejected>,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<(), ReportRejected>> {
        if let Err(err) = outcome {
            self.count();
            return Box::pin(async { Err(err) });
        }
        let durable = self.durable(ctx);
        Box::pin(async { durable.await.map_err(ReportRejected::NotStored) })
    }
}

impl Handler<ReportTwins> for DeviceTwin {
    type Result = ResponseFuture<Result<(), ReportRejected>>;

    fn handle(&mut self, msg: ReportTwins, ctx: &mut Context<Self>) -> Self::Result {
        let outcome = self.check().map_err(ReportRejected::NotStored);
        let outcome = outcome.and_then(|()| self.core.mapper_twins(&msg.device, msg.twins, now()));
        self.answer_mapper(outcome, ctx)
    }
}

impl Handler<ReportState> for DeviceTwin {
    type Result = ResponseFuture<Result<(), ReportRejected>>;

    fn handle(&mut self, msg: ReportState, ctx: &mut Context<Self>) -> Self::Result {
        let outcome = self.check().map_err(ReportRejected::NotStored);
        let outcome = outcome.and_then(|()| self.core.mapper_state(&msg.device, &msg.state, now()));
        self.answer_mapper(outcome, ctx)
    }
}

impl Handler<ListDesired> for DeviceTwin {
    type Result = Result<Vec<DesiredChanged>, NotTaken>;

    fn handle(&mut self, _: ListDesired, _: &mut Context<Self>) -> Self::Result {
        self.check().map_err(NotTaken)?;
        let all = self.core.all_desired().into_iter();
        Ok(all.map(|(device, desired)| DesiredChanged { device, desired }).collect())
    }
}

impl Handler<ListValues> for DeviceTwin {
    type Result = Result<Vec<DeviceValues>, NotTaken>;

    fn handle(&mut self, _: ListValues, _: &mut Context<Self>) -> Self::Result {
        // Who only looks does not wait for the disk: a full queue is no reason.
        match &self.closed {
            Some(why) => Err(NotTaken(why.clone())),
            None => Ok(self.core.all_values()),
        }
    }
}
