//! Reports to a cloud that takes them, and to nobody else.

use super::*;
use crate::model::{NodeReport, group};
use crate::wire::node_report::{MAX_TEXT_BYTES, report_of, unpack};

fn is_report(envelope: &Envelope) -> bool {
    envelope.route.resource == Resource::NodeReport && envelope.is(operation::REPORT)
}

async fn next_report(session: &mut cloud::Session) -> NodeReport {
    loop {
        let envelope = session.read().await;
        if is_report(&envelope) {
            assert_eq!(
                (envelope.route.source.as_str(), envelope.route.group.as_str()),
                ("edgehub", group::META)
            );
            return report_of(&envelope.body).unwrap();
        }
    }
}

#[actix::test]
async fn a_session_begins_with_a_full_report_and_goes_on_with_what_changed() {
    let mut cloud = Cloud::start().await.with_token();
    cloud.config.report_interval_secs = 1;
    cloud.manners.lock().takes_reports = true;
    let edge = edge(&cloud);
    let mut session = cloud.session().await;
    let first = next_report(&mut session).await;
    let text = unpack(&first.metrics, MAX_TEXT_BYTES).unwrap();
    assert_eq!((first.sequence, first.interval_secs), (0, 1));
    assert!(text.contains("\nkubeedge_edgehub_connected 1\n") && first.actors.is_some(), "{text}");
    let second = next_report(&mut session).await;
    assert_eq!(second.sequence, 1);
    assert_eq!(unpack(&second.metrics, MAX_TEXT_BYTES).unwrap(), ".\n", "nothing changed");
    assert_eq!(second.actors, None);
    session.socket.close(None).await.unwrap();
    let mut session = cloud.session().await;
    assert_eq!(next_report(&mut session).await.sequence, 0, "a new session knows nothing");
    drop(edge);
}

/// KubeEdge's cloud, and ours where it is switched off, never hears of reports.
#[actix::test]
async fn nobody_else_gets_one() {
    for (takes_reports, interval, offered) in
        [(false, 1, "ack-window,resync,identity,report"), (true, 0, "ack-window,resync,identity")]
    {
        let mut cloud = Cloud::start().await.with_token();
        cloud.config.report_interval_secs = interval;
        cloud.config.heartbeat = 1;
        cloud.manners.lock().takes_reports = takes_reports;
        let _edge = edge(&cloud);
        let mut session = cloud.session().await;
        assert_eq!(session.header("kubeedge-extensions"), Some(offered));
        // Three heartbeats are more than two intervals.
        for _ in 0..3 {
            let envelope = session.read_any().await;
            assert!(envelope.is(operation::KEEPALIVE), "{envelope:?}");
        }
    }
}

/// What is rendered slowly holds nothing up, and is not rendered twice at once.
#[actix::test]
async fn a_slow_render_does_not_block_the_hub() {
    let mut cloud = Cloud::start().await.with_token();
    cloud.config.report_interval_secs = 1;
    cloud.manners.lock().takes_reports = true;
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    let held = Mutex::new(held);
    let source = ReportSource::new(move || {
        held.lock().recv().ok();
        Rendered { metrics: "# TYPE a gauge\na 1\n".to_owned(), actors: serde_json::json!({}) }
    });
    let edge = edge_with(&cloud, source);
    let mut session = cloud.session().await;
    // The hub knows of its session when it says something.
    session.read_any().await;
    let under_way = ask(&edge, query());
    let request = session.read().await;
    assert!(!is_report(&request), "it is rendered still");
    session.write(&answer(&request, Body::Null)).await;
    under_way.await.unwrap().unwrap();
    release.send(()).unwrap();
    assert_eq!(next_report(&mut session).await.sequence, 0);
    drop(release);
    assert_eq!(next_report(&mut session).await.sequence, 1);
}
