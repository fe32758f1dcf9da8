//! The hostile acts, one list for each door.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kubeedge::app::doors::{self, Door};
use tokio_tungstenite::tungstenite::Message;

use super::harness::hostile::{Tls, dial, pour, rest, status, tls};
use super::harness::machine::Session;
use super::harness::process::{PATIENCE, until};
use super::neighbours::{House, websocket};

/// Where a client of HTTP/2 begins: its preface and an empty SETTINGS frame (RFC 9113 section 3.4).
pub const HTTP2_HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const TEN_GIGABYTES: u64 = 10 << 30;
const FOUR_GIGABYTES: u64 = u32::MAX as u64;
/// Clients that ask and do not read.
const DEAF: usize = 32;

type Act<'h> = (&'static str, Vec<&'static str>, Box<dyn Fn() + Send + Sync + 'h>);

/// An MQTT 5 CONNECT.
pub fn mqtt_connect() -> Vec<u8> {
    let mut rest = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 8];
    rest.extend(fastrand::u64(..).to_string().chars().take(8).map(|c| c as u8));
    while rest.len() < 21 {
        rest.push(b'0');
    }
    [vec![0x10, u8::try_from(rest.len()).unwrap()], rest].concat()
}

fn with_length(method: &str, path: &str, length: u64, more: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n"
    )
    .into_bytes()
}

/// A connection as far as this door lets this client.
pub enum Line {
    Plain(std::net::TcpStream),
    Tls(Box<Tls>),
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Line {
    pub fn socket(&self) -> &std::net::TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

/// One with its handshake done.
pub fn shaken(house: &House, door: &Door) -> Line {
    until(&format!("a handshake with {}", door.name), PATIENCE, || {
        let mut line = line(house, door);
        if let Line::Tls(stream) = &mut line {
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).map_err(|err| err.to_string())?;
            }
        }
        Ok(line)
    })
}

pub fn line(house: &House, door: &Door) -> Line {
    wrapped(house, door, dial(house.tcp(door)).unwrap())
}

fn wrapped(house: &House, door: &Door, stream: std::net::TcpStream) -> Line {
    if has_tls(door) { Line::Tls(Box::new(tls(stream, house.pair(door)))) } else { Line::Plain(stream) }
}

pub fn has_tls(door: &Door) -> bool {
    [doors::KUBERNETES_API, doors::CLOUD_HUB, doors::JOIN_SERVER, doors::MQTT_TLS].contains(door)
}

pub fn is_http(door: &Door) -> bool {
    ![doors::MQTT, doors::MQTT_TLS, doors::MQTT_WEBSOCKET, doors::DMI, doors::WORKLOAD_API].contains(door)
}

/// What a door with HTTP is asked for, again and again.
pub fn asked(door: &Door) -> &'static str {
    match *door {
        doors::KUBERNETES_API => "/api/v1/nodes",
        doors::JOIN_SERVER => "/bundle.json",
        doors::CLOUD_MONITOR | doors::EDGE_MONITOR => "/metrics",
        doors::CLOUD_CONSOLE | doors::EDGE_CONSOLE => "/console/app.js",
        _ => "/",
    }
}

/// The label of a door's counter.
pub fn label(door: &Door) -> &'static str {
    match *door {
        doors::KUBERNETES_API => "kubeedge_door_refused_total{door=\"api\"",
        doors::CLOUD_HUB => "kubeedge_door_refused_total{door=\"cloudhub\"",
        doors::JOIN_SERVER => "kubeedge_door_refused_total{door=\"join\"",
        doors::CLOUD_MONITOR | doors::EDGE_MONITOR => "kubeedge_door_refused_total{door=\"monitor\"",
        doors::CLOUD_CONSOLE | doors::EDGE_CONSOLE => "kubeedge_door_refused_total{door=\"console\"",
        doors::DMI => "kubeedge_door_refused_total{door=\"dmi\"",
        doors::WORKLOAD_API => "kubeedge_door_refused_total{door=\"workload_api\"",
        _ => "kubeedge_eventbus_refused_total",
    }
}

/// Everything somebody can do at this door who does not stop.
pub fn at<'h>(house: &'h House, door: &'static Door) -> Vec<Act<'h>> {
    match *door {
        doors::DMI | doors::WORKLOAD_API => return grpc(house, door),
        doors::MQTT | doors::MQTT_TLS => return mqtt(house, door),
        doors::MQTT_WEBSOCKET => return mqtt_websocket(house, door),
        doors::CLOUD_HUB => return hub(house, door),
        _ if is_http(door) => {}
        _ => panic!("what can be done at {}?", door.name),
    }
    let counters = match *door {
        doors::KUBERNETES_API => "kubeedge_apiserver_requests_total{verb=\"other\",code=\"4xx\"",
        doors::JOIN_SERVER => "kubeedge_cloudhub_certificates_total{result=\"refused\"}",
        doors::CLOUD_CONSOLE | doors::EDGE_CONSOLE => "kubeedge_console_requests_total{code=\"4",
        _ => label(door),
    };
    let (method, path) = match *door {
        doors::KUBERNETES_API => ("POST", "/api/v1/namespaces/default/configmaps"),
        doors::JOIN_SERVER => ("POST", "/identity/node"),
        doors::CLOUD_CONSOLE | doors::EDGE_CONSOLE => ("POST", "/console/session"),
        _ => ("POST", "/metrics"),
    };
    let end_of_body = move || {
        let mut stream = line(house, door);
        let began = Instant::now();
        let poured = pour(
            &mut stream,
            &with_length(method, path, TEN_GIGABYTES, ""),
            &[b'x'; 64 << 10],
            TEN_GIGABYTES,
        );
        assert!(poured < 64 << 20, "{} took {poured} bytes in {:?}", door.name, began.elapsed());
    };
    let end_of_head = move || {
        let mut stream = line(house, door);
        let poured = pour(&mut stream, b"GET / HTTP/1.1\r\nX: ", &[b'x'; 16 << 10], TEN_GIGABYTES);
        assert!(poured < 16 << 20, "{} took a head of {poured} bytes", door.name);
    };
    let declared = move || {
        let mut stream = line(house, door);
        stream.write_all(&with_length(method, path, FOUR_GIGABYTES, "Connection: close\r\n")).unwrap();
        let code = status(&rest(&mut stream));
        assert!(code >= 400, "{}: {code}", door.name);
    };
    let mut all: Vec<Act<'h>> = vec![
        ("10 GB body", vec![counters], Box::new(end_of_body)),
        ("endless head", vec![label(door)], Box::new(end_of_head)),
        ("4 GB declared", vec![counters], Box::new(declared)),
        // The join server ends a crowd from one address by itself.
        (
            "never reads",
            vec![label(door), "kubeedge_identity_refused_total{reason=\"limit\"}"],
            Box::new(move || deaf(house, door)),
        ),
    ];
    if label(door) == counters {
        // The monitor reads no bodies: that there was one is not counted.
        all.retain(|(name, ..)| !["4 GB declared", "10 GB body"].contains(name));
    }
    all
}

/// Asks on and on from many connections, and reads nothing.
fn deaf(house: &House, door: &Door) {
    let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", asked(door));
    let batch = request.repeat(64);
    std::thread::scope(|scope| {
        for _ in 0..DEAF {
            let batch = batch.as_bytes();
            scope.spawn(move || {
                let Ok(stream) = dial(house.tcp(door)) else { return };
                stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
                let mut stream = wrapped(house, door, stream);
                let (begun, mut poured) = (Instant::now(), 0);
                loop {
                    match stream.write(batch) {
                        Ok(count) => poured += count,
                        Err(err) if is_late(&err) => {}
                        Err(_) => break,
                    }
                    assert!(poured < 64 << 20, "{} listens to whoever does not read", door.name);
                    assert!(begun.elapsed() < PATIENCE, "{} waits for whoever does not read", door.name);
                }
            });
        }
    });
}

pub fn is_late(err: &std::io::Error) -> bool {
    matches!(err.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn hub<'h>(house: &'h House, door: &'static Door) -> Vec<Act<'h>> {
    let open = move || {
        let begun = Instant::now();
        loop {
            match Session::open(&house.world.cloud, "hostile", &house.hostile_node) {
                Ok(session) => return session,
                Err(why) => assert!(begun.elapsed() < PATIENCE, "{why:?}"),
            }
        }
    };
    let bad = "kubeedge_cloudhub_sessions_total{reason=\"bad_frame\"}";
    vec![
        // Honest visits look whether the door is open, which is counted as a handshake that failed.
        ("endless head", vec!["kubeedge_door_refused_total{door=\"cloudhub\",reason=\"head\""], {
            Box::new(move || {
                let mut stream = line(house, door);
                let poured = pour(&mut stream, b"GET / HTTP/1.1\r\nX: ", &[b'x'; 16 << 10], TEN_GIGABYTES);
                assert!(poured < 16 << 20, "a head of {poured} bytes");
            })
        }),
        ("endless message", vec![bad], {
            Box::new(move || {
                let mut session = open();
                // Fragments of 16 KiB (RFC 6455 section 5.4), masked with zeros.
                let mut piece = vec![0x00, 0xfe, 0x40, 0x00, 0, 0, 0, 0];
                piece.extend([b'x'; 16 << 10]);
                let poured = session.pour(&[0x01, 0x81, 0, 0, 0, 0, b'{'], &piece, TEN_GIGABYTES);
                assert!(poured < 64 << 20, "a message of {poured} bytes");
            })
        }),
        ("4 GB declared", vec![bad], {
            Box::new(move || {
                let mut session = open();
                session.pour(&[0x81, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], b"{", 64 << 10);
                session.closed();
            })
        }),
        (
            "never reads",
            vec![
                "kubeedge_cloudhub_messages_total{direction=\"down\",kind=\"not_answered\"}",
                "kubeedge_cloudhub_sessions_total{reason=\"write_timeout\"}",
            ],
            {
                Box::new(move || {
                    let mut session = open();
                    let ask = super::neighbours_nodes::question();
                    let begun = Instant::now();
                    while begun.elapsed() < Duration::from_secs(12) && session.say(&ask).is_ok() {}
                })
            },
        ),
    ]
}

fn mqtt<'h>(house: &'h House, door: &'static Door) -> Vec<Act<'h>> {
    let known = move || {
        let mut stream = line(house, door);
        stream.write_all(&mqtt_connect()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        stream
    };
    let refused = vec!["kubeedge_eventbus_refused_total"];
    let mut all: Vec<Act<'h>> = vec![
        ("256 MB declared", refused.clone(), {
            Box::new(move || {
                let mut stream = line(house, door);
                let poured =
                    pour(&mut stream, &[0x10, 0xff, 0xff, 0xff, 0x7f], &[b'x'; 64 << 10], TEN_GIGABYTES);
                assert!(poured < 16 << 20, "a CONNECT of {poured} bytes");
            })
        }),
        ("endless message", refused.clone(), {
            Box::new(move || {
                let mut stream = known();
                let poured =
                    pour(&mut stream, &[0x30, 0xff, 0xff, 0xff, 0x7f], &[b'x'; 64 << 10], TEN_GIGABYTES);
                assert!(poured < 32 << 20, "a PUBLISH of {poured} bytes");
            })
        }),
        ("never reads", vec!["kubeedge_eventbus_dropped_total", "kubeedge_eventbus_refused_total"], {
            Box::new(move || {
                // Subscribes to everything and pings, and reads nothing; another publishes.
                let mut deaf = known();
                deaf.write_all(&[0x82, 7, 0, 1, 0, 0, 1, b'#', 0]).unwrap();
                let mut speaker = known();
                let mut publish = vec![0x30, 0x87, 0x08, 0, 1, b't', 0];
                publish.extend([b'x'; 1027]);
                let batch = publish.repeat(16);
                pour(&mut speaker, b"", &batch, 32 << 20);
                pour(&mut deaf, b"", &[0xc0, 0].repeat(4 << 10), 4 << 20);
            })
        }),
    ];
    if *door == doors::MQTT {
        all.push(("strangers' bytes", refused, {
            Box::new(move || {
                let mut connections = Vec::new();
                for _ in 0..400 {
                    // A CONNECT of 256 KiB, but for its last bytes.
                    let Ok(mut stream) = dial(house.tcp(door)) else { continue };
                    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
                    let head = [&[0x10, 0xf0, 0xff, 0x0f][..], &mqtt_connect()[2..]].concat();
                    pour(&mut stream, &head, &[b'x'; 32 << 10], 200 << 10);
                    connections.push(stream);
                }
            })
        }));
    }
    all
}

fn mqtt_websocket<'h>(house: &'h House, door: &'static Door) -> Vec<Act<'h>> {
    let refused = vec!["kubeedge_eventbus_refused_total"];
    let raw = move || {
        let address = house.tcp(door);
        websocket(address, dial(address).unwrap()).unwrap()
    };
    vec![
        ("endless head", refused.clone(), {
            Box::new(move || {
                let mut stream = line(house, door);
                let poured = pour(&mut stream, b"GET / HTTP/1.1\r\nX: ", &[b'x'; 16 << 10], TEN_GIGABYTES);
                assert!(poured < 16 << 20, "a head of {poured} bytes");
            })
        }),
        ("4 GB declared", vec!["kubeedge_eventbus_refused_total"], {
            Box::new(move || {
                let mut socket = raw();
                socket.send(Message::binary(mqtt_connect())).unwrap();
                socket.read().unwrap();
                let frame = [0x82, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
                let poured = pour(socket.get_mut(), &frame, &[b'x'; 16 << 10], TEN_GIGABYTES);
                assert!(poured < 32 << 20, "a frame of {poured} bytes");
            })
        }),
        ("strangers' bytes", refused, {
            Box::new(move || {
                let mut connections = Vec::new();
                let mut piece = vec![0x00, 0xfe, 0x40, 0x00, 0, 0, 0, 0];
                piece.extend([b'x'; 16 << 10]);
                for _ in 0..200 {
                    let address = house.tcp(door);
                    let Ok(Ok(mut socket)) = dial(address).map(|stream| websocket(address, stream)) else {
                        continue;
                    };
                    pour(socket.get_mut(), &[0x02, 0x81, 0, 0, 0, 0, 0x10], &piece, 1 << 20);
                    connections.push(socket);
                }
            })
        }),
    ]
}

/// A gRPC message that says it is 4 GB long, and goes on until nobody takes more.
struct Endless {
    told: bool,
    left: u64,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let me = self.get_mut();
        if !std::mem::replace(&mut me.told, true) {
            return Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(&[
                0, 0xff, 0xff, 0xff, 0xff,
            ])))));
        }
        if me.left == 0 {
            return Poll::Ready(None);
        }
        me.left -= 1;
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(&[b'x'; 16 << 10])))))
    }
}

fn grpc<'h>(house: &'h House, door: &'static Door) -> Vec<Act<'h>> {
    let path = if *door == doors::DMI {
        "/v1beta1.DeviceManagerService/MapperRegister"
    } else {
        "/SpiffeWorkloadAPI/FetchX509SVID"
    };
    let socket = house.unix(door);
    let dmi = *door == doors::DMI;
    let call = {
        let socket = socket.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let endpoint =
                    tonic::transport::Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
                let channel = endpoint.connect().await.unwrap();
                let body = tonic::body::Body::new(Endless { told: false, left: TEN_GIGABYTES >> 14 });
                let request = http::Request::post(format!("http://localhost{path}"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    // Without it the Workload API looks at nothing else.
                    .header("workload.spiffe.io", "true")
                    .body(body)
                    .unwrap();
                let answer = tower::ServiceExt::oneshot(channel, request);
                let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer");
                if let Ok(answer) = answer {
                    let code = answer.headers().get("grpc-status").cloned();
                    assert!(code.is_none_or(|code| code != "0"), "it was taken");
                }
            });
        }
    };
    let endless_frame = move || {
        // A frame longer than allowed (RFC 9113 section 4.2): 16 MiB declared.
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = [HTTP2_HELLO, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat();
        let poured = pour(&mut stream, &head, &[b'x'; 16 << 10], TEN_GIGABYTES);
        assert!(poured < 32 << 20, "a frame of {poured} bytes");
    };
    let counter = if dmi {
        "kubeedge_door_refused_total{door=\"dmi\",reason=\"length\""
    } else {
        "kubeedge_door_refused_total{door=\"workload_api\",reason=\"length\""
    };
    let mut all: Vec<Act<'h>> = vec![("4 GB declared", vec![counter], Box::new(call))];
    if dmi {
        all.push(("long frame", Vec::new(), Box::new(endless_frame)));
    }
    all
}
