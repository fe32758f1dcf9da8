//! What the kernel and the tools of a machine must have before pods run on it. All of it is read from
//! files below a root that tests bring.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::finding::Finding;

/// Largest file of a kernel or of CNI that is looked at, bytes.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Cgroup controllers that limits and evictions need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) fn look(root: &Path) -> Vec<Finding> {
    let machine = Machine { root: root.to_owned() };
    let cni = machine.cni();
    vec![
        machine.overlay(),
        machine.module("veth", "pods get no network of their own"),
        machine.bridge_netfilter(&cni),
        machine.cgroups(),
        machine.iptables(&cni),
    ]
}

struct Machine {
    root: PathBuf,
}

/// What the CNI configuration asks for.
#[derive(Debug, Default)]
struct Cni {
    plugins: BTreeSet<String>,
    masquerades: bool,
}

impl Machine {
    fn read(&self, path: &str) -> Option<String> {
        let path = self.root.join(path);
        let meta = std::fs::metadata(&path).ok()?;
        if meta.len() > MAX_BYTES { None } else { std::fs::read_to_string(path).ok() }
    }

    fn there(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Is the module built in, loaded, or there to be loaded? `None`: nothing tells.
    fn has_module(&self, name: &str) -> Option<bool> {
        let under = name.replace('-', "_");
        let loaded = self.read("proc/modules").unwrap_or_default();
        if self.there(&format!("sys/module/{under}"))
            || loaded.lines().any(|line| line.split(' ').next() == Some(under.as_str()))
        {
            return Some(true);
        }
        let release = self.read("proc/sys/kernel/osrelease")?;
        let folder = format!("lib/modules/{}", release.trim());
        let lists: Vec<String> = ["modules.builtin", "modules.dep"]
            .iter()
            .filter_map(|list| self.read(&format!("{folder}/{list}")))
            .collect();
        if lists.is_empty() {
            return None;
        }
        let file = format!("/{name}.ko");
        let named = |line: &str| line.split(':').next().is_some_and(|path| path.contains(&file));
        Some(lists.iter().flat_map(|list| list.lines()).any(named))
    }

    fn module(&self, name: &'static str, otherwise: &str) -> Finding {
        match self.has_module(name) {
            Some(true) => Finding::ok(name, "the kernel has it"),
            Some(false) => Finding::fail(
                name,
                format!("the kernel has no {name}: {otherwise}"),
                format!(
                    "a kernel with this module (install linux-modules-extra, or build it in), then modprobe {name}"
                ),
            ),
            None => Finding::skip(name, "the kernel does not tell (no /lib/modules for it)"),
        }
    }

    fn overlay(&self) -> Finding {
        const CHECK: &str = "overlayfs";
        let known = self.read("proc/filesystems").unwrap_or_default();
        if known.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
            return Finding::ok(CHECK, "the kernel has it");
        }
        if self.has_module("overlay") == Some(true) {
            return Finding::ok(CHECK, "the kernel loads it when it is needed");
        }
        Finding::fail(
            CHECK,
            "the kernel has no overlayfs: images are copied for each container, or not unpacked at all",
            "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS",
        )
    }

    fn cni(&self) -> Cni {
        let mut cni = Cni::default();
        let folder = self.root.join("etc/cni/net.d");
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_config = [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
            let text = is_config.then(|| self.read(&format!("etc/cni/net.d/{name}"))).flatten();
            if let Some(value) = text.and_then(|text| serde_json::from_str::<Value>(&text).ok()) {
                cni.read(&value);
            }
        }
        cni
    }

    fn bridge_netfilter(&self, cni: &Cni) -> Finding {
        const CHECK: &str = "bridge netfilter";
        const AT: &str = "proc/sys/net/bridge/bridge-nf-call-iptables";
        if !cni.plugins.contains("bridge") {
            return Finding::skip(CHECK, "no CNI configuration in /etc/cni/net.d uses a bridge");
        }
        match self.read(AT).as_deref().map(str::trim) {
            Some("1") => Finding::ok(CHECK, "bridged packets pass iptables"),
            Some(_) => Finding::fail(
                CHECK,
                "bridged packets do not pass iptables: rules for pods are not kept to",
                "sysctl -w net.bridge.bridge-nf-call-iptables=1, and put it into /etc/sysctl.d",
            ),
            None => Finding::fail(
                CHECK,
                "br_netfilter is not loaded: rules for pods on the bridge are not kept to",
                "modprobe br_netfilter, and name it in /etc/modules-load.d/kubeedge.conf",
            ),
        }
    }

    fn iptables(&self, cni: &Cni) -> Finding {
        const CHECK: &str = "iptables";
        let needs = ["portmap", "firewall"].iter().any(|name| cni.plugins.contains(*name)) || cni.masquerades;
        if !needs {
            return Finding::skip(CHECK, "no CNI configuration in /etc/cni/net.d needs it");
        }
        let folders = ["usr/sbin", "sbin", "usr/local/sbin", "usr/bin", "bin"];
        match folders.iter().find(|folder| self.there(&format!("{folder}/iptables"))) {
            Some(folder) => Finding::ok(CHECK, format!("/{folder}/iptables")),
            None => Finding::fail(
                CHECK,
                "the CNI configuration needs it and it is not installed: pods do not start",
                "apt install iptables (or the like)",
            ),
        }
    }

    fn cgroups(&self) -> Finding {
        const CHECK: &str = "cgroup controllers";
        let (version, have): (&str, Vec<String>) = match self.read("sys/fs/cgroup/cgroup.controllers") {
            Some(list) => ("v2", list.split_whitespace().map(str::to_owned).collect()),
            None => ("v1", enabled_v1(&self.read("proc/cgroups").unwrap_or_default())),
        };
        let missing: Vec<&str> =
            CONTROLLERS.into_iter().filter(|name| !have.iter().any(|own| own == name)).collect();
        if missing.is_empty() {
            return Finding::ok(CHECK, format!("cgroup {version} with {}", CONTROLLERS.join(", ")));
        }
        Finding::fail(
            CHECK,
            format!("cgroup {version} has no {}: limits of pods do not hold", missing.join(", ")),
            "add cgroup_enable=memory cgroup_memory=1 to the kernel's command line (Raspberry Pi: \
             /boot/firmware/cmdline.txt), or mount the cgroup file system; then restart",
        )
    }
}

/// Lines of `/proc/cgroups`: name, hierarchy, number, enabled.
fn enabled_v1(table: &str) -> Vec<String> {
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        (words.next_back()? == "1").then(|| name.to_owned())
    })
    .collect()
}

impl Cni {
    fn read(&mut self, value: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(plugin) = members.get("type").and_then(Value::as_str) {
                    self.plugins.insert(plugin.to_owned());
                }
                self.masquerades |= members.get("ipMasq") == Some(&Value::Bool(true));
                // Addresses (`ipam`) are given by programs of their own.
                members.iter().filter(|(name, _)| *name == "plugins").for_each(|(_, inner)| self.read(inner));
            }
            Value::Array(items) => items.iter().for_each(|item| self.read(item)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A machine where all is well.
    fn well() -> Vec<(&'static str, &'static str)> {
        vec![
            ("proc/filesystems", "nodev\tsysfs\nnodev\toverlay\n\text4\n"),
            ("proc/modules", "veth 12 0 - Live 0x0\n"),
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            ("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
            (
                "etc/cni/net.d/10.conflist",
                r#"{"plugins": [{"type": "bridge", "ipMasq": true, "ipam": {"type": "host-local"}}, {"type": "portmap"}]}"#,
            ),
            ("usr/sbin/iptables", ""),
        ]
    }

    fn lines(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().expect("temp dir");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, text).expect("write");
        }
        look(dir.path()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_thing_after_another() {
        let all = lines(&well());
        assert!(all.iter().all(|line| line.starts_with("ok ")), "{all:#?}");
        for (path, text, want) in [
            ("proc/filesystems", Some("nodev\tsysfs\n"), "FAIL  overlayfs: the kernel has no overlayfs"),
            ("proc/modules", Some(""), "skip  veth: the kernel does not tell"),
            (
                "proc/sys/net/bridge/bridge-nf-call-iptables",
                Some("0"),
                "FAIL  bridge netfilter: bridged packets do not",
            ),
            (
                "proc/sys/net/bridge/bridge-nf-call-iptables",
                None,
                "FAIL  bridge netfilter: br_netfilter is not loaded",
            ),
            (
                "sys/fs/cgroup/cgroup.controllers",
                Some("cpu pids"),
                "FAIL  cgroup controllers: cgroup v2 has no memory",
            ),
            (
                "sys/fs/cgroup/cgroup.controllers",
                None,
                "FAIL  cgroup controllers: cgroup v1 has no cpu, memory, pids",
            ),
            ("usr/sbin/iptables", None, "FAIL  iptables: the CNI configuration needs it"),
        ] {
            let mut files = well();
            files.retain(|(name, _)| *name != path);
            files.extend(text.map(|text| (path, text)));
            let changed: Vec<String> =
                lines(&files).into_iter().filter(|line| !line.starts_with("ok ")).collect();
            assert!(changed.len() == 1 && changed[0].starts_with(want), "{path}: {changed:?}");
            assert!(changed[0].starts_with("skip") || changed[0].contains("; fix: "), "{changed:?}");
        }
        // Nothing is asked for that no configuration needs.
        let mut files = well();
        files.retain(|(name, _)| {
            !name.starts_with("etc") && !name.starts_with("usr") && !name.contains("bridge")
        });
        let skipped = lines(&files).iter().filter(|line| line.starts_with("skip")).count();
        assert_eq!(skipped, 2);
    }

    #[test]
    fn modules_are_found_wherever_they_are() {
        for (list, text, want) in [
            ("modules.builtin", "kernel/drivers/net/veth.ko\n", "ok "),
            ("modules.dep", "kernel/drivers/net/veth.ko.xz: kernel/x.ko\n", "ok "),
            ("modules.dep", "kernel/net/other.ko: kernel/drivers/net/veth.ko\n", "FAIL"),
        ] {
            let mut files = well();
            files.retain(|(name, _)| *name != "proc/modules");
            let path = format!("lib/modules/6.1.0/{list}");
            files.push((&path, text));
            assert!(lines(&files)[1].starts_with(want), "{list} {text}");
        }
        assert_eq!(
            enabled_v1("#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t1\t1\nmemory\t0\t1\t0\n"),
            ["cpu"]
        );
    }
}
