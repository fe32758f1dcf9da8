// Fleet: what is wrong first, then the figures, then every node.

import { h } from "./dom.js";
import { clock, count, matches, span, wordsOf } from "./format.js";
import { link, nodeState } from "./health.js";
import { a, bar, eventTable, nothing, panel, shape, status, table, title, troubles, when } from "./parts.js";

const PROBLEMS_SHOWN = 8;
const EVENTS_SHOWN = 8;

export function fleet(ctx) {
  const { model, survey, edge } = ctx;
  const warnings = model.all("event").filter((e) => e.level === "Warning").sort((x, y) => y.lastMs - x.lastMs);
  return [
    title(ctx, edge ? `Node ${model.hello.node || ""}` : "Fleet"),
    troubles(ctx, ["node", "pod", "device", "event"]),
    attention(ctx, survey.found),
    tiles(ctx, survey.totals),
    panel(edge ? "This node" : "Nodes", null, nodeTable(ctx, model.all("node"), "fleet-nodes"),
      model.objects.node.size ? null : nothing(ctx, "node", false, "No node has joined yet. On an edge machine: keadm join")),
    panel("Recent warnings", a("#/events?show=warnings", "All events"), warnings.length
      ? eventTable(ctx, "fleet-events", warnings.slice(0, EVENTS_SHOWN))
      : nothing(ctx, "event", false, "No warnings.")),
  ];
}

function attention(ctx, found) {
  if (!ctx.model.complete() && !found.length) return h("p", { class: "calm", key: "calm" }, "Loading …");
  if (!found.length) {
    const blind = Object.keys(ctx.model.trouble).length > 0;
    return h("p", { class: `calm t-${blind ? "unknown" : "ok"}`, key: "calm" }, shape(blind ? "unknown" : "done"),
      h("span", {}, blind ? "No problem in what can be seen." : "Nothing needs attention."));
  }
  const open = ctx.ui.allProblems;
  const shown = open ? found.slice(0, 200) : found.slice(0, PROBLEMS_SHOWN);
  return h("section", { class: "panel attention", key: "attention", "aria-label": "Needs attention" },
    h("header", {}, h("h2", {}, "Needs attention"), h("span", { class: "badge" }, String(found.length))),
    h("ul", {}, shown.map((p) => h("li", { key: p.what, class: `t-${p.tone}` }, shape(p.tone),
      h("div", { class: "what" }, a(p.href, p.what), p.why ? h("span", { class: "why" }, p.why) : null),
      when(p.atMs, ctx.now, "since ")))),
    found.length > PROBLEMS_SHOWN ? h("p", { class: "more" }, h("button", { type: "button", "aria-expanded": String(Boolean(open)), onclick: ctx.once("problems", () => {
      ctx.ui.allProblems = !ctx.ui.allProblems;
      ctx.draw();
    }) }, open ? "Show fewer" : `Show ${found.length - PROBLEMS_SHOWN} more`)) : null);
}

function tiles(ctx, t) {
  const { model, edge } = ctx;
  const tile = (kind, href, name, is, of, note, tone) => {
    const known = !kind || (model.settled[kind] && !model.trouble[kind]) || of > 0;
    return h("a", { class: `tile t-${known ? tone : "unknown"}`, href, key: name },
      h("span", { class: "name" }, name),
      h("span", { class: "number" }, known ? String(is) : "–", known && of !== undefined ? h("span", { class: "of" }, ` / ${of}`) : null),
      h("span", { class: "under" }, shape(known ? tone : "unknown"), h("span", {}, known ? note : "not known")));
  };
  const missing = (n, word) => (n ? `${n} ${word}` : "");
  return h("div", { class: "tiles", key: "tiles" },
    edge ? cloudTile(ctx) : tile("node", "#/nodes", "Nodes ready", t.ready, t.nodes, missing(t.nodes - t.ready, "not ready") || "all ready", t.ready < t.nodes ? "bad" : t.nodes ? "ok" : "unknown"),
    tile("pod", "#/pods", "Pods running", t.running, t.pods, [missing(t.pods - t.running - t.silentPods, "not running"), missing(t.silentPods, "not known"), missing(t.done, "completed")].filter(Boolean).join(", ") || "all running", t.running < t.pods ? "warn" : t.pods ? "ok" : "done"),
    tile("device", "#/devices", "Devices online", t.online, t.devices, [missing(t.devices - t.online - t.silentDevices, "not online"), missing(t.silentDevices, "not known")].filter(Boolean).join(", ") || "all online", t.online < t.devices ? "warn" : t.devices ? "ok" : "done"),
    tile(null, "#/actors", "Actor restarts", t.restarts, undefined, !model.trees.size ? "no tree seen" : t.recent ? `${t.recent} in the last 10 minutes` : `in ${count(model.trees.size, "program")}`,
      t.recent ? "warn" : model.trees.size ? "ok" : "unknown"),
    tile("event", "#/events?show=warnings", "Warnings", t.warnings, undefined, "last 10 minutes", t.warnings ? "warn" : "ok"));
}

/** An edge's first question: does it reach its cloud? */
function cloudTile(ctx) {
  const is = ctx.model.link;
  const tone = !is ? "unknown" : is.connected ? "ok" : "warn";
  return h("div", { class: `tile t-${tone}`, key: "cloud" }, h("span", { class: "name" }, "Cloud"),
    h("span", { class: "number word" }, !is ? "–" : is.connected ? "reachable" : "not reachable"),
    h("span", { class: "under" }, shape(tone), h("span", {}, is?.sinceMs ? `since ${clock(is.sinceMs, ctx.now)} (${span(ctx.now - is.sinceMs)})` : "not known yet")));
}

function nodeTable(ctx, nodes, id) {
  const { survey, now, model } = ctx;
  const none = { pods: 0, running: 0, devices: 0, online: 0, restarts: 0 };
  const of = (node) => survey.nodes.get(node.key) || none;
  const share = (kind, is, all) => (model.trouble[kind] && !all ? h("span", { class: "dim" }, "–") : h("span", { class: is < all ? "t-warn strong" : "" }, `${is}/${all}`));
  const order = { bad: 0, warn: 1, busy: 2, ok: 3 };
  const rows = nodes.map((node) => ({ node, state: nodeState(node, now), figures: of(node) }))
    .sort((x, y) => order[x.state.tone] - order[y.state.tone] || (x.node.key < y.node.key ? -1 : 1));
  return rows.length ? table(ctx, {
    id, label: "Nodes", rows, keyOf: (r) => r.node.key,
    columns: [
      { name: "Node", cls: "name", sort: (r) => r.node.key, cell: (r) => a(link("nodes", r.node.key), r.node.key) },
      { name: "State", sort: (r) => r.state.word, cell: (r) => status(r.state) },
      { name: "Pods running", cls: "num", sort: (r) => r.figures.running, cell: (r) => share("pod", r.figures.running, r.figures.pods) },
      { name: "Devices online", cls: "num", sort: (r) => r.figures.online, cell: (r) => share("device", r.figures.online, r.figures.devices) },
      { name: "Actor restarts", cls: "num", sort: (r) => r.figures.restarts, cell: (r) => (model.trees.has(r.node.key) ? a(link("actors", r.node.key), String(r.figures.restarts)) : h("span", { class: "dim" }, "–")) },
      { name: "Last status", cls: "num", sort: (r) => r.node.heartbeatMs, cell: (r) => when(r.node.heartbeatMs, now) },
      { name: "Version", cls: "dim", cell: (r) => r.node.version },
      { name: "Age", cls: "num", sort: (r) => r.node.createdMs, cell: (r) => when(r.node.createdMs, now, "created ") },
    ],
  }) : null;
}

export function nodes(ctx) {
  const { model, route, now } = ctx;
  const all = model.all("node");
  const words = wordsOf(route.query.get("q"));
  const only = route.query.get("show") === "problems";
  const shown = all.filter((n) => matches(words, n.key, n.address, n.roles.join(" "), nodeState(n, now).word, n.version, n.architecture) && (!only || nodeState(n, now).tone !== "ok"));
  return [
    title(ctx, "Nodes"),
    troubles(ctx, ["node"]),
    bar(ctx, { label: "Filter nodes", hint: "Filter by name, address, role, state", choices: [["", "All"], ["problems", "Problems"]], shown: shown.length, total: all.length, unit: "node" }),
    nodeTable(ctx, shown, "nodes") || nothing(ctx, "node", all.length > 0, "No node has joined yet. On an edge machine: keadm join"),
  ];
}
