//! Calls to a mapper.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tonic::Code;

use super::lane::{Call, Outcome};
use crate::model::DeviceId;
use crate::telemetry::dmi::DmiMetrics;
use crate::wire::dmi::{self, MapperClient, ObjectName};

/// For each call and each dial.
const DEADLINE: Duration = Duration::from_secs(10);

/// Connects back to a mapper.
///
/// # Errors
/// In words, when nobody serves there.
pub async fn dial(path: &Path) -> Result<(MapperClient, oneshot::Receiver<()>), String> {
    let dialled = dmi::dial(path, DEADLINE).await.map_err(|err| err.to_string())?;
    Ok((MapperClient::new(dialled.channel, DEADLINE), dialled.closed))
}

/// Makes one call, measured. Failures come with their words.
pub async fn make(client: MapperClient, call: Call, metrics: DmiMetrics) -> (Outcome, String) {
    let started = Instant::now();
    let name = call.name();
    let result = match call {
        Call::CreateModel(model) => client.create_model((*model).clone()).await,
        Call::UpdateModel(model) => client.update_model((*model).clone()).await,
        Call::RemoveModel(id) => client.remove_model(named(id)).await,
        Call::RegisterDevice(device) => client.register_device((*device).clone()).await,
        Call::UpdateDevice(device) => client.update_device((*device).clone()).await,
        Call::RemoveDevice(id) => client.remove_device(named(id)).await,
    };
    metrics.record(name, started.elapsed(), result.is_ok());
    match result {
        Ok(()) => (Outcome::Ok, String::new()),
        Err(status) if status.code() == Code::NotFound => (Outcome::Unknown, status.message().to_owned()),
        Err(status) => (Outcome::Failed, format!("{:?}: {}", status.code(), status.message())),
    }
}

fn named(id: DeviceId) -> ObjectName {
    ObjectName { name: id.name, namespace: id.namespace }
}
