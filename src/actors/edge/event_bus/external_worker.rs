//! The way to the broker outside: TCP or TLS, then bytes both ways as for any connection.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::connection_worker::Pump;
use super::listen_worker::Gate;
use super::wire::{Conn, Event, Wire};
use crate::config::{EventBusConfig, EventBusTlsConfig};
use crate::identity::{KeyPair, client_tls};
use crate::mqtt::Version;
use crate::mqtt::codec::Decoder;

const DIAL_DEADLINE: Duration = Duration::from_secs(10);
const PLAIN_PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;

/// Dials, and says in the inbox how it went.
pub async fn dial(config: Rc<EventBusConfig>, gate: Rc<Gate>) {
    let dialled = match timeout(DIAL_DEADLINE, connect(&config, &gate)).await {
        Ok(dialled) => dialled,
        Err(_) => Err(format!("no connection within {DIAL_DEADLINE:?}")),
    };
    gate.inbox.push(Event::Dialled(dialled));
}

async fn connect(config: &EventBusConfig, gate: &Rc<Gate>) -> Result<(Conn, Rc<Wire>), String> {
    let (is_tls, host, port) = address(&config.mqtt_server_external)
        .ok_or_else(|| format!("{:?} is no address", config.mqtt_server_external))?;
    let socket = TcpStream::connect((host, port)).await.map_err(|err| format!("{host}:{port}: {err}"))?;
    socket.set_nodelay(true).map_err(|err| err.to_string())?;
    if !is_tls {
        return Ok(start(socket, config, gate));
    }
    let files = config.event_bus_tls.clone();
    let tls =
        tokio::task::spawn_blocking(move || read_tls(&files)).await.map_err(|err| err.to_string())??;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no host name"))?;
    let stream = TlsConnector::from(tls)
        .connect(name, socket)
        .await
        .map_err(|err| format!("tls with {host}:{port}: {err}"))?;
    Ok(start(stream, config, gate))
}

fn start<S>(io: S, config: &EventBusConfig, gate: &Rc<Gate>) -> (Conn, Rc<Wire>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (conn, wire) = (gate.next_conn(), Rc::new(Wire::default()));
    wire.may_read.set(true);
    wire.read_at_ms.set(gate.now_ms());
    // Nothing of it has arrived yet, so there is nothing to tell the gate.
    let decoder = Decoder::of_server(Version::V3, config.internal.max_packet_bytes);
    let pump = Pump {
        io,
        conn,
        wire: Rc::clone(&wire),
        decoder,
        gate: Rc::clone(gate),
        needs_flush: false,
        deaf: false,
        shut: false,
        ignored: 0,
    };
    actix::spawn(pump);
    (conn, wire)
}

/// Scheme, host and port of a URL that the configuration has checked.
fn address(url: &str) -> Option<(bool, &str, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let is_tls = scheme != "tcp";
    let rest = rest.trim_end_matches('/');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (rest, if is_tls { TLS_PORT } else { PLAIN_PORT }),
    };
    Some((is_tls, host.trim_matches(['[', ']']), port))
}

fn read_tls(files: &EventBusTlsConfig) -> Result<Arc<ClientConfig>, String> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|err| format!("cannot read {}: {err}", path.display()))
    };
    let ca = read(&files.tls_mqtt_ca_file)?;
    let pair = if files.tls_mqtt_cert_file.as_os_str().is_empty() {
        None
    } else {
        let cert_pem = read(&files.tls_mqtt_cert_file)?;
        Some(KeyPair { cert_pem, key_pem: read(&files.tls_mqtt_private_key_file)? })
    };
    client_tls(&ca, pair.as_ref()).map_err(|err| format!("modules.eventBus.eventBusTLS: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, want) in [
            ("tcp://127.0.0.1:1883", Some((false, "127.0.0.1", 1883))),
            ("ssl://mosquitto", Some((true, "mosquitto", 8883))),
            ("tcp://[::1]/", Some((false, "::1", 1883))),
            ("mqtts://[::1]:99", Some((true, "::1", 99))),
            ("tcp://a:b", None),
            ("a", None),
        ] {
            assert_eq!(address(url), want, "{url}");
        }
    }
}
