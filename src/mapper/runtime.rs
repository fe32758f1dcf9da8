//! The mapper program: its socket, its registration, its end.

use std::future::{Future, pending};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Server;

use super::driver::Driver;
use super::edge::Session;
use super::fleet::Fleet;
use super::pause::pause;
use crate::wire::dmi::{ManagerClient, MapperInfo, MapperRegisterRequest, MapperServer, SOCKET_MODE, dial};
use crate::wire::socket::GrpcSocket;

/// edgecore only, and whoever looks by hand.
const CONNECTIONS: usize = 16;
/// For each call to edgecore: longer than edgecore itself waits.
const DEADLINE: Duration = Duration::from_secs(12);
/// A registration this long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// Who a mapper is and where it meets edgecore.
#[derive(Debug, Clone)]
pub struct MapperSettings {
    /// Also the name of its socket.
    pub name: String,
    pub version: String,
    /// Protocol name of its devices.
    pub protocol: String,
    /// edgecore's socket.
    pub dmi_socket: PathBuf,
    /// Folder of this mapper's own socket.
    pub socket_dir: PathBuf,
}

/// Why a mapper did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot serve on {}: {why}", path.display())]
    Socket { path: PathBuf, why: String },
}

/// Serves devices until `end` resolves. Registers with edgecore, and again whenever edgecore comes
/// back; without edgecore devices are still served, and their newest values reported later.
///
/// # Errors
/// [`RunError`] when its own socket cannot be had.
pub async fn run<D: Driver>(
    settings: MapperSettings,
    driver: D,
    end: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let path = settings.socket_dir.join(format!("{}.sock", settings.name));
    let failed = |why: std::io::Error| RunError::Socket { path: path.clone(), why: why.to_string() };
    let path = std::path::absolute(&path).map_err(failed)?;
    let socket = GrpcSocket::bind(&path, SOCKET_MODE, CONNECTIONS).await.map_err(failed)?;
    let (session, sessions) = watch::channel(Session::default());
    let fleet = Arc::new(Fleet::new(driver, sessions));
    let served = Server::builder().serve_with_incoming_shutdown(
        MapperServer::new(Arc::clone(&fleet)),
        Box::pin(socket.connections()),
        pending(),
    );
    tracing::info!(mapper = %settings.name, protocol = %settings.protocol, socket = %path.display(), "mapper is serving");
    tokio::select! {
        served = served => {
            let why = served.map_or_else(|err| err.to_string(), |()| "it ended".to_owned());
            Err(RunError::Socket { path: path.clone(), why })
        }
        () = stay_registered(&settings, &path, &fleet, &session) => Ok(()),
        () = end => Ok(()),
    }
}

/// Registers, waits for edgecore to go, and again.
async fn stay_registered<D: Driver>(
    settings: &MapperSettings,
    address: &std::path::Path,
    fleet: &Fleet<D>,
    session: &watch::Sender<Session>,
) {
    let mut failures = 0;
    let mut number = 0;
    loop {
        let dialled = dial(&settings.dmi_socket, DEADLINE).await;
        let outcome = match dialled {
            Ok(dialled) => {
                let client = ManagerClient::new(dialled.channel, DEADLINE);
                let answer = client.register(request(settings, address)).await;
                answer
                    .map(|answer| (client, dialled.closed, answer))
                    .map_err(|status| format!("{:?}: {}", status.code(), status.message()))
            }
            Err(err) => Err(err.to_string()),
        };
        match outcome {
            Ok((client, closed, answer)) => {
                tracing::info!(
                    devices = answer.device_list.len(),
                    models = answer.model_list.len(),
                    "registered with edgecore"
                );
                fleet.sync(answer.model_list, answer.device_list);
                number += 1;
                session.send_replace(Session { number, client: Some(client) });
                let since = Instant::now();
                drop(closed.await);
                session.send_replace(Session { number, client: None });
                tracing::warn!("edgecore is gone; devices are served on and reported when it is back");
                if since.elapsed() >= GOOD {
                    failures = 0;
                }
            }
            Err(why) if failures == 0 => {
                tracing::warn!(error = %why, "not registered with edgecore; it is tried until it is");
            }
            Err(why) => tracing::debug!(error = %why, "not registered with edgecore"),
        }
        tokio::time::sleep(pause(failures, fastrand::f64()).min(Duration::from_secs(5))).await;
        failures = failures.saturating_add(1);
    }
}

fn request(settings: &MapperSettings, address: &std::path::Path) -> MapperRegisterRequest {
    use std::os::unix::ffi::OsStrExt;
    let info = MapperInfo {
        name: settings.name.clone(),
        version: settings.version.clone(),
        api_version: "v1beta1".to_owned(),
        protocol: settings.protocol.clone(),
        address: address.as_os_str().as_bytes().to_vec(),
        state: "OK".to_owned(),
    };
    MapperRegisterRequest { with_data: true, mapper: Some(info) }
}
