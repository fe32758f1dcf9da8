//! One MQTT connection that writes in batches and reads many packets at once.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::packet::{self, Frame};

/// How long a broker may take to answer CONNECT or SUBSCRIBE.
const ANSWER: Duration = Duration::from_secs(10);
const KEEP_ALIVE_SECS: u16 = 300;

pub struct Connection {
    stream: TcpStream,
    /// What was read; packets are complete up to somewhere below `filled`.
    input: Vec<u8>,
    filled: usize,
    /// What waits to be written from `written` on. Append packets here.
    pub output: Vec<u8>,
    written: usize,
    last_id: u16,
}

impl Connection {
    /// Connects with a clean session. `buffer` bounds what one read takes, and the largest packet.
    ///
    /// # Errors
    /// What the broker or the network said.
    pub async fn open(address: &str, client: &str, buffer: usize) -> Result<Self, String> {
        let opened = async {
            let stream = TcpStream::connect(address).await.map_err(|err| format!("connect: {err}"))?;
            stream.set_nodelay(true).map_err(|err| err.to_string())?;
            let (input, output) = (vec![0; buffer], Vec::new());
            let mut this = Self { stream, input, filled: 0, output, written: 0, last_id: 0 };
            packet::connect(&mut this.output, client, KEEP_ALIVE_SECS);
            let mut code = None;
            while code.is_none() {
                this.turn(false).await?;
                this.each(|frame, _| {
                    if let Frame::Connected(answer) = frame {
                        code = Some(answer);
                    }
                })?;
            }
            if code == Some(0) { Ok(this) } else { Err(format!("CONNECT refused with {code:?}")) }
        };
        timeout(ANSWER, opened).await.map_err(|_| format!("{address}: no CONNACK in {ANSWER:?}"))?
    }

    /// Subscribes and waits for the answer. Retained messages that come with it go to `on_message`.
    ///
    /// # Errors
    /// Also when the broker grants less than `qos`.
    pub async fn subscribe(
        &mut self,
        filter: &str,
        qos: u8,
        mut on_message: impl FnMut(Frame<'_>, &mut Vec<u8>),
    ) -> Result<(), String> {
        let id = self.next_id();
        packet::subscribe(&mut self.output, id, filter, qos);
        let mut granted: Option<Vec<u8>> = None;
        let answered = async {
            while granted.is_none() {
                self.turn(false).await?;
                self.each(|frame, out| match frame {
                    Frame::Subscribed(codes) => granted = Some(codes.to_vec()),
                    other => on_message(other, out),
                })?;
            }
            Ok::<(), String>(())
        };
        timeout(ANSWER, answered).await.map_err(|_| format!("no SUBACK in {ANSWER:?}"))??;
        if granted == Some(vec![qos]) {
            Ok(())
        } else {
            Err(format!("subscription to {filter} with QoS {qos} was answered {granted:?}"))
        }
    }

    /// 1 to 65535, over and over.
    pub fn next_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    /// Nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Writes what waits and reads what came. Returns once something was read, or, with
    /// `or_flushed`, once nothing waits to be written any more. Nothing is lost when it is dropped.
    ///
    /// # Errors
    /// [`CLOSED`] when the broker closed the connection, else the network's.
    pub async fn turn(&mut self, or_flushed: bool) -> Result<(), String> {
        poll_fn(|cx| self.poll_turn(cx, or_flushed)).await.map_err(|err| {
            if err.kind() == io::ErrorKind::UnexpectedEof { CLOSED.to_owned() } else { err.to_string() }
        })
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, or_flushed: bool) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output[self.written..]) {
                Poll::Ready(count) => self.written += count?,
                Poll::Pending => break,
            }
            if self.written == self.output.len() {
                self.output.clear();
                self.written = 0;
            }
        }
        if self.filled == self.input.len() {
            return Poll::Ready(Err(io::Error::other("a packet larger than the read buffer")));
        }
        let mut free = ReadBuf::new(&mut self.input[self.filled..]);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut free);
        let count = free.filled().len();
        if read.is_pending() && or_flushed && self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(read)?;
        self.filled += count;
        Poll::Ready(if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }

    /// Hands over each complete packet that was read, with the output for answers.
    ///
    /// # Errors
    /// A packet that is none.
    pub fn each(&mut self, mut take: impl FnMut(Frame<'_>, &mut Vec<u8>)) -> Result<(), String> {
        let mut at = 0;
        while let Some((frame, length)) = packet::next(&self.input[at..self.filled])? {
            take(frame, &mut self.output);
            at += length;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    /// Says goodbye and waits until the broker has closed, thus has read everything before it.
    ///
    /// # Errors
    /// The broker does not close.
    pub async fn close(mut self) -> Result<(), String> {
        packet::disconnect(&mut self.output);
        let closed = async {
            loop {
                if self.turn(false).await.is_err() {
                    return;
                }
                self.filled = 0;
            }
        };
        timeout(ANSWER, closed).await.map_err(|_| "the broker does not close after DISCONNECT".to_owned())
    }
}

pub const CLOSED: &str = "the broker closed the connection";
