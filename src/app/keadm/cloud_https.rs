//! One HTTPS GET to the cloud's join server, with a deadline and a size limit.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest wait for a whole request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer: a CA certificate has about 500 bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What the server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    /// The server's clock, if it says.
    pub date: Option<SystemTime>,
    pub body: Vec<u8>,
}

/// `GET https://{host}:{port}{path}` with these headers. The error is a clause.
pub(super) async fn get(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    tls: Arc<rustls::ClientConfig>,
) -> Result<Answer, String> {
    match tokio::time::timeout(TIMEOUT, exchange(host, port, path, headers, tls)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

async fn exchange(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    tls: Arc<rustls::ClientConfig>,
) -> Result<Answer, String> {
    let say = |err: &dyn std::error::Error| err.to_string();
    let tcp = TcpStream::connect((host, port)).await.map_err(|err| say(&err))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|err| say(&err))?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await.map_err(|err| say(&err))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|err| say(&err))?;
    let driver = tokio::spawn(connection);
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let request = http::Request::get(path).header(http::header::HOST, authority);
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value))
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|err| say(&err))?;
    let response = sender.send_request(request).await.map_err(|err| say(&err))?;
    let status = response.status().as_u16();
    let date =
        response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok()).and_then(http_date);
    let body =
        Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await.map_err(|err| err.to_string())?;
    driver.abort();
    Ok(Answer { status, date, body: body.to_bytes().to_vec() })
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<SystemTime> {
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(SystemTime::from(parsed))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::time::UNIX_EPOCH;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::identity::{Ca, CaSettings, ClientAuth, client_tls, client_tls_unverified, server_tls};

    /// CloudHub as a stranger sees it: reached, and silent.
    pub async fn hub() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        port
    }

    /// A join server that answers these paths and 404 to all others, as long as the test runs.
    pub async fn serve(ca: &Ca, answers: BTreeMap<String, Vec<u8>>, date: &str) -> u16 {
        let pair =
            ca.issue_server("KubeEdge", &["127.0.0.1".into()], Duration::from_secs(3600)).expect("server");
        let acceptor = TlsAcceptor::from(
            server_tls(&pair, &ca.client_anchors_pem(), ClientAuth::Optional).expect("tls"),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let date = date.to_owned();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match tls.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => break,
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                let (status, body) = match answers.get(path) {
                    Some(body) => ("200 OK", body.clone()),
                    None => ("404 Not Found", b"Node not found".to_vec()),
                };
                let date = if date.is_empty() { String::new() } else { format!("date: {date}\r\n") };
                let head = format!("HTTP/1.1 {status}\r\n{date}content-length: {}\r\n\r\n", body.len());
                tls.write_all(&[head.into_bytes(), body].concat()).await.expect("answer");
                tls.shutdown().await.ok();
            }
        });
        port
    }

    pub fn ca() -> Ca {
        let dir = tempfile::tempdir().expect("temp dir");
        Ca::open(CaSettings::new(&dir.path().join("ca.crt"), &dir.path().join("ca.key")), SystemTime::now())
            .expect("ca")
    }

    #[tokio::test]
    async fn answers_and_failures() {
        let ours = ca();
        let answers = BTreeMap::from([
            ("/ca.crt".to_owned(), ours.cert_der()),
            ("/huge".to_owned(), vec![0; MAX_BODY_BYTES + 1]),
        ]);
        let port = serve(&ours, answers, "Sun, 06 Nov 1994 08:49:37 GMT").await;
        let trusting = client_tls(&ours.cert_pem(), None).expect("tls");
        let blind = client_tls_unverified().expect("tls");
        let answer = get("127.0.0.1", port, "/ca.crt", &[], blind.clone()).await.expect("answer");
        assert_eq!((answer.status, answer.body.as_slice()), (200, ours.cert_der().as_slice()));
        assert_eq!(answer.date, Some(UNIX_EPOCH + Duration::from_secs(784_111_777)));
        assert_eq!(
            get("127.0.0.1", port, "/node/x", &[], trusting.clone()).await.expect("answer").status,
            404
        );

        let err = get("127.0.0.1", port, "/huge", &[], trusting).await.expect_err("too much");
        assert!(err.contains("length limit"), "{err}");
        let stranger = client_tls(&ca().cert_pem(), None).expect("tls");
        let err = get("127.0.0.1", port, "/ca.crt", &[], stranger).await.expect_err("other CA");
        assert!(err.contains("invalid peer certificate"), "{err}");
        let err = get("127.0.0.1", 1, "/ca.crt", &[], blind).await.expect_err("nobody there");
        assert!(err.contains("refused"), "{err}");
    }
}
