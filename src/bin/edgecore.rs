//! The edge program: reads its command line and config file, then runs the tree.

use std::io::Write;
use std::process::ExitCode;

use kubeedge::app::{arenas, edge};
use kubeedge::config::{EdgeCoreConfig, RunMode, run_mode};

fn main() -> ExitCode {
    arenas::keep_few();
    match run_mode::<EdgeCoreConfig>(std::env::args_os()) {
        RunMode::Run(loaded) => ExitCode::from(edge::run(*loaded)),
        RunMode::Print(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        RunMode::Refuse { message, code } => {
            std::io::stderr().write_all(message.as_bytes()).ok();
            ExitCode::from(code)
        }
    }
}
