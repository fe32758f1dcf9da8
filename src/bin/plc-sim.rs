//! A simulated PLC behind Modbus TCP. See `kubeedge::app::plc`.

use std::process::ExitCode;

use kubeedge::app::plc;

fn main() -> ExitCode {
    plc::run()
}
