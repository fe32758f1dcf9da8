use std::time::UNIX_EPOCH;

use super::queue::{Dropped, MAX_GROUP, MAX_WAITING};
use super::*;
use crate::bus::identity::AuditAction;
use crate::bus::{ActorStats, Link};
use crate::identity::audit::verify_log;

fn fact(subject: &str) -> AuditFact {
    AuditFact::new(AuditAction::Join, subject, true, "").with("token", "a1")
}

fn at(secs: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(secs)
}

#[test]
fn one_group_at_a_time_in_order_and_a_failed_one_comes_again() {
    let mut queue = Queue::default();
    assert_eq!(queue.next_group(), None);
    for n in 0..3 {
        assert_eq!(queue.push(fact(&n.to_string()), at(n)), None);
    }
    let subjects = |group: &[(SystemTime, AuditFact)]| -> Vec<String> {
        group.iter().map(|(_, fact)| fact.subject.clone()).collect()
    };
    let group = queue.next_group().expect("group");
    assert_eq!(subjects(&group), ["0", "1", "2"]);
    assert_eq!(queue.push(fact("3"), at(3)), None);
    assert_eq!(queue.next_group(), None, "one is under way");
    queue.failed(group);
    assert_eq!(queue.next_group(), None, "the disk rests");
    queue.resume();
    assert_eq!(subjects(&queue.next_group().expect("group")), ["0", "1", "2", "3"]);
    queue.written();
    assert_eq!(queue.next_group(), None);

    for n in 0..MAX_GROUP + 1 {
        assert_eq!(queue.push(fact(&n.to_string()), at(4)), None);
    }
    assert_eq!(queue.next_group().map(|group| group.len()), Some(MAX_GROUP));
    assert_eq!(queue.drain().iter().map(Vec::len).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_full_queue_drops_the_newest_and_complains_once_a_minute() {
    let mut queue = Queue::default();
    for _ in 0..MAX_WAITING {
        assert_eq!(queue.push(fact("kept"), at(0)), None);
    }
    let mut push = |secs| queue.push(fact("dropped"), at(secs));
    assert_eq!(push(10), Some(Dropped { complain: Some(1) }));
    assert_eq!(push(11), Some(Dropped { complain: None }));
    assert_eq!(push(69), Some(Dropped { complain: None }));
    assert_eq!(push(70), Some(Dropped { complain: Some(3) }));
    // A clock that was set back does not silence it.
    assert_eq!(push(5), Some(Dropped { complain: Some(1) }));
    let kept: usize = queue.drain().iter().map(Vec::len).sum();
    assert_eq!(kept, MAX_WAITING);
}

fn start(dir: &tempfile::TempDir) -> (actix::Addr<Audit>, Link<AuditFact>) {
    let addr = Audit::new(AuditSettings::below(dir.path()), AuditMetrics::new()).start();
    let link = Link::to(NAME, &addr, Arc::new(ActorStats::bounded(1_024)));
    (addr, link)
}

async fn records(dir: &tempfile::TempDir, want: u64) {
    let log = dir.path().join("audit.log");
    for _ in 0..2_000 {
        if verify_log(&log).is_ok_and(|summary| summary.records == want) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("want {want} records, found {:?}", verify_log(&log));
}

#[actix::test]
async fn facts_become_records_that_verify() {
    let dir = tempfile::tempdir().unwrap();
    let (_addr, link) = start(&dir);
    for n in 0..700 {
        link.ask(fact(&format!("edge-{n}")), Duration::from_secs(10)).await.unwrap();
    }
    records(&dir, 700).await;
    let text = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["subject"], "edge-699");
    assert_eq!((&last["action"], &last["details"]["token"]), (&"join".into(), &"a1".into()));
}

#[actix::test]
async fn the_log_is_opened_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (_addr, _link) = start(&dir);
    for _ in 0..2_000 {
        if dir.path().join("audit.head").exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no head file");
}

#[actix::test]
async fn a_disk_that_takes_nothing_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    // A folder where the file should be: nothing can be written.
    std::fs::create_dir(dir.path().join("audit.log")).unwrap();
    let (_addr, link) = start(&dir);
    link.tell(fact("edge-1")).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::fs::remove_dir(dir.path().join("audit.log")).unwrap();
    records(&dir, 1).await;
}

/// The end of the program and of a panicking actor: nothing that was taken is lost, and the chain
/// goes on.
#[actix::test]
async fn what_waits_at_the_end_is_written_and_a_restart_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let settings = AuditSettings::below(dir.path());
        let mut audit = Audit::new(settings, AuditMetrics::new());
        for n in 0..5 {
            assert_eq!(audit.queue.push(fact(&format!("edge-{n}")), SystemTime::now()), None);
        }
        let mut context = Context::<Audit>::new();
        Supervised::restarting(&mut audit, &mut context);
        Actor::stopped(&mut audit, &mut context);
        assert_eq!(verify_log(&dir.path().join("audit.log")).unwrap().records, round * 5);
    }
}
