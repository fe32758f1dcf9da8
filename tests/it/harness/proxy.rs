//! A TCP proxy that can lose traffic the way a bad network does: without a word.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which way traffic is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
    Both,
}

#[derive(Default)]
struct Losses {
    up: AtomicBool,
    down: AtomicBool,
}

/// Forwards connections to one local port. A connection that lost a byte stays deaf in that
/// direction for ever, and nobody gets a FIN or RST for it: worse than any retransmission.
pub struct Proxy {
    pub port: u16,
    losses: Arc<Losses>,
}

impl Proxy {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let losses = Arc::new(Losses::default());
        let shared = Arc::clone(&losses);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let (client2, server2) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                std::thread::spawn(move || pump(client, server, || up.up.load(Ordering::SeqCst)));
                std::thread::spawn(move || pump(server2, client2, || down.down.load(Ordering::SeqCst)));
            }
        });
        Self { port, losses }
    }

    pub fn cut(&self, cut: Cut) {
        self.losses.up.store(cut != Cut::Down, Ordering::SeqCst);
        self.losses.down.store(cut != Cut::Up, Ordering::SeqCst);
    }

    /// New connections work again; what was lost stays lost.
    pub fn restore(&self) {
        self.losses.up.store(false, Ordering::SeqCst);
        self.losses.down.store(false, Ordering::SeqCst);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, lost: impl Fn() -> bool) {
    let mut buffer = vec![0; 16 << 10];
    let mut deaf = false;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        deaf |= lost();
        if !deaf && to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The end of a deaf connection is lost too.
    if !deaf && !lost() {
        to.shutdown(Shutdown::Write).ok();
    }
}
