//! edgecore, as the tasks of devices see it: there or not, and who it is now.

use tokio::sync::watch;
use tonic::Code;

use crate::model::DeviceId;
use crate::wire::dmi::{
    DeviceStatus, ManagerClient, ReportDeviceStatesRequest, ReportDeviceStatusRequest, Twin,
};

/// The connection to edgecore, with a number that is new for each registration.
#[derive(Clone, Default)]
pub struct Session {
    pub number: u64,
    pub client: Option<ManagerClient>,
}

/// Where one device reports.
#[derive(Clone)]
pub struct Reporter {
    device: DeviceId,
    session: watch::Receiver<Session>,
}

/// How a report went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Stored.
    Yes,
    /// edgecore will never take it; said in the log.
    Never,
    /// Not now.
    Later,
}

impl Reporter {
    pub fn new(device: DeviceId, session: watch::Receiver<Session>) -> Self {
        Self { device, session }
    }

    /// Number of the registration now; changes when edgecore came back.
    pub fn session(&self) -> u64 {
        self.session.borrow().number
    }

    /// Comes back when edgecore came or went.
    pub async fn changed(&mut self) {
        if self.session.changed().await.is_err() {
            // The mapper ends; the task is about to be stopped.
            std::future::pending::<()>().await;
        }
    }

    fn client(&self) -> Option<ManagerClient> {
        self.session.borrow().client.clone()
    }

    pub async fn values(&self, twins: Vec<Twin>) -> Taken {
        let Some(client) = self.client() else { return Taken::Later };
        let request = ReportDeviceStatusRequest {
            device_name: self.device.name.clone(),
            device_namespace: self.device.namespace.clone(),
            reported_device: Some(DeviceStatus { twins, ..DeviceStatus::default() }),
        };
        self.outcome("values", client.report_status(request).await)
    }

    pub async fn state(&self, state: &str) -> Taken {
        let Some(client) = self.client() else { return Taken::Later };
        let request = ReportDeviceStatesRequest {
            device_name: self.device.name.clone(),
            device_namespace: self.device.namespace.clone(),
            state: state.to_owned(),
        };
        self.outcome("state", client.report_states(request).await)
    }

    fn outcome(&self, what: &str, result: Result<(), tonic::Status>) -> Taken {
        let Err(status) = result else { return Taken::Yes };
        let (device, error) = (&self.device, status.message());
        if matches!(status.code(), Code::InvalidArgument | Code::OutOfRange | Code::PermissionDenied) {
            tracing::warn!(%device, what, code = ?status.code(), error, "edgecore refused a report");
            return Taken::Never;
        }
        tracing::debug!(%device, what, code = ?status.code(), error, "report comes later");
        Taken::Later
    }
}
