//! Reports of nodes: taken under the certificate's name, bounded, never the end of a session.

use std::time::Instant;

use super::harness::{Edge, Told, World, node, say};
use crate::model::{Body, Envelope, NodeReport, Resource};
use crate::wire::node_report::Encoder;

const MSG: (&str, &str) = ("ConnectionUse", "msg");
const METRICS: &str = "# TYPE kubeedge_g gauge\nkubeedge_g{node=\"victim\"} 4\n";

fn message(report: &NodeReport) -> Envelope {
    let body = Body::Object(serde_json::to_value(report).unwrap());
    Envelope::new("edgehub", "meta", "report", Resource::NodeReport, body, 1)
}

async fn connect(world: &mut World, extensions: &str) -> Edge {
    let pair = world.certificate("edge-1");
    let (edge, _) = world.dial(&pair, &[MSG, ("Kubeedge-Extensions", extensions)]).await.unwrap();
    assert!(matches!(world.next_told().await, Told::Connected(_)));
    edge
}

/// Everything the edge said before is dealt with.
async fn settled(world: &mut World, edge: &mut Edge) {
    let resource = Resource::parse("default/secret/s");
    say(edge, &Envelope::new("edged", "meta", "query", resource, Body::Null, 1)).await;
    assert!(matches!(world.next_told().await, Told::Upstream(_)));
}

fn page(world: &World) -> String {
    world.federation.render(Instant::now())
}

#[actix::test]
async fn a_report_is_shown_under_the_name_in_the_certificate() {
    let mut world = World::start(|_| {});
    let mut edge = connect(&mut world, "report").await;
    say(&mut edge, &message(&Encoder::default().report(METRICS, 15))).await;
    settled(&mut world, &mut edge).await;
    let shown = page(&world);
    assert!(shown.contains("kubeedge_g{node=\"edge-1\",exported_node=\"victim\"} 4\n"), "{shown}");
    assert!(shown.contains("kubeedge_federate_edge_up{node=\"edge-1\"} 1\n"), "{shown}");
    edge.close(None).await.unwrap();
    assert!(matches!(world.next_told().await, Told::Gone(_)));
    let shown = page(&world);
    assert!(!shown.contains("kubeedge_g{"), "{shown}");
    assert!(shown.contains("kubeedge_federate_edge_up{node=\"edge-1\"} 0\n"), "{shown}");
    assert_eq!(
        world.federation.nodes().first().map(|(name, up, _)| (name.clone(), *up)),
        Some((node("edge-1"), false))
    );
}

#[actix::test]
async fn without_the_extension_it_is_nobodys_message() {
    let mut world = World::start(|_| {});
    let mut edge = connect(&mut world, "resync,identity").await;
    say(&mut edge, &message(&Encoder::default().report(METRICS, 15))).await;
    settled(&mut world, &mut edge).await;
    let shown = page(&world);
    assert!(!shown.contains("kubeedge_g{") && shown.contains("edge_up{node=\"edge-1\"} 1\n"), "{shown}");
}

#[actix::test]
async fn rubbish_and_floods_are_counted_and_the_session_goes_on() {
    let mut world = World::start(|_| {});
    let mut edge = connect(&mut world, "report").await;
    let rubbish = NodeReport { metrics: "rubbish".to_owned(), ..Encoder::default().report(METRICS, 15) };
    let huge = NodeReport { metrics: "A".repeat(3 << 20), ..rubbish.clone() };
    say(&mut edge, &message(&rubbish)).await;
    say(&mut edge, &message(&huge)).await;
    say(&mut edge, &Envelope { body: Body::Text("no".to_owned()), ..message(&rubbish) }).await;
    for _ in 0..200 {
        say(&mut edge, &message(&Encoder::default().report(METRICS, 15))).await;
    }
    settled(&mut world, &mut edge).await;
    let shown = page(&world);
    let count = |reason: &str| -> u64 {
        let start = format!("kubeedge_federate_refused_total{{reason=\"{reason}\"}} ");
        shown.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    };
    assert_eq!((count("bad_report"), count("too_long")), (2, 1), "{shown}");
    assert!(count("rate") > 0, "{shown}");
}
