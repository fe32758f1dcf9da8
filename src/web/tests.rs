//! The server on a real socket, against clients that do not behave.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{Bytes, Data, to};
use actix_web::{HttpRequest, HttpResponse};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{Limits, Line, Lobby, serve};
use crate::telemetry::doors::DoorMetrics;

/// For what must come some time.
const PATIENCE: Duration = Duration::from_secs(30);

fn limits() -> Limits {
    Limits {
        workers: 1,
        connections: 1_000,
        head: Duration::from_millis(500),
        reader: Duration::from_secs(1),
        keep_alive: Duration::from_secs(20),
        body_bytes: 1_000,
        websockets: false,
    }
}

struct Door {
    address: SocketAddr,
    handle: ServerHandle,
    figures: PrometheusHandle,
}

/// `/` says hello to `name` if there is one, `/echo` gives a body back, `/forever` answers never.
async fn answer(request: HttpRequest, body: Bytes, _: Data<()>) -> HttpResponse {
    let line = request.conn_data::<Line>().unwrap();
    if let Some(name) = request.headers().get("name")
        && line.admit(name.to_str().unwrap()).is_err()
    {
        return HttpResponse::TooManyRequests().force_close().finish();
    }
    match request.path() {
        "/echo" => HttpResponse::Ok().body(body),
        "/forever" => std::future::pending().await,
        "/cut" => {
            line.cut();
            HttpResponse::Ok().body("unheard")
        }
        // No body: those are what actix keeps without a bound.
        _ => HttpResponse::NoContent().insert_header(("x-padding", "x".repeat(200))).finish(),
    }
}

fn open(strangers: usize, of_one: u32, limits: Limits) -> Door {
    let recorder = PrometheusBuilder::new().build_recorder();
    let figures = recorder.handle();
    let metrics = metrics::with_local_recorder(&recorder, || DoorMetrics::new("join"));
    let lobby = Lobby::new(strangers, of_one, metrics);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = serve(
        listener,
        None,
        limits,
        &lobby,
        |_, _| {},
        |app| {
            app.app_data(Data::new(())).default_service(to(answer));
        },
    )
    .unwrap();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    Door { address, handle, figures }
}

impl Door {
    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn wait_counted(&self, reason: &str) {
        let label = format!("reason=\"{reason}\"}}");
        let since = Instant::now();
        loop {
            let text = self.figures.render();
            let line = text.lines().find(|line| line.contains(&label)).unwrap_or_default();
            if !line.ends_with(" 0") && !line.is_empty() {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{reason} is not counted:\n{text}");
            tokio::task::yield_now().await;
        }
    }

    fn connections(&self) -> String {
        let text = self.figures.render();
        text.lines().find(|line| line.starts_with("kubeedge_door_connections")).unwrap_or_default().to_owned()
    }
}

async fn ask(stream: &mut TcpStream, head: &str) -> Option<String> {
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut piece = [0; 4096];
    let count = timeout(PATIENCE, stream.read(&mut piece)).await.unwrap().ok()?;
    (count > 0).then(|| String::from_utf8_lossy(&piece[..count]).into_owned())
}

async fn end(stream: &mut TcpStream) {
    let mut piece = [0; 16 << 10];
    timeout(PATIENCE, async { while matches!(stream.read(&mut piece).await, Ok(1..)) {} }).await.unwrap();
}

#[actix_web::test]
async fn a_connection_may_be_used_again_and_again() {
    let door = open(4, 4, limits());
    let mut stream = door.dial().await;
    for round in 0..100 {
        let said = ask(&mut stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(said.starts_with("HTTP/1.1 204"), "{round}: {said}");
        let head = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
        let said = ask(&mut stream, head).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("abc"), "{round}: {said}");
    }
    // Some at once are answered as well.
    stream.write_all("GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(40).as_bytes()).await.unwrap();
    let (mut said, mut piece) = (String::new(), [0; 4096]);
    while said.matches("HTTP/1.1 204").count() < 40 {
        let count = timeout(PATIENCE, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(count > 0, "it ended: {said}");
        said.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    assert_eq!(door.connections(), "kubeedge_door_connections{door=\"join\"} 1");
    door.handle.stop(false).await;
}

#[actix_web::test]
async fn who_does_not_read_is_not_read_from_and_is_cut() {
    let door = open(4, 4, limits());
    let mut stream = door.dial().await;
    let batch = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    let mut poured = 0;
    // It asks until nobody listens.
    timeout(PATIENCE, async {
        while let Ok(count) = stream.write(batch.as_bytes()).await {
            poured += count;
            assert!(poured < 64 << 20, "everything is listened to");
        }
    })
    .await
    .unwrap();
    door.wait_counted("unread").await;
    let said = ask(&mut door.dial().await, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(said.starts_with("HTTP/1.1 204"), "{said}");
    door.handle.stop(false).await;
}

#[actix_web::test]
async fn heads_that_are_too_long_or_too_slow_end_it() {
    let door = open(4, 4, limits());
    let mut long = door.dial().await;
    long.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
    while long.write_all(&[b'x'; 4096]).await.is_ok() {}
    door.wait_counted("head").await;
    // The second request of a connection, of which half comes.
    let mut slow = door.dial().await;
    ask(&mut slow, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    slow.write_all(b"GET / HT").await.unwrap();
    end(&mut slow).await;
    let mut silent = door.dial().await;
    end(&mut silent).await;
    door.wait_counted("no_request").await;
    door.handle.stop(false).await;
}

#[actix_web::test]
async fn what_follows_a_request_in_hand_is_not_read() {
    let door = open(4, 4, Limits { reader: PATIENCE, ..limits() });
    let mut stream = door.dial().await;
    stream.write_all(b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let batch = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    let mut poured = 0;
    // Until the system's buffers are full.
    while let Ok(Ok(count)) = timeout(Duration::from_secs(1), stream.write(batch.as_bytes())).await {
        poured += count;
        assert!(poured < 64 << 20, "everything is read");
    }
    let said = ask(&mut door.dial().await, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(said.starts_with("HTTP/1.1 204"), "{said}");
    door.handle.stop(false).await;
}

#[actix_web::test]
async fn a_crowd_of_strangers_gives_way_and_guests_stay() {
    let door = open(8, 4, Limits { head: PATIENCE, ..limits() });
    let mut guest = door.dial().await;
    ask(&mut guest, "GET / HTTP/1.1\r\nHost: x\r\nName: guest\r\n\r\n").await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(door.dial().await);
    }
    let said = ask(&mut door.dial().await, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(said.starts_with("HTTP/1.1 204"), "{said}");
    door.wait_counted("crowd").await;
    let said = ask(&mut guest, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(said.starts_with("HTTP/1.1 204"), "the guest was ended: {said}");
    door.handle.stop(false).await;
}

#[actix_web::test]
async fn one_guest_has_so_many_connections_and_a_cut_line_says_nothing() {
    let door = open(8, 2, limits());
    let head = "GET / HTTP/1.1\r\nHost: x\r\nName: greedy\r\n\r\n";
    let (mut one, mut two, mut three) = (door.dial().await, door.dial().await, door.dial().await);
    assert!(ask(&mut one, head).await.unwrap().starts_with("HTTP/1.1 204"));
    assert!(ask(&mut two, head).await.unwrap().starts_with("HTTP/1.1 204"));
    assert!(ask(&mut three, head).await.unwrap().starts_with("HTTP/1.1 429"));
    door.wait_counted("guest_limit").await;
    drop(two);
    let since = Instant::now();
    loop {
        let said = ask(&mut door.dial().await, head).await.unwrap();
        if said.starts_with("HTTP/1.1 204") {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "the place is not given back");
    }
    assert_eq!(ask(&mut one, "GET /cut HTTP/1.1\r\nHost: x\r\n\r\n").await, None);
    door.handle.stop(false).await;
}

#[actix_web::test]
async fn who_sends_too_much_hears_it() {
    let door = open(4, 4, limits());
    let mut stream = door.dial().await;
    // The extractor of the handler takes 256 KiB at most.
    let head = format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 4 << 20);
    stream.write_all(head.as_bytes()).await.unwrap();
    let said = ask(&mut stream, "x").await.unwrap();
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    for _ in 0..64 {
        if stream.write_all(&[b'x'; 16 << 10]).await.is_err() {
            break;
        }
    }
    end(&mut stream).await;
    door.handle.stop(false).await;
}
