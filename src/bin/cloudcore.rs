//! The cloud program: reads its command line and config file, then runs the tree.

use std::io::Write;
use std::process::ExitCode;

use kubeedge::app::{arenas, cloud};
use kubeedge::config::{CloudCoreConfig, RunMode, run_mode};

/// glibc keeps what small objects that stay have cut into pieces: under churn its heap grew by 8 MB an hour for hours. RocksDB
/// stays with it: a program whose `malloc` is another one does not start under libraries that are loaded before it, such as
/// libfaketime. `src/app/arenas.rs` says how both are set.
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    arenas::keep_few();
    match run_mode::<CloudCoreConfig>(std::env::args_os()) {
        RunMode::Run(loaded) => ExitCode::from(cloud::run(*loaded)),
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
