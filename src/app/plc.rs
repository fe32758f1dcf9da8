//! plc-sim: a Modbus TCP device to try things with. The plant is `mapper::plant`; this serves it.

use std::future::ready;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::Server;
use tokio_modbus::{ExceptionCode, Request, Response};

use super::program::Fatal;
use crate::config::LoggingConfig;
use crate::mapper::plant::{Plant, Refused, taken};
use crate::telemetry::logging;

/// So often the plant moves when nobody asks.
const TICK: Duration = Duration::from_millis(500);
/// Clients at once; further ones are turned away.
const MAX_CLIENTS: usize = 32;

/// A simulated PLC: boiler and pump behind Modbus TCP
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where it listens, host:port; whoever reaches it may switch it, as with any Modbus device
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1502")]
    listen: SocketAddr,
    /// Log filter: error, warn, info, debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

/// Runs it until SIGTERM or SIGINT.
#[must_use]
pub fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(err) => {
            err.print().ok();
            return ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(2));
        }
    };
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            std::io::stderr().write_all(format!("plc-sim: {err}\n").as_bytes()).ok();
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> Result<(), Fatal> {
    logging::init(&LoggingConfig { level: args.log, ..LoggingConfig::default() })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen)
            .await
            .map_err(|err| format!("--listen: cannot listen on {}: {err}", args.listen))?;
        tracing::info!(address = %listener.local_addr()?, "plc listens");
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            served = serve(listener) => served?,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("plc ends");
        Ok(())
    })
}

/// Serves a plant until accepting fails.
async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let plc = Plc { shared: Arc::new(Mutex::new((Plant::default(), Instant::now()))) };
    let clients = Arc::new(AtomicUsize::new(0));
    let on_connected = |stream: TcpStream, _| {
        let seat = Seat::take(&clients);
        let plc = plc.clone();
        ready(Ok(seat.map(|seat| (Served { plc, _seat: seat }, stream))))
    };
    let on_process_error = |error| tracing::debug!(%error, "a client's connection ended");
    let server = Server::new(listener);
    let ticks = async {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            plc.now(|_| ());
        }
    };
    tokio::select! {
        served = server.serve(&on_connected, on_process_error) => served,
        () = ticks => Ok(()),
    }
}

/// One of the places for clients; given back when dropped.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let free = |count: usize| (count < MAX_CLIENTS).then_some(count + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Self(Arc::clone(taken)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The plant and when it was last looked at.
#[derive(Clone)]
struct Plc {
    shared: Arc<Mutex<(Plant, Instant)>>,
}

impl Plc {
    /// Uses the plant as it is now.
    fn now<T>(&self, with: impl FnOnce(&mut Plant) -> T) -> T {
        let mut shared = self.shared.lock();
        let (plant, seen) = &mut *shared;
        plant.advance(seen.elapsed());
        *seen = Instant::now();
        with(plant)
    }

    fn answer(&self, request: &Request<'_>) -> Result<Response, Refusal> {
        self.now(|plant| {
            Ok(match request {
                Request::ReadCoils(at, count) => Response::ReadCoils(taken(&plant.coils(), *at, *count)?),
                Request::ReadDiscreteInputs(at, count) => {
                    Response::ReadDiscreteInputs(taken(&plant.discrete_inputs(), *at, *count)?)
                }
                Request::ReadHoldingRegisters(at, count) => {
                    Response::ReadHoldingRegisters(taken(&plant.holding_registers(), *at, *count)?)
                }
                Request::ReadInputRegisters(at, count) => {
                    Response::ReadInputRegisters(taken(&plant.input_registers(), *at, *count)?)
                }
                Request::WriteSingleCoil(at, on) => {
                    plant.write_coils(*at, &[*on])?;
                    Response::WriteSingleCoil(*at, *on)
                }
                Request::WriteMultipleCoils(at, values) => {
                    plant.write_coils(*at, values)?;
                    Response::WriteMultipleCoils(*at, length(values)?)
                }
                Request::WriteSingleRegister(at, value) => {
                    plant.write_registers(*at, &[*value])?;
                    Response::WriteSingleRegister(*at, *value)
                }
                Request::WriteMultipleRegisters(at, values) => {
                    plant.write_registers(*at, values)?;
                    Response::WriteMultipleRegisters(*at, length(values)?)
                }
                _ => return Err(Refusal(ExceptionCode::IllegalFunction)),
            })
        })
    }
}

/// What a client is told that gets no answer.
struct Refusal(ExceptionCode);

impl From<Refused> for Refusal {
    fn from(why: Refused) -> Self {
        Self(match why {
            Refused::Address => ExceptionCode::IllegalDataAddress,
            Refused::Value => ExceptionCode::IllegalDataValue,
        })
    }
}

fn length<T>(values: &[T]) -> Result<u16, Refusal> {
    u16::try_from(values.len()).map_err(|_| Refusal(ExceptionCode::IllegalDataValue))
}

/// The plant for one client.
struct Served {
    plc: Plc,
    _seat: Seat,
}

impl Service for Served {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = std::future::Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        ready(self.plc.answer(&request).map_err(|refusal| refusal.0))
    }
}

#[cfg(test)]
mod tests {
    use tokio_modbus::Slave;
    use tokio_modbus::client::{Reader, Writer, tcp};

    use super::*;

    #[tokio::test]
    async fn a_client_reads_writes_and_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(serve(listener));
        let mut client = tcp::connect_slave(address, Slave(1)).await.expect("connects");
        client.write_single_register(1, 700).await.expect("io").expect("a set point");
        assert_eq!(client.read_holding_registers(0, 2).await.expect("io"), Ok(vec![1_200, 700]));
        client.write_multiple_coils(0, &[false, true]).await.expect("io").expect("coils");
        assert_eq!(client.read_coils(0, 2).await.expect("io"), Ok(vec![false, true]));
        assert_eq!(client.read_input_registers(0, 5).await.expect("io").expect("inputs").len(), 5);
        assert_eq!(client.read_discrete_inputs(0, 1).await.expect("io"), Ok(vec![false]));
        let refused = client.read_input_registers(5, 1).await.expect("io");
        assert_eq!(refused, Err(ExceptionCode::IllegalDataAddress));
        let refused = client.write_single_register(0, 9_000).await.expect("io");
        assert_eq!(refused, Err(ExceptionCode::IllegalDataValue));
        let refused = client.read_write_multiple_registers(0, 1, 0, &[1]).await.expect("io");
        assert_eq!(refused, Err(ExceptionCode::IllegalFunction));
    }

    #[test]
    fn seats_are_bounded_and_come_back() {
        let taken = Arc::new(AtomicUsize::new(0));
        let seats: Vec<Option<Seat>> = (0..MAX_CLIENTS).map(|_| Seat::take(&taken)).collect();
        assert!(seats.iter().all(Option::is_some) && Seat::take(&taken).is_none());
        drop(seats);
        assert!(Seat::take(&taken).is_some());
    }
}
