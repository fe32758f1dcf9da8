//! TLS handshakes in memory, for tests.

use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, ServerName};

/// Runs a handshake in memory. Returns the server's certificate as the client saw it and the
/// client's as the server saw it, or the first error text.
pub fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
    let name = ServerName::try_from(name.to_owned()).expect("name");
    let mut client = ClientConnection::new(client.clone(), name).map_err(|err| err.to_string())?;
    let mut server = ServerConnection::new(server.clone()).map_err(|err| err.to_string())?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets().map_err(|err| format!("server: {err}"))?;
        wire.clear();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut wire.as_slice()).expect("memory");
        client.process_new_packets().map_err(|err| format!("client: {err}"))?;
        if !client.is_handshaking() && !server.is_handshaking() {
            let first = |chain: Option<&[CertificateDer<'static>]>| chain.map(|chain| chain[0].to_vec());
            let seen = first(client.peer_certificates()).expect("a server certificate");
            return Ok((seen, first(server.peer_certificates())));
        }
    }
    Err("the handshake does not end".into())
}
