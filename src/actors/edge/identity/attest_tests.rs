use proptest::prelude::*;

use super::*;

const UID: &str = "0f5a2d6e-6a52-4d5c-9c2b-0d7b8f1b2a3c";
const UNDER: &str = "0f5a2d6e_6a52_4d5c_9c2b_0d7b8f1b2a3c";

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn found(text: &str, init: &str) -> Option<(String, String)> {
    container(text, init).ok().map(|it| (it.pod_uid, it.container_id))
}

#[test]
fn every_shape_of_a_containers_cgroup_is_read() {
    let a = id('a');
    for (case, path) in [
        ("cgroupfs, guaranteed", format!("/kubepods/pod{UID}/{a}")),
        ("cgroupfs, burstable", format!("/kubepods/burstable/pod{UID}/{a}")),
        ("cgroupfs, best effort", format!("/kubepods/besteffort/pod{UID}/{a}")),
        ("cgroupfs, cri-o", format!("/kubepods/besteffort/pod{UID}/crio-{a}")),
        (
            "systemd, guaranteed",
            format!("/kubepods.slice/kubepods-pod{UNDER}.slice/cri-containerd-{a}.scope"),
        ),
        (
            "systemd, burstable",
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDER}.slice/cri-containerd-{a}.scope"
            ),
        ),
        (
            "systemd, cri-o below its scope",
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDER}.slice/crio-{a}.scope/container"
            ),
        ),
        ("a cgroup of its own inside", format!("/kubepods/pod{UID}/{a}/init.scope")),
    ] {
        let want = Some((UID.to_owned(), a.clone()));
        assert_eq!(found(&format!("0::{path}\n"), "0::/init.scope\n"), want, "v2, {case}");
        let v1 = format!("12:cpu,cpuacct:{path}\n11:memory:{path}\n1:name=systemd:{path}\n0::/\n");
        assert_eq!(found(&v1, "12:cpu,cpuacct:/\n11:memory:/init.scope\n"), want, "v1, {case}");
        let nested = format!("0::/docker/{}{path}\n", id('c'));
        let init = format!("0::/docker/{}/init.scope\n", id('c'));
        assert_eq!(found(&nested, &init), want, "inside a container, {case}");
        assert_eq!(found(&nested, "0::/\n"), None, "in a place of somebody else, {case}");
    }
}

#[test]
fn what_is_no_container_is_none() {
    let a = id('a');
    for path in [
        "/".to_owned(),
        "/init.scope".to_owned(),
        "/system.slice/ssh.service".to_owned(),
        format!("/kubepods/burstable/pod{UID}"),
        format!("/kubepods/pod{UID}/{}", "a".repeat(63)),
        format!("/kubepods/pod{UID}/{}", "A".repeat(64)),
        format!("/kubepods/pod{UID}/{a} (deleted)"),
        format!("/kubepods/pod{UID}/crio-conmon-{a}"),
        format!("/kubepods/pod/{a}"),
        format!("/kubepods/../pod{UID}/{a}"),
        format!("/kubepods.slice/kubepods-pod{UNDER}.slice/{a}"),
        format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-pod{UNDER}.slice/cri-containerd-{a}.scope"
        ),
        format!("/docker/{a}"),
        // A user may make such folders below their own.
        format!("/user.slice/user-1000.slice/user@1000.service/kubepods/burstable/pod{UID}/{a}"),
        format!("//kubepods/pod{UID}/{a}"),
    ] {
        assert_eq!(container(&format!("0::{path}\n"), "0::/\n"), Err(NoContainer::NoPod), "{path}");
    }
}

#[test]
fn a_container_cannot_name_another_below_itself() {
    let text = format!("0::/kubepods/pod{UID}/{}/kubepods/podother/{}\n", id('a'), id('b'));
    assert_eq!(found(&text, "0::/\n"), Some((UID.to_owned(), id('a'))));
    let text = format!("0::/kubepods/pod{UID}/{}/{}\n", id('a'), id('b'));
    assert_eq!(found(&text, "0::/\n"), Some((UID.to_owned(), id('a'))));
}

#[test]
fn a_process_between_two_containers_has_none() {
    let text = format!("2:memory:/kubepods/pod{UID}/{}\n1:cpu:/kubepods/pod{UID}/{}\n", id('a'), id('b'));
    assert_eq!(container(&text, "1:cpu:/\n2:memory:/\n"), Err(NoContainer::TwoContainers));
}

#[test]
fn stat_lines() {
    let line = |comm: &str, state: &str| {
        format!(
            "71 ({comm}) {state} 1 71 71 0 -1 4194560 1 0 0 0 7 8 0 0 20 0 1 0 123456 0 0 18446744073709551615\n"
        )
    };
    for (comm, state, is_dead) in [
        ("sh", "S", false),
        ("a) R 1 (b", "R", false),
        ("tmux: server", "S", false),
        ("x", "Z", true),
        ("x", "X", true),
    ] {
        assert_eq!(stat(&line(comm, state)), Some(Stat { is_dead, started: 123_456 }), "{comm}");
    }
    assert_eq!(stat("71 (sh) S 1 2 3"), None);
    assert_eq!(stat(""), None);
    // The real one.
    let own = std::fs::read_to_string("/proc/self/stat").unwrap();
    assert!(stat(&own).is_some_and(|stat| !stat.is_dead && stat.started > 0), "{own}");
}

#[test]
fn users_of_processes() {
    let status = "Name:\tsh\nUmask:\t0022\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t5\t5\t5\n";
    assert_eq!(effective_uid(status), Some(1001));
    assert_eq!(effective_uid("Name:\tUid:\nUid:\t\n"), None);
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(effective_uid(&own), Some(nix::unistd::geteuid().as_raw()));
}

#[test]
fn paths_of_binaries() {
    assert_eq!(binary_path("/bin/sh").as_deref(), Some("/bin/sh"));
    assert_eq!(binary_path("/bin/sh (deleted)"), None);
    assert_eq!(binary_path("memfd:x"), None);
}

proptest! {
    #[test]
    fn any_text_never_panics(text in ".{0,120}", init in ".{0,40}") {
        drop(container(&text, &init));
        drop(container(&format!("0::/{text}"), &init));
        drop(container(&format!("1:cpu:/kubepods/{text}\n{init}"), &init));
        let found = [stat(&text).is_some(), stat(&format!("1 ({text}) S {init}")).is_some(), effective_uid(&text).is_some()];
        prop_assert!(!found.is_empty());
    }

    /// Whatever a container puts below its own cgroup, it stays itself.
    #[test]
    fn below_itself_a_container_stays_itself(below in "(/[a-z0-9.:_-]{0,70}){0,4}") {
        let text = format!("0::/kubepods/burstable/pod{UID}/{}{below}\n", id('a'));
        prop_assert_eq!(found(&text, "0::/\n"), Some((UID.to_owned(), id('a'))));
    }

    /// No path that does not begin with the cgroup of all pods is a pod's.
    #[test]
    fn elsewhere_nothing_is_a_pods(above in "/[a-z]{1,8}(\\.slice)?", system in "/[A-Z]{1,8}") {
        prop_assume!(above != "/kubepods" && above != "/kubepods.slice");
        let text = format!("0::{above}/kubepods/pod{UID}/{}\n", id('a'));
        let init = format!("0::{system}\n");
        prop_assert_eq!(found(&text, &init), None);
    }
}
