//! The program itself: does it run, what does it say of itself?

use serde::Deserialize;

use super::super::finding::Finding;
use super::super::health::ask;

const SERVICE: &str = "service";
const SESSION: &str = "session";
/// Largest page of figures looked at, bytes.
const MAX_METRICS: usize = 8 << 20;

/// `/readyz`.
#[derive(Debug, Deserialize)]
struct Ready {
    ready: bool,
    #[serde(default)]
    checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
struct Check {
    name: String,
    ok: bool,
}

/// What the monitor says, and whether the program runs.
pub(super) async fn service(program: &str, monitor: &str) -> (Finding, bool) {
    match ask(&format!("http://{monitor}/readyz"), MAX_METRICS).await {
        Ok((status, body)) => (judge(program, monitor, status, &body), true),
        Err(why) => (
            Finding::fail(
                SERVICE,
                format!(
                    "{program} does not run, or not with this config file: its monitor {monitor} does not answer: {why}"
                ),
                format!(
                    "systemctl start {program} (its log: journalctl -u {program}), or {program} --config FILE"
                ),
            ),
            false,
        ),
    }
}

fn judge(program: &str, monitor: &str, status: u16, body: &[u8]) -> Finding {
    let Ok(ready) = serde_json::from_slice::<Ready>(body) else {
        let text = format!("{monitor} answers HTTP {status}, and is no monitor of {program}");
        let fix = "set commonConfig.monitorServer.bindAddress to a port of its own";
        return Finding::fail(SERVICE, text, fix);
    };
    if ready.ready {
        return Finding::ok(SERVICE, format!("{program} runs and is ready"));
    }
    let failing: Vec<String> = ready.checks.into_iter().filter(|it| !it.ok).map(|it| it.name).collect();
    let fix = match failing.first().map(String::as_str) {
        Some("store") => "look for a full or broken disk below dataDir".to_owned(),
        Some(name) if name.contains("runtime") || name.contains("containerd") => {
            "start the container runtime (systemctl start containerd)".to_owned()
        }
        _ => format!("see its log (journalctl -u {program})"),
    };
    Finding::fail(SERVICE, format!("{program} runs and is not ready: {}", failing.join(", ")), fix)
}

/// Has this edge a session with the cloud, and since when (not)?
pub(super) async fn session(monitor: &str, is_running: bool, now_secs: u64) -> Finding {
    if !is_running {
        return Finding::skip(SESSION, "edgecore does not run");
    }
    match ask(&format!("http://{monitor}/metrics"), MAX_METRICS).await {
        Ok((200, body)) => judge_session(&String::from_utf8_lossy(&body), now_secs),
        Ok((status, _)) => Finding::skip(SESSION, format!("{monitor}/metrics answers HTTP {status}")),
        Err(why) => Finding::skip(SESSION, format!("{monitor}/metrics: {why}")),
    }
}

fn judge_session(metrics: &str, now_secs: u64) -> Finding {
    let changed = figure(metrics, "kubeedge_edgehub_session_changed_timestamp_seconds");
    let since = changed.filter(|at| *at > 0.0).map(|at| {
        let ago = (now_secs as f64 - at).max(0.0);
        super::files::span(std::time::Duration::from_secs_f64(ago.min(1e12)))
    });
    match (figure(metrics, "kubeedge_edgehub_connected"), since) {
        (Some(up), Some(since)) if up > 0.0 => {
            Finding::ok(SESSION, format!("connected with the cloud for {since}"))
        }
        (Some(up), None) if up > 0.0 => Finding::ok(SESSION, "connected with the cloud"),
        (Some(_), since) => {
            let text = match since {
                Some(since) => format!("the last session with the cloud ended {since} ago"),
                None => "there was no session with the cloud since edgecore started".to_owned(),
            };
            Finding::fail(
                SESSION,
                text,
                "see what the checks of the cloud say, and edgecore's log (cloud link is down)",
            )
        }
        (None, _) => Finding::skip(SESSION, "edgecore does not tell"),
    }
}

/// The value of a figure without labels.
fn figure(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_monitor_says() {
        for (status, body, want) in [
            (200, r#"{"ready":true,"checks":[]}"#, "ok    service: edgecore runs and is ready"),
            (
                503,
                r#"{"ready":false,"checks":[{"name":"a","ok":true},{"name":"store","ok":false}]}"#,
                "FAIL  service: edgecore runs and is not ready: store; fix: look for a full or broken disk below dataDir",
            ),
            (404, "nothing", "FAIL  service: m:1 answers HTTP 404, and is no monitor of edgecore; fix: set "),
        ] {
            let line = judge("edgecore", "m:1", status, body.as_bytes()).to_string();
            assert!(line.starts_with(want), "want {want}, got {line}");
        }
        let with = |up: u8, at: u64| {
            format!(
                "# HELP kubeedge_edgehub_connected x\nkubeedge_edgehub_connected {up}\nkubeedge_edgehub_session_changed_timestamp_seconds {at}\n"
            )
        };
        for (metrics, want) in [
            (with(1, 940), "ok    session: connected with the cloud for 60 s"),
            (with(0, 400), "FAIL  session: the last session with the cloud ended 10 min ago"),
            (with(0, 0), "FAIL  session: there was no session with the cloud since edgecore started"),
            ("kubeedge_edgehub_connected 1\n".to_owned(), "ok    session: connected with the cloud"),
            (String::new(), "skip  session: edgecore does not tell"),
        ] {
            let line = judge_session(&metrics, 1_000).to_string();
            assert!(line.starts_with(want), "want {want}, got {line}");
        }
    }
}
