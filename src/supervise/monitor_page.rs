//! The tree as a page for people. No script, nothing loaded from elsewhere.

use std::fmt::{self, Write};

use super::snapshot::{ActorSnapshot, TreeSnapshot};

const STYLE: &str = "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}\
th,td{padding:.3em .8em;border-bottom:1px solid #ccc;text-align:right}\
th:first-child,td:first-child,th:last-child,td:last-child{text-align:left}\
.worker td:first-child{padding-left:2.5em}.waiting,.failed{background:#fdd}.draining{background:#ffd}";

/// The page, complete. The browser reloads it every five seconds.
pub(super) fn page(tree: &TreeSnapshot) -> String {
    let mut html = String::new();
    // Writing to a String does not fail.
    if write_page(&mut html, tree).is_err() {
        html.clear();
    }
    html
}

fn write_page(html: &mut String, tree: &TreeSnapshot) -> fmt::Result {
    write!(
        html,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
         <title>{name}</title><style>{STYLE}</style><h1>{name}</h1><p>up for {up:.0} s</p><table><tr><th>actor\
         <th>thread<th>state<th>restarts<th>panics<th>waiting<th>messages<th>busy, s<th>last failure</tr>",
        name = escape(tree.name),
        up = tree.uptime_seconds,
    )?;
    for actor in &tree.actors {
        write_row(html, actor, "")?;
        for worker in &actor.children {
            write_row(html, worker, "worker ")?;
        }
        let hidden = actor.children_total.saturating_sub(actor.children.len());
        if hidden > 0 {
            write!(html, "<tr class=\"worker\"><td colspan=\"9\">and {hidden} more</tr>")?;
        }
    }
    html.write_str("</table></html>\n")
}

fn write_row(html: &mut String, actor: &ActorSnapshot, class: &str) -> fmt::Result {
    let state = format!("{:?}", actor.state).to_lowercase();
    let failure = actor.last_failure.as_ref().map(|last| escape(&last.text)).unwrap_or_default();
    write!(
        html,
        "<tr class=\"{class}{state}\"><td>{name}<td>{thread}<td>{state}<td>{restarts}<td>{panics}<td>{depth}\
         <td>{messages}<td>{busy:.3}<td>{failure}</tr>",
        name = escape(&actor.name),
        thread = escape(actor.thread),
        restarts = actor.restarts,
        panics = actor.panics,
        depth = actor.mailbox_depth,
        messages = actor.messages_total,
        busy = actor.busy_seconds,
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::entry::{LastFailure, State};

    fn row(name: &str, children: Vec<ActorSnapshot>, children_total: usize) -> ActorSnapshot {
        ActorSnapshot {
            name: name.into(),
            kind: "kind",
            thread: "main",
            state: State::Waiting,
            restarts: 2,
            panics: 1,
            last_failure: Some(LastFailure { text: "panicked: <b>".into(), at_ms: 1 }),
            mailbox_depth: 3,
            mailbox_refused: 0,
            messages_total: 4,
            busy_seconds: 0.5,
            children,
            children_total,
        }
    }

    #[test]
    fn rows_are_escaped_and_hidden_workers_counted() {
        let actor = row("Edged", vec![row("default/nginx", vec![], 0)], 7);
        let html = page(&TreeSnapshot { name: "edgecore", uptime_seconds: 1.0, actors: vec![actor] });
        for piece in
            ["<td>Edged<", "worker waiting", "<td>default/nginx<", "panicked: &lt;b&gt;", "and 6 more"]
        {
            assert!(html.contains(piece), "{piece} in {html}");
        }
    }
}
