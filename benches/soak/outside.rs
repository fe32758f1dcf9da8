//! Churn from outside: scrapes, consoles, commands, joins, a link that is cut, an edge that dies.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::harness::cluster::{Cloud, Edge, Kubectl};
use super::harness::machine::{Session, join, keadm, reenter, token};
use super::harness::process::{http, program};
use super::harness::proxy::{Cut, Proxy};
use super::samples::EVERY;
use super::tally::Tally;

/// A link is whole for so long, then cut for longer than the edge waits.
const WHOLE: Duration = Duration::from_secs(50);
const CUT: Duration = Duration::from_secs(12);

/// Tells everybody when it is over.
pub struct Until<'a> {
    pub over: &'a AtomicBool,
    pub tally: Arc<Tally>,
}

impl Until<'_> {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Sleeps, but not beyond the end.
    fn pause(&self, length: Duration) {
        let until = Instant::now() + length;
        while self.goes_on() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100).min(length));
        }
    }

    /// Fetches these pages again and again.
    pub fn scrape(&self, pages: &[(String, &'static str)]) {
        while self.goes_on() {
            for (address, path) in pages {
                self.tally.note("scrape", expect_200(http("GET", address, path, &[])));
            }
            self.pause(EVERY);
        }
    }

    /// Opens a console, reads its stream for a while, and goes.
    pub fn consoles(&self, address: &str, mut token: impl FnMut() -> String) {
        while self.goes_on() {
            let token = token();
            for _ in 0..20 {
                if !self.goes_on() {
                    return;
                }
                self.tally.note("console open for 8 s", console(address, &token, Duration::from_secs(8)));
                self.pause(Duration::from_secs(2));
            }
        }
    }

    /// `kubectl get` and `describe`: a discovery, some lists, and away.
    pub fn commands(&self, kubectl: &Kubectl) {
        while self.goes_on() {
            for words in [&["get", "pods,nodes,events", "-A"][..], &["describe", "pod", "resident"]] {
                self.tally.note("kubectl get, describe", kubectl.try_run(words));
                self.pause(Duration::from_secs(5));
            }
        }
    }

    /// A machine that joins once, comes back by its key, opens a session and goes without a word.
    pub fn guests(&self, cloud: &Cloud) {
        let fault = |(code, why): (u16, String)| format!("{code} {why}");
        let mut last = None;
        while self.goes_on() {
            let came = match &last {
                None => join(cloud, "guest", token(cloud, &[])).map_err(fault),
                Some(svid) => reenter(cloud, "guest", svid).map_err(fault),
            };
            if let Some(credentials) = self.tally.note("machine joins or comes back by its key", came) {
                let session = Session::open(cloud, "guest", &credentials.svid).map_err(fault);
                let session = self.tally.note("its session", session);
                self.pause(Duration::from_secs(3));
                drop(session);
                last = Some(credentials.svid);
            }
            self.tally.note("keadm token list", keadm(cloud, &["token", "list"]));
            self.pause(Duration::from_secs(15));
        }
    }

    /// Cuts a link and gives it back.
    pub fn cut(&self, proxy: &Proxy) {
        for cut in [Cut::Both, Cut::Up, Cut::Down].into_iter().cycle() {
            self.pause(WHOLE);
            if !self.goes_on() {
                return;
            }
            proxy.cut(cut);
            self.pause(CUT);
            proxy.restore();
            self.tally.note("link cut for 12 s", Ok::<_, String>(()));
        }
    }

    /// `kill -9` for a second edge, which then comes back.
    pub fn kill_the_other(&self, edge: &mut Edge, settings: &[&str]) {
        while self.goes_on() {
            self.pause(Duration::from_secs(75));
            if self.goes_on() {
                edge.process.kill9();
                edge.restart(settings);
                self.tally.note("second edge killed and started", Ok::<_, String>(()));
            }
        }
    }
}

fn expect_200(answer: Result<(u16, String), String>) -> Result<(), String> {
    match answer? {
        (200, _) => Ok(()),
        (code, text) => Err(format!("{code} {text}")),
    }
}

/// As `keadm console` gives one.
pub fn console_token(cloud: &Cloud) -> String {
    let mut keadm = Command::new(program(env!("CARGO_BIN_EXE_keadm")));
    keadm.args(["console", "--quiet", "--config"]).arg(cloud.dir.join("cloudcore.yaml"));
    let out = keadm.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn console(address: &str, token: &str, length: Duration) -> Result<(), String> {
    let text = |err: std::io::Error| err.to_string();
    let mut stream = TcpStream::connect(address).map_err(text)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(text)?;
    let head = format!(
        "GET /console/stream HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: gzip\r\nCookie: kubeedge-console={token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).map_err(text)?;
    let mut answer = BufReader::new(stream);
    let mut line = Vec::new();
    answer.read_until(b'\n', &mut line).map_err(text)?;
    let first = String::from_utf8_lossy(&line).into_owned();
    if !first.contains(" 200 ") {
        return Err(first);
    }
    let begun = Instant::now();
    while begun.elapsed() < length {
        line.clear();
        if answer.read_until(b'\n', &mut line).map_err(text)? == 0 {
            return Err(format!("the stream ended after {:?}", begun.elapsed()));
        }
    }
    Ok(())
}
