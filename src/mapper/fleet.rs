//! The devices of a mapper: what edgecore tells, one task for each.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;

use super::device::DeviceInfo;
use super::device_task;
use super::driver::Driver;
use super::edge::{Reporter, Session};
use super::pause::pause;
use crate::model::DeviceId;
use crate::wire::dmi::{Device, DeviceMapper, DeviceMessage, DeviceModel, ModelMessage, ObjectName};

/// Devices one mapper serves at most.
const MAX_DEVICES: usize = 10_000;

pub struct Fleet<D> {
    driver: Arc<D>,
    session: watch::Receiver<Session>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    models: BTreeMap<DeviceId, DeviceModel>,
    devices: BTreeMap<DeviceId, Running>,
}

struct Running {
    message: Device,
    info: watch::Sender<Arc<DeviceInfo>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn model_id(device: &Device) -> DeviceId {
    let name = device.spec.as_ref().map(|spec| spec.device_model_reference.clone()).unwrap_or_default();
    DeviceId::new(device.namespace.clone(), name)
}

fn id_of(namespace: &str, name: &str) -> Result<DeviceId, Status> {
    if namespace.is_empty() || name.is_empty() {
        return Err(Status::invalid_argument("name or namespace: is missing"));
    }
    Ok(DeviceId::new(namespace, name))
}

impl<D: Driver> Fleet<D> {
    pub fn new(driver: D, session: watch::Receiver<Session>) -> Self {
        Self { driver: Arc::new(driver), session, state: Mutex::default() }
    }

    /// Makes the fleet what edgecore answered to the registration: devices it does not name go.
    pub fn sync(&self, models: Vec<DeviceModel>, devices: Vec<Device>) {
        let named: BTreeSet<DeviceId> = devices
            .iter()
            .map(|device| DeviceId::new(device.namespace.clone(), device.name.clone()))
            .collect();
        {
            let mut state = self.state.lock();
            state.models.clear();
            state.devices.retain(|id, _| named.contains(id));
        }
        for outcome in models.into_iter().map(|model| self.put_model(model)) {
            log_refusal(outcome);
        }
        for outcome in devices.into_iter().map(|device| self.put_device(device)) {
            log_refusal(outcome);
        }
    }

    fn put_model(&self, model: DeviceModel) -> Result<(), Status> {
        let id = id_of(&model.namespace, &model.name)?;
        let mut state = self.state.lock();
        for running in state.devices.values().filter(|running| model_id(&running.message) == id) {
            tell(running, &running.message, &model);
        }
        state.models.insert(id, model);
        Ok(())
    }

    fn put_device(&self, device: Device) -> Result<(), Status> {
        let id = id_of(&device.namespace, &device.name)?;
        let mut state = self.state.lock();
        let State { models, devices } = &mut *state;
        let Some(model) = models.get(&model_id(&device)) else {
            let name = model_id(&device);
            return Err(Status::failed_precondition(format!(
                "device {id}: model {name} was not created here"
            )));
        };
        if let Some(running) = devices.get_mut(&id) {
            tell(running, &device, model);
            running.message = device;
            return Ok(());
        }
        if devices.len() >= MAX_DEVICES {
            return Err(Status::resource_exhausted(format!(
                "this mapper serves {MAX_DEVICES} devices, no more"
            )));
        }
        let (info, problems) = DeviceInfo::read(&device, model);
        log_problems(&id, &problems);
        tracing::info!(device = %id, properties = info.properties.len(), "device is taken");
        let (info, news) = watch::channel(Arc::new(info));
        let reporter = Reporter::new(id.clone(), self.session.clone());
        let task = tokio::spawn(guarded(Arc::clone(&self.driver), news, reporter));
        devices.insert(id, Running { message: device, info, task });
        Ok(())
    }
}

/// A driver that panics costs its device a pause, not the mapper its other devices.
async fn guarded<D: Driver>(driver: Arc<D>, news: watch::Receiver<Arc<DeviceInfo>>, reporter: Reporter) {
    let mut failures = 0;
    loop {
        let work = device_task::work(Arc::clone(&driver), news.clone(), reporter.clone());
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            tracing::error!(device = %news.borrow().id, "the driver panicked; the device is opened again");
        }
        tokio::time::sleep(pause(failures, fastrand::f64())).await;
        failures = failures.saturating_add(1);
    }
}

fn tell(running: &Running, device: &Device, model: &DeviceModel) {
    let (info, problems) = DeviceInfo::read(device, model);
    if **running.info.borrow() == info {
        return;
    }
    log_problems(&info.id, &problems);
    running.info.send_replace(Arc::new(info));
}

fn log_problems(id: &DeviceId, problems: &[String]) {
    for problem in problems {
        tracing::warn!(device = %id, error = %problem, "part of the device is not served");
    }
}

fn log_refusal(outcome: Result<(), Status>) {
    if let Err(status) = outcome {
        tracing::warn!(error = status.message(), "a device or model that edgecore listed is not taken");
    }
}

impl<D: Driver> DeviceMapper for Fleet<D> {
    async fn register_device(&self, request: DeviceMessage) -> Result<ObjectName, Status> {
        let device = request.device.ok_or_else(|| Status::invalid_argument("device: is missing"))?;
        let named = ObjectName { name: device.name.clone(), namespace: device.namespace.clone() };
        self.put_device(device).map(|()| named)
    }

    async fn update_device(&self, request: DeviceMessage) -> Result<(), Status> {
        let device = request.device.ok_or_else(|| Status::invalid_argument("device: is missing"))?;
        let id = id_of(&device.namespace, &device.name)?;
        if !self.state.lock().devices.contains_key(&id) {
            return Err(Status::not_found(format!("device {id} was not registered here")));
        }
        self.put_device(device)
    }

    async fn remove_device(&self, request: ObjectName) -> Result<(), Status> {
        let id = id_of(&request.namespace, &request.name)?;
        if self.state.lock().devices.remove(&id).is_some() {
            tracing::info!(device = %id, "device is given back");
        }
        Ok(())
    }

    async fn get_device(&self, request: ObjectName) -> Result<DeviceMessage, Status> {
        let id = id_of(&request.namespace, &request.name)?;
        let found = self.state.lock().devices.get(&id).map(|running| running.message.clone());
        let device =
            found.ok_or_else(|| Status::not_found(format!("device {id} was not registered here")))?;
        Ok(DeviceMessage { device: Some(device) })
    }

    async fn create_model(&self, request: ModelMessage) -> Result<ObjectName, Status> {
        let model = request.model.ok_or_else(|| Status::invalid_argument("model: is missing"))?;
        let named = ObjectName { name: model.name.clone(), namespace: model.namespace.clone() };
        self.put_model(model).map(|()| named)
    }

    async fn update_model(&self, request: ModelMessage) -> Result<(), Status> {
        self.create_model(request).await.map(drop)
    }

    async fn remove_model(&self, request: ObjectName) -> Result<(), Status> {
        let id = id_of(&request.namespace, &request.name)?;
        self.state.lock().models.remove(&id);
        Ok(())
    }
}
