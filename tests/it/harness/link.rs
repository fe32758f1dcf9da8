//! A link between an edge and its cloud that does what bad networks do, on command.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

/// What becomes of bytes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    #[default]
    Open,
    /// They wait and arrive later, in order: a cable that was pulled for a while, as TCP sends again.
    Held,
    /// They vanish, and the connection is deaf in that direction for ever, without FIN or RST: a gateway that
    /// forgot it.
    Lost,
}

/// How the link is now, for every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// From the edge to the cloud.
    pub up: Way,
    /// From the cloud to the edge.
    pub down: Way,
    /// Each way, milliseconds.
    pub delay_ms: u64,
    /// Each way and connection; 0 is no limit.
    pub bytes_per_sec: u64,
    /// New connections are closed as soon as they are made.
    pub refuses: bool,
}

/// What happens once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shot {
    /// The connections there are become deaf both ways; neither end hears of it. New ones are as the weather is.
    HalfOpen,
    /// The connections there are end, for both sides.
    Close,
    /// The next connection waits until a later one got through.
    Park,
    /// What is under way on the connections there are waits until [`Link::release`]; new ones get through before.
    Overtake,
}

/// Forwards connections to one local port.
pub struct Link {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    weather: Weather,
    connections: Vec<Weak<Connection>>,
    parks_next: bool,
    parked: Option<TcpStream>,
    closed: bool,
}

struct Connection {
    deaf_up: AtomicBool,
    deaf_down: AtomicBool,
    held: AtomicBool,
    client: TcpStream,
    server: TcpStream,
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl Link {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { target, state: Mutex::default(), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !accepting.accepted(client) {
                    return;
                }
            }
        });
        Self { port, shared }
    }

    pub fn set(&self, weather: Weather) {
        self.shared.state.lock().unwrap().weather = weather;
        self.shared.changed.notify_all();
    }

    pub fn shoot(&self, shot: Shot) {
        let mut state = self.shared.state.lock().unwrap();
        if shot == Shot::Park {
            state.parks_next = true;
            return;
        }
        for connection in state.connections.iter().filter_map(Weak::upgrade) {
            match shot {
                Shot::HalfOpen => {
                    connection.deaf_up.store(true, Ordering::SeqCst);
                    connection.deaf_down.store(true, Ordering::SeqCst);
                }
                Shot::Overtake => connection.held.store(true, Ordering::SeqCst),
                Shot::Close | Shot::Park => connection.close(),
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Lets go of what [`Shot::Park`] and [`Shot::Overtake`] keep back.
    pub fn release(&self) {
        let mut state = self.shared.state.lock().unwrap();
        state.parks_next = false;
        let parked = state.parked.take();
        for connection in state.connections.iter().filter_map(Weak::upgrade) {
            connection.held.store(false, Ordering::SeqCst);
        }
        drop(state);
        self.shared.changed.notify_all();
        if let Some(client) = parked {
            self.shared.forward(client);
        }
    }

    /// Fair weather, nothing kept back. Deaf connections stay deaf.
    pub fn mend(&self) {
        self.set(Weather::default());
        self.release();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shoot(Shot::Close);
        self.shared.state.lock().unwrap().closed = true;
        self.shared.changed.notify_all();
        TcpStream::connect(("127.0.0.1", self.port)).ok();
    }
}

impl Shared {
    /// Takes a new connection; false when the link is no more.
    fn accepted(self: &Arc<Self>, client: TcpStream) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.closed {
            return false;
        }
        if state.weather.refuses {
            return true;
        }
        if state.parks_next {
            state.parks_next = false;
            state.parked = Some(client);
            return true;
        }
        let parked = state.parked.take();
        drop(state);
        self.forward(client);
        if let Some(earlier) = parked {
            self.forward(earlier);
        }
        true
    }

    fn forward(self: &Arc<Self>, client: TcpStream) {
        // While the cloud is down the client sees its connection end.
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else { return };
        let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else { return };
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        let connection = Arc::new(Connection {
            deaf_up: AtomicBool::new(false),
            deaf_down: AtomicBool::new(false),
            held: AtomicBool::new(false),
            client: client2,
            server: server2,
        });
        let mut state = self.state.lock().unwrap();
        state.connections.retain(|known| known.strong_count() > 0);
        state.connections.push(Arc::downgrade(&connection));
        drop(state);
        for direction in [Direction::Up, Direction::Down] {
            let (shared, connection) = (Arc::clone(self), Arc::clone(&connection));
            std::thread::spawn(move || shared.pump(&connection, direction));
        }
    }

    fn pump(&self, connection: &Connection, direction: Direction) {
        let (mut from, mut to) = match direction {
            Direction::Up => (&connection.client, &connection.server),
            Direction::Down => (&connection.server, &connection.client),
        };
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            let Some(weather) = self.pass(connection, direction) else {
                // Deaf: it goes on listening, so that the sender sees nothing, and its end is lost too.
                if read == 0 {
                    return;
                }
                continue;
            };
            if read == 0 {
                to.shutdown(Shutdown::Write).ok();
                return;
            }
            let mut pause = Duration::from_millis(weather.delay_ms);
            let takes = (read as u64 * 1_000_000).checked_div(weather.bytes_per_sec);
            pause += Duration::from_micros(takes.unwrap_or(0));
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            if to.write_all(&buffer[..read]).is_err() {
                connection.close();
                return;
            }
        }
    }

    /// Waits while bytes are held. `None` when they are lost.
    fn pass(&self, connection: &Connection, direction: Direction) -> Option<Weather> {
        let deaf = match direction {
            Direction::Up => &connection.deaf_up,
            Direction::Down => &connection.deaf_down,
        };
        let mut state = self.state.lock().unwrap();
        loop {
            let way = match direction {
                Direction::Up => state.weather.up,
                Direction::Down => state.weather.down,
            };
            if way == Way::Lost {
                deaf.store(true, Ordering::SeqCst);
            }
            if deaf.load(Ordering::SeqCst) {
                return None;
            }
            if state.closed || (way == Way::Open && !connection.held.load(Ordering::SeqCst)) {
                return Some(state.weather);
            }
            state = self.changed.wait(state).unwrap();
        }
    }
}

impl Connection {
    fn close(&self) {
        self.client.shutdown(Shutdown::Both).ok();
        self.server.shutdown(Shutdown::Both).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::super::process::{PATIENCE, until};
    use super::*;

    /// A server that answers each byte with the byte after it and remembers what it got.
    fn server() -> (u16, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&got);
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                let heard = Arc::clone(&heard);
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while let Ok(1) = socket.read(&mut byte) {
                        heard.lock().unwrap().push(byte[0]);
                        socket.write_all(&[byte[0] + 1]).ok();
                    }
                });
            }
        });
        (port, got)
    }

    fn dial(link: &Link) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", link.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    }

    fn say(socket: &mut TcpStream, byte: u8) -> Option<u8> {
        socket.write_all(&[byte]).unwrap();
        hear(socket)
    }

    fn hear(socket: &mut TcpStream) -> Option<u8> {
        let mut answer = [0];
        matches!(socket.read(&mut answer), Ok(1)).then_some(answer[0])
    }

    fn hears(socket: &mut TcpStream, want: u8) {
        until("the answer comes", PATIENCE, || match hear(socket) {
            Some(byte) if byte == want => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    #[test]
    fn held_bytes_come_later_lost_ones_never() {
        let (port, got) = server();
        let link = Link::to(port);
        let mut socket = dial(&link);
        socket.write_all(&[1]).unwrap();
        hears(&mut socket, 2);
        link.set(Weather { up: Way::Held, ..Weather::default() });
        assert_eq!(say(&mut socket, 3), None);
        assert_eq!(*got.lock().unwrap(), [1]);
        link.mend();
        hears(&mut socket, 4);

        link.set(Weather { down: Way::Lost, ..Weather::default() });
        assert_eq!(say(&mut socket, 5), None);
        link.mend();
        assert_eq!(say(&mut socket, 7), None, "deaf for ever");
        until("the other direction works", PATIENCE, || {
            let got = got.lock().unwrap().clone();
            if got == [1, 3, 5, 7] { Ok(()) } else { Err(format!("{got:?}")) }
        });
        let mut fresh = dial(&link);
        fresh.write_all(&[9]).unwrap();
        hears(&mut fresh, 10);
    }

    #[test]
    fn later_connections_get_through_first() {
        let (port, got) = server();
        let link = Link::to(port);
        link.shoot(Shot::Park);
        let mut first = dial(&link);
        assert_eq!(say(&mut first, 10), None, "parked");
        let mut second = dial(&link);
        second.write_all(&[20]).unwrap();
        hears(&mut second, 21);
        hears(&mut first, 11);

        link.shoot(Shot::Overtake);
        assert_eq!(say(&mut first, 12), None, "held back");
        let mut third = dial(&link);
        third.write_all(&[30]).unwrap();
        hears(&mut third, 31);
        link.release();
        hears(&mut first, 13);
        assert!(got.lock().unwrap().ends_with(&[30, 12]));
    }

    #[test]
    fn half_open_ends_nothing_and_close_everything() {
        let (port, _) = server();
        let link = Link::to(port);
        let mut socket = dial(&link);
        socket.write_all(&[1]).unwrap();
        hears(&mut socket, 2);
        link.shoot(Shot::HalfOpen);
        socket.write_all(&[1]).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let mut other = dial(&link);
        other.write_all(&[1]).unwrap();
        hears(&mut other, 2);
        link.shoot(Shot::Close);
        until("it ends", PATIENCE, || match other.read(&mut [0]) {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        link.set(Weather { refuses: true, ..Weather::default() });
        let mut refused = dial(&link);
        until("it is refused", PATIENCE, || match refused.read(&mut [0]) {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}
