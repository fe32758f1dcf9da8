//! What a pod may ask for, from kubectl to the running container and back.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::harness::process::PATIENCE;
use super::harness::process::{free_port, http, until};
use super::main_job::{World, sleeper};

/// A pod whose only container runs `script`; `extra` are further lines of its spec.
fn job(name: &str, script: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.local/hello:1
    command: [/bin/sh, -c, \"{script}\"]
{extra}"
    )
}

#[test]
fn volumes_environment_network_and_limits() {
    let world = World::start();
    let kubectl = world.kubectl();
    let sh = |pod: &str, script: &str| world.runtime.exec(pod, "main", &["/bin/sh", "-c", script]);
    let shared = world.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("from-host"), "host\n").unwrap();
    let port = free_port();

    kubectl.run(&["create", "configmap", "conf", "--from-literal=text=configured"]);
    kubectl.run(&["create", "secret", "generic", "keys", "--from-literal=password=s3cret"]);
    kubectl.apply(&sleeper(
        "everything",
        &format!(
            "    env:
    - {{ name: POD, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}
    - {{ name: IP, valueFrom: {{ fieldRef: {{ fieldPath: status.podIP }} }} }}
    - {{ name: MEMORY, valueFrom: {{ resourceFieldRef: {{ resource: limits.memory, divisor: 1Mi }} }} }}
    ports: [{{ containerPort: 8080, hostPort: {port} }}]
    resources: {{ limits: {{ memory: 48Mi, cpu: 500m }} }}
    volumeMounts:
    - {{ name: scratch, mountPath: /scratch }}
    - {{ name: all, mountPath: /all }}
    - {{ name: host, mountPath: /host }}
  initContainers:
  - name: first
    image: registry.local/hello:1
    command: [/bin/sh, -c, 'echo one > /scratch/order']
    volumeMounts: [{{ name: scratch, mountPath: /scratch }}]
  - name: second
    image: registry.local/hello:1
    command: [/bin/sh, -c, 'echo two >> /scratch/order']
    volumeMounts: [{{ name: scratch, mountPath: /scratch }}]
  volumes:
  - {{ name: scratch, emptyDir: {{}} }}
  - {{ name: host, hostPath: {{ path: {}, type: Directory }} }}
  - name: all
    projected:
      sources:
      - configMap: {{ name: conf }}
      - secret: {{ name: keys, items: [{{ key: password, path: deep/password }}] }}
      - downwardAPI: {{ items: [{{ path: labels, fieldRef: {{ fieldPath: metadata.labels }} }}] }}
      - serviceAccountToken: {{ path: token, audience: elsewhere }}
",
            shared.display()
        ),
    ));
    kubectl.apply(&sleeper("on-host", "  hostNetwork: true\n"));
    for pod in ["everything", "on-host"] {
        kubectl.wait_running(pod);
    }

    let pod = kubectl.json(&["get", "pod", "everything"]);
    let init = pod["status"]["initContainerStatuses"].as_array().unwrap();
    for status in init {
        assert_eq!(status["state"]["terminated"]["reason"], "Completed", "{status}");
    }
    assert_eq!(init.len(), 2);
    assert_eq!(pod["status"]["qosClass"], "Burstable", "its init containers have no limits");
    let ip = pod["status"]["podIP"].as_str().unwrap();
    assert_eq!(sh("everything", "cat /scratch/order"), "one\ntwo\n");
    assert_eq!(sh("everything", "echo $POD $IP $MEMORY"), format!("everything {ip} 48\n"));
    assert_eq!(sh("everything", "cat /all/text /all/deep/password"), "configureds3cret");
    assert_eq!(sh("everything", "cat /all/labels"), "app=\"everything\"");
    assert_eq!(sh("everything", "cat /all/token").split('.').count(), 3);
    assert_eq!(sh("everything", "cat /host/from-host; echo pod > /host/from-pod"), "host\n");
    assert_eq!(fs::read_to_string(shared.join("from-pod")).unwrap(), "pod\n");
    let limit =
        "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    assert_eq!(sh("everything", limit).trim(), (48 << 20).to_string());
    let quota = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us";
    assert_eq!(sh("everything", quota).split_whitespace().next(), Some("50000"));

    sh(
        "everything",
        "mkdir -p /tmp/www; echo by the host port > /tmp/www/index.html; httpd -p 8080 -h /tmp/www",
    );
    let page =
        until("the host port answers", PATIENCE, || http("GET", &format!("127.0.0.1:{port}"), "/", &[]));
    assert_eq!(page.1.trim(), "by the host port");

    let on_host = kubectl.json(&["get", "pod", "on-host"]);
    assert_eq!(on_host["status"]["podIP"], on_host["status"]["hostIP"], "{}", on_host["status"]);
    let inode = |path: &str| fs::read_link(path).unwrap().display().to_string();
    let id = on_host["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    let pid = super::main_job::container_pid(&world.runtime, id);
    assert_eq!(inode(&format!("/proc/{pid}/ns/net")), inode("/proc/self/ns/net"));

    // Its log stands where the kubelet would write it, in the format of the CRI.
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let log = world.edge.dir.join(format!("pods-logs/default_everything_{uid}/main/0.log"));
    let log = fs::read_to_string(&log).unwrap_or_else(|err| panic!("{}: {err}", log.display()));
    let line: Vec<&str> = log.lines().next().unwrap().splitn(4, ' ').collect();
    assert!(
        line[0].parse::<jiff::Timestamp>().is_ok() && line[1..] == ["stdout", "F", "started"],
        "{line:?}"
    );

    // What is in an emptyDir survives its containers, and goes with the pod.
    let volumes = world.edge.dir.join(format!("kubelet/pods/{uid}"));
    assert!(volumes.exists());
    kubectl.run(&["delete", "pod", "everything", "on-host"]);
    until("the pod's folder is gone", PATIENCE, || {
        if volumes.exists() { Err("it is there".into()) } else { Ok(()) }
    });
}

#[test]
fn pods_that_end_and_pods_that_never_start() {
    let world = World::start();
    let kubectl = world.kubectl();
    let once = "    volumeMounts: [{ name: scratch, mountPath: /scratch }]
  volumes: [{ name: scratch, emptyDir: {} }]
";
    let phase = "{.status.phase}";
    let main = ".status.containerStatuses[0]";
    kubectl.apply(&job("succeeds", "exit 0", "  restartPolicy: Never\n"));
    kubectl.apply(&job("fails", "exit 3", "  restartPolicy: Never\n"));
    let wordy = "    terminationMessagePolicy: FallbackToLogsOnError\n  restartPolicy: Never\n";
    kubectl.apply(&job("says-why", "echo no such sensor >&2; exit 4", wordy));
    kubectl.apply(&job("again-and-again", "exit 1", ""));
    kubectl.apply(&job(
        "tries-again",
        "test -e /scratch/x && exit 0; touch /scratch/x; exit 1",
        &format!("{once}  restartPolicy: OnFailure\n"),
    ));
    kubectl.apply(&job("too-long", "sleep 1000", "  restartPolicy: Never\n  activeDeadlineSeconds: 3\n"));
    kubectl.apply(&job(
        "init-fails",
        "sleep 1000",
        "  restartPolicy: Never\n  initContainers: [{ name: first, image: registry.local/hello:1, command: [/bin/false] }]\n",
    ));
    kubectl
        .apply(&sleeper("never-pulled", "").replace("hello:1", "absent:1").replace("IfNotPresent", "Never"));

    for (pod, want) in [
        ("succeeds", "Succeeded"),
        ("fails", "Failed"),
        ("tries-again", "Succeeded"),
        ("too-long", "Failed"),
        ("init-fails", "Failed"),
    ] {
        kubectl.wait_for(&format!("pod/{pod}"), phase, want, PATIENCE);
    }
    let get = |pod: &str, path: &str| kubectl.run(&["get", "pod", pod, "-o", &format!("jsonpath={path}")]);
    assert_eq!(get("succeeds", &format!("{{{main}.state.terminated.reason}}")), "Completed");
    assert_eq!(get("fails", &format!("{{{main}.state.terminated.exitCode}}")), "3");
    assert_eq!(get("fails", &format!("{{{main}.restartCount}}")), "0");
    kubectl.wait_for("pod/says-why", phase, "Failed", PATIENCE);
    assert_eq!(get("says-why", &format!("{{{main}.state.terminated.message}}")).trim(), "no such sensor");
    until("a BackOff event", PATIENCE, || {
        let events = kubectl.try_run(&["describe", "pod", "again-and-again"])?;
        if events.contains("BackOff") && events.contains("Back-off restarting failed container") {
            Ok(())
        } else {
            Err(events)
        }
    });
    assert_eq!(
        get("tries-again", &format!("{{{main}.restartCount}}")),
        "1",
        "an emptyDir survives a container"
    );
    assert_eq!(get("too-long", "{.status.reason}"), "DeadlineExceeded");
    let waiting = format!("{{{main}.state.waiting.reason}}");
    kubectl.wait_for("pod/never-pulled", &waiting, "ErrImageNeverPull", PATIENCE);
    let table = kubectl.run(&["get", "pods"]);
    for word in ["Completed", "Error", "Init:Error", "ErrImageNeverPull"] {
        assert!(table.contains(word), "no {word} in\n{table}");
    }
    kubectl.run(&["delete", "pods", "--all"]);
}

#[test]
fn deletion_takes_its_time_and_force_does_not() {
    let world = World::start();
    let kubectl = world.kubectl();
    let deaf = |name: &str| {
        sleeper(name, "").replace("trap 'exit 0' TERM", "trap '' TERM").replace("Seconds: 1", "Seconds: 4")
    };
    for pod in ["slow", "forced"] {
        kubectl.apply(&deaf(pod));
    }
    for pod in ["slow", "forced"] {
        kubectl.wait_running(pod);
    }
    let asked = Instant::now();
    kubectl.run(&["delete", "pod", "slow", "--wait=false"]);
    match kubectl.try_run(&["get", "pod", "slow"]) {
        Ok(shown) => assert!(shown.contains("Terminating"), "{shown}"),
        // This look came late.
        Err(why) => {
            assert!(why.contains("NotFound") && asked.elapsed() >= Duration::from_secs(4), "{why}");
        }
    }
    kubectl.wait_gone("pod/slow");
    assert!(asked.elapsed() >= Duration::from_secs(4), "it had its grace period: {:?}", asked.elapsed());
    assert_eq!(world.runtime.running_containers("slow"), 0);

    kubectl.run(&["delete", "pod", "forced", "--force", "--grace-period=0"]);
    kubectl.wait_gone("pod/forced");
    until("its container ends too", PATIENCE, || match world.runtime.running_containers("forced") {
        0 => Ok(()),
        running => Err(format!("{running} run")),
    });
}

/// A registry that lets nobody in; what credentials it was shown comes out of the channel.
fn picky_registry() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (shown, seen) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && socket.read(&mut byte).is_ok_and(|read| read == 1) {
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let authorization = request.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
            });
            let answer = if authorization.is_some() {
                "HTTP/1.1 404 Not Found\r\n"
            } else {
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"\r\n"
            };
            write!(socket, "{answer}Content-Length: 0\r\nConnection: close\r\n\r\n").ok();
            if let Some(value) = authorization {
                shown.try_send(value).ok();
            }
        }
    });
    (port, seen)
}

#[test]
fn service_accounts_lend_their_pull_secrets_and_withhold_their_tokens() {
    let world = World::start();
    let kubectl = world.kubectl();
    let (port, seen) = picky_registry();
    let server = format!("--docker-server=127.0.0.1:{port}");
    let secret = [
        "create",
        "secret",
        "docker-registry",
        "pull",
        &server,
        "--docker-username=u",
        "--docker-password=p",
    ];
    kubectl.run(&secret);
    kubectl.apply(
        "apiVersion: v1
kind: ServiceAccount
metadata: { name: quiet }
automountServiceAccountToken: false
imagePullSecrets: [{ name: pull }]
",
    );
    kubectl.apply(&sleeper("quiet", "  serviceAccountName: quiet\n"));
    let private = sleeper("private", "  serviceAccountName: quiet\n");
    kubectl.apply(&private.replace("registry.local/hello:1", &format!("127.0.0.1:{port}/private/app:1")));
    kubectl.wait_running("quiet");
    let mounts = "jsonpath={.spec.containers[0].volumeMounts}{.spec.volumes}";
    assert_eq!(kubectl.run(&["get", "pod", "quiet", "-o", mounts]), "");
    let token_folder = ["/bin/sh", "-c", "ls /var/run/secrets 2>/dev/null; true"];
    assert_eq!(world.runtime.exec("quiet", "main", &token_folder), "");

    let authorization = seen.recv_timeout(PATIENCE).expect("the registry is shown the secret");
    assert_eq!(authorization, "Basic dTpw", "u:p");
    until("the failed pull is explained", PATIENCE, || {
        let described = kubectl.run(&["describe", "pod", "private"]);
        if described.contains("Failed to pull image") { Ok(()) } else { Err(described) }
    });

    let token = kubectl.run(&["create", "token", "quiet"]);
    assert_eq!(token.trim().split('.').count(), 3);
    let refused = kubectl.try_run(&[
        "run",
        "nobody",
        "--image=x",
        "--overrides={\"spec\":{\"serviceAccountName\":\"absent\"}}",
    ]);
    assert!(
        refused.as_ref().is_err_and(|why| why.contains("serviceaccount \"absent\" not found")),
        "{refused:?}"
    );
    kubectl.run(&["delete", "pods", "--all"]);
}

/// AT17: text that a shell or a path would take for more than text is refused or stays text.
#[test]
fn fields_are_never_commands_or_ways_out() {
    let world = World::start();
    let kubectl = world.kubectl();
    let marker = world.dir.path().join("injected");
    let touch = format!("$(touch {})", marker.display());
    let file = world.dir.path().join("hostile.yaml");
    for (from, to) in [
        ("name: hostile,", "name: '../../hostile',"),
        ("name: main", "name: '; touch x'"),
        ("/scratch }", "/scratch, subPath: '../../etc' }"),
        ("name: scratch, emptyDir", "name: '../scratch', emptyDir"),
        ("cm: { name: c }", "configMap: { name: c, items: [{ key: k, path: '../../etc/passwd' }] }"),
        ("spec:\n", "spec:\n  nodeName: '../edge-1'\n"),
        ("spec:\n", "spec:\n  hostname: '$(id)'\n"),
        ("spec:\n", "spec:\n  serviceAccountName: '../default'\n"),
    ] {
        let pod = sleeper(
            "hostile",
            "    volumeMounts: [{ name: scratch, mountPath: /scratch }]
  volumes: [{ name: scratch, emptyDir: {} }, { name: c, cm: { name: c } }]
",
        );
        assert!(pod.contains(from), "{from}");
        let pod = pod.replacen(from, to, 1).replace("cm: { name: c }", "emptyDir: {}");
        fs::write(&file, &pod).unwrap();
        let outcome = kubectl.try_run(&["create", "-f", file.to_str().unwrap()]);
        assert!(outcome.is_err(), "accepted {to}");
    }
    let key = format!("--from-literal=../../x={touch}");
    assert!(kubectl.try_run(&["create", "configmap", "bad", &key]).is_err());

    // Kubernetes does not check the names of references: here they name nothing, and lead nowhere.
    kubectl.run(&["create", "secret", "generic", "theirs", "-n", "kube-system", "--from-literal=k=v"]);
    let astray = "    volumeMounts: [{ name: s, mountPath: /s }]
  volumes: [{ name: s, secret: { secretName: '../../kube-system/secrets/theirs' } }]
";
    kubectl.apply(&sleeper("astray", astray));
    until("the mount fails by that name", PATIENCE, || {
        let described = kubectl.run(&["describe", "pod", "astray"]);
        let named = described.contains("FailedMount") && described.contains("secrets/theirs");
        if named { Ok(()) } else { Err(described) }
    });
    assert_eq!(world.runtime.running_containers("astray"), 0);

    // Where any text is allowed it stays text.
    kubectl.run(&["create", "configmap", "text", &format!("--from-literal=k={touch}")]);
    kubectl.apply(&sleeper(
        "literal",
        &format!(
            "    env: [{{ name: A, value: '{touch}' }}, {{ name: B, valueFrom: {{ configMapKeyRef: {{ name: text, key: k }} }} }}]\n"
        ),
    ));
    kubectl.wait_running("literal");
    let said = world.runtime.exec("literal", "main", &["/bin/sh", "-c", "echo \"$A\"; echo \"$B\""]);
    assert_eq!(said, format!("{touch}\n{touch}\n"));
    assert!(!marker.exists());
    let sh = Command::new("ls").arg(world.dir.path()).output().unwrap();
    assert!(!String::from_utf8_lossy(&sh.stdout).contains("injected"));
    kubectl.run(&["delete", "pod", "literal", "astray"]);
}
