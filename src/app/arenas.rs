//! How many heaps the allocator keeps, and what it gives back.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// What glibc's allocator reads at the start of a program, and only then.
const VARIABLE: &str = "MALLOC_ARENA_MAX";
/// One for the main thread, one for all others.
const ARENAS: &str = "2";
/// Set as well, unless the environment says otherwise. A thread keeps up to seven freed pieces of each size for itself,
/// 230 KB by default: only small ones are worth it. And without a fixed limit glibc raises the size from which on it
/// asks the kernel, and gives back, to the largest piece freed so far.
/// The last one is for jemalloc, where a program has it (`src/bin/cloudcore.rs`): as few arenas, small caches, and pages
/// that nobody uses go back after a second.
const OTHERS: [(&str, &str); 3] = [
    ("GLIBC_TUNABLES", "glibc.malloc.tcache_max=256"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("_RJEM_MALLOC_CONF", "narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0,lg_tcache_max:10"),
];

/// Starts this program again in its place (`exec`: same process id) with few malloc arenas, unless the environment says
/// how many there are to be. glibc gives up to eight for each core, and memory that one thread freed in its arena serves
/// no other: after an hour of churn more than half of edgecore's heap was such free memory (BENCHMARKS.md, "Soak").
/// Where that cannot be done, the program goes on as it is.
pub fn keep_few() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return;
    }
    let is_set = |name: &str| env::var_os(name).is_some();
    if let Some(mut again) = again(is_set, env::current_exe().ok(), env::args_os().collect()) {
        // Comes back only when it failed.
        let _failed: std::io::Error = again.exec();
    }
}

fn again(is_set: impl Fn(&str) -> bool, program: Option<PathBuf>, args: Vec<OsString>) -> Option<Command> {
    if is_set(VARIABLE) {
        return None;
    }
    let mut command = Command::new(program?);
    let mut args = args.into_iter();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).env(VARIABLE, ARENAS);
    command.envs(OTHERS.into_iter().filter(|(name, _)| !is_set(name)));
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_once_and_with_the_same_words() {
        let words = || ["edgecore", "--config", "a b"].map(OsString::from).to_vec();
        let of = |set: &'static str| again(move |name| name == set, Some("/bin/edgecore".into()), words());
        assert!(of(VARIABLE).is_none(), "somebody has chosen");
        assert!(again(|_| false, None, words()).is_none(), "it does not know what it is");
        let command = of("another").unwrap();
        assert_eq!(command.get_program(), "/bin/edgecore");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["--config", "a b"]);
        let names = |command: &Command| -> Vec<String> {
            command.get_envs().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(
            names(&command),
            ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "_RJEM_MALLOC_CONF"]
        );
        assert_eq!(
            names(&of("GLIBC_TUNABLES").unwrap()),
            ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "_RJEM_MALLOC_CONF"]
        );
    }
}
