//! The units of `deploy/systemd`, as systemd itself reads them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::boards::repository;

const UNITS: [&str; 3] = ["cloudcore.service", "edgecore.service", "mapper@modbus.service"];

/// A root folder in which the package is installed; the programs do nothing.
fn installed() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let (units, bin) = (root.path().join("usr/lib/systemd/system"), root.path().join("usr/bin"));
    for folder in [&units, &bin] {
        fs::create_dir_all(folder).unwrap();
    }
    for entry in fs::read_dir(repository("deploy/systemd")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "service") {
            fs::copy(&path, units.join(path.file_name().unwrap())).unwrap();
        }
    }
    for target in ["sysinit", "basic", "multi-user", "network-online", "shutdown"] {
        fs::write(units.join(format!("{target}.target")), "[Unit]\nDescription=of a machine\n").unwrap();
    }
    for program in ["cloudcore", "edgecore", "mapper-modbus", "systemd-tmpfiles"] {
        let path = bin.join(program);
        fs::write(&path, "#!/bin/true\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    root
}

fn analyze(root: &Path, args: &[&str]) -> String {
    let out = Command::new("systemd-analyze").args(args).arg("--root").arg(root).output();
    let out = out.expect("systemd-analyze (deploy/tools.sh test installs it)");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "systemd-analyze {args:?}: {said}");
    said
}

#[test]
fn systemd_finds_nothing_wrong() {
    let root = installed();
    for unit in UNITS {
        // A wrong key is only a line on its standard error.
        assert_eq!(analyze(root.path(), &["verify", unit]), "", "{unit}");
    }
}

#[test]
fn the_units_are_as_closed_as_the_document_says() {
    let root = installed();
    let document = fs::read_to_string(repository("deploy/INSTALL.md")).unwrap();
    for unit in UNITS {
        let said = analyze(root.path(), &["security", "--offline=true", "--no-pager", unit]);
        let number = |text: &str| text.split_whitespace().find_map(|word| word.parse::<f64>().ok());
        let exposure = said
            .lines()
            .find(|line| line.contains("exposure level"))
            .and_then(|line| number(line.rsplit(": ").next().unwrap_or_default()));
        let name = unit.replace("modbus", "");
        let row = document.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let told = row.and_then(|row| number(row.rsplit('|').nth(1).unwrap_or_default()));
        let (Some(exposure), Some(told)) = (exposure, told) else { panic!("{unit}: {said} {row:?}") };
        // Other versions of systemd count a little differently.
        assert!(exposure <= told + 0.5, "{unit}: {exposure}, the document says {told}");
    }
}

#[test]
fn every_folder_that_a_unit_needs_is_made_and_every_user() {
    let read = |name: &str| fs::read_to_string(repository("deploy/systemd").join(name)).unwrap();
    let cloud = read("cloudcore.service");
    let users = read("kubeedge.sysusers");
    let user = cloud.lines().find_map(|line| line.strip_prefix("User=")).unwrap();
    assert!(users.lines().any(|line| line.starts_with(&format!("u {user} "))), "{user} in {users}");
    let folders = format!("{}{}", read("kubeedge.tmpfiles"), read("cloudcore.tmpfiles"));
    let mapper = read("mapper@.service");
    for line in cloud.lines().chain(mapper.lines()) {
        for folder in line.strip_prefix("ReadWritePaths=").into_iter().flat_map(str::split_whitespace) {
            let made = folders.lines().any(|line| line.starts_with(&format!("d {folder} ")));
            assert!(made, "{folder} in {folders}");
        }
    }
}
