//! `keadm health`: asks a program's monitor whether it is well. For healthchecks of containers and
//! probes, where no other HTTP client is at hand.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Refusal;

/// Longest wait for the whole answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer that is shown.
const MAX_BODY_BYTES: usize = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// What to ask: http, a monitor is not behind TLS
    #[arg(default_value = "http://127.0.0.1:9092/readyz", value_parser = url)]
    url: http::Uri,
}

fn url(text: &str) -> Result<http::Uri, String> {
    let url: http::Uri = text.parse().map_err(|err| format!("{err}"))?;
    match (url.scheme_str(), url.host()) {
        (Some("http"), Some(_)) => Ok(url),
        _ => Err("it is not http://host:port/path".to_owned()),
    }
}

/// Prints the answer; any status but 200 is a refusal.
pub(super) async fn health(args: &HealthArgs, out: &mut dyn Write) -> Result<(), Refusal> {
    let url = &args.url;
    let (status, body) =
        timed(url, MAX_BODY_BYTES).await.map_err(|why| Refusal::new(format!("{url}: {why}")))?;
    let text = String::from_utf8_lossy(&body);
    if status != 200 {
        return Err(Refusal::new(format!("{url}: HTTP {status}: {}", text.trim())));
    }
    Ok(writeln!(out, "{}", text.trim())?)
}

/// Status and body of a page of a monitor on this machine. The error is a clause.
pub(super) async fn ask(address: &str, max_bytes: usize) -> Result<(u16, Vec<u8>), String> {
    timed(&url(address)?, max_bytes).await
}

async fn timed(url: &http::Uri, max_bytes: usize) -> Result<(u16, Vec<u8>), String> {
    match tokio::time::timeout(TIMEOUT, get(url, max_bytes)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

async fn get(url: &http::Uri, max_bytes: usize) -> Result<(u16, Vec<u8>), String> {
    let say = |err: &dyn std::error::Error| err.to_string();
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let tcp = TcpStream::connect((host, url.port_u16().unwrap_or(80))).await.map_err(|err| say(&err))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tcp));
    let (mut sender, connection) = handshake.await.map_err(|err| say(&err))?;
    let driver = tokio::spawn(connection);
    let authority = url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let request = http::Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(http::header::HOST, authority)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|err| say(&err))?;
    let response = sender.send_request(request).await.map_err(|err| say(&err))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), max_bytes).collect().await;
    let body = body.map_err(|err| err.to_string())?.to_bytes().to_vec();
    driver.abort();
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::tests::keadm;

    /// Answers every request so; the address.
    async fn serve(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap_or(0);
                assert!(request[..read].starts_with(b"GET /readyz?full HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        address
    }

    #[tokio::test]
    async fn well_unwell_and_not_there() {
        let well = serve("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n").await;
        assert_eq!(keadm(&["health", &format!("http://{well}/readyz?full")]).await, Ok("ok\n".into()));
        let unwell = serve("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nstore").await;
        let err = keadm(&["health", &format!("http://{unwell}/readyz?full")]).await.expect_err("unwell");
        assert!(err.ends_with("/readyz?full: HTTP 503: store"), "{err}");
        let odd = serve("SSH-2.0-OpenSSH\r\n").await;
        assert!(keadm(&["health", &format!("http://{odd}/readyz?full")]).await.is_err());
        let err = keadm(&["health", "http://127.0.0.1:1/readyz"]).await.expect_err("nobody");
        assert!(err.starts_with("http://127.0.0.1:1/readyz: "), "{err}");
        for url in ["https://127.0.0.1:1/", "127.0.0.1:1", "http:///x", ""] {
            let err = keadm(&["health", url]).await.expect_err(url);
            assert!(err.contains("invalid value"), "{url}: {err}");
        }
    }
}
