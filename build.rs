//! Release programs have the part of the C++ library inside that RocksDB uses (Linux with glibc): memory that every edge
//! node would pay for otherwise; BENCHMARKS.md, "Footprint", says how much.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    writeln!(out, "cargo::rerun-if-changed=build.rs")?;
    writeln!(out, "cargo::rerun-if-env-changed=CXX")?;
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|is| is == value);
    let known = is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && env::var("HOST").ok() == env::var("TARGET").ok();
    if !known || !is("PROFILE", "release") {
        return Ok(());
    }
    // The linker takes a library from the first folder that has it, shared or static: this one has the static one only.
    if let Some(archive) = cxx_library() {
        let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("cxx");
        fs::create_dir_all(&folder)?;
        fs::copy(archive, folder.join("libstdc++.a"))?;
        writeln!(out, "cargo::rustc-link-search=native={}", folder.display())?;
    }
    Ok(())
}

/// Where the compiler has `libstdc++.a`.
fn cxx_library() -> Option<PathBuf> {
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let said = Command::new(compiler).arg("-print-file-name=libstdc++.a").output().ok()?;
    let path = String::from_utf8(said.stdout).ok()?;
    let path = Path::new(path.trim());
    // The bare name comes back where there is none.
    (path.is_absolute() && path.is_file()).then(|| path.to_owned())
}
