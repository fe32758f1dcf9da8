// Pages of one node, of pods, and of events.

import { h } from "./dom.js";
import { bytes, count, matches, wordsOf } from "./format.js";
import { isSilent, link, nodeState, podState } from "./health.js";
import { a, bar, eventTable, eventsAbout, facts, lastKnown, nodeLink, nothing, panel, shape, sheet, status, table, title, troubles, when } from "./parts.js";
import { deviceGroups } from "./devices.js";
import { tree } from "./actors.js";

export function node(ctx) {
  const { model, now, edge } = ctx;
  const name = ctx.route.parts[1];
  const node = model.get("node", name);
  const up = edge ? null : { href: "#/nodes", name: "Nodes" };
  if (!node) return missing(ctx, "node", name, up);
  const pods = model.all("pod").filter((p) => p.node === name);
  const devices = model.all("device").filter((d) => d.node === name).sort(byKey);
  const state = nodeState(node, now);
  const events = eventsAbout(model, "Node", "", name);
  const pressures = node.pressures.map((text) => h("li", { key: text, class: "t-warn" }, shape("warn"), h("span", {}, text)));
  return [
    title(ctx, name, up, status(state)),
    troubles(ctx, ["node", "pod", "device", "event"]),
    state.tone === "bad" ? h("p", { class: "note t-bad", key: "why" }, shape("bad"), h("span", {}, h("b", {}, `${state.word} `), "for ", when(node.sinceMs, now),
      node.why ? `: ${node.why}` : "", ". Pods and devices below are as last known; the node itself goes on without its cloud.")) : null,
    panel("Facts", null, facts([
      ["Address", node.address], ["Roles", node.roles.join(", ")], ["Version", node.version], ["Runtime", node.runtime],
      ["System", node.osImage], ["Kernel", [node.kernel, node.architecture].filter(Boolean).join(", ")],
      ["CPU", node.cpu && count(Number(node.cpu) || 0, "core")], ["Memory", bytes(node.memory)], ["Most pods", node.maxPods], ["Pressure", node.ready === "True" ? (pressures.length ? `${pressures.length} (below)` : "none") : "not known"],
      ["Last status", when(node.heartbeatMs, now)], [`${state.word} since`, when(node.sinceMs, now)], ["Joined", when(node.createdMs, now)],
    ])),
    pressures.length ? panel("Under pressure", null, h("ul", { class: "conditions" }, pressures)) : null,
    panel("Pods", count(pods.length, "pod"), pods.length ? podTable(ctx, pods, "node-pods", false) : nothing(ctx, "pod", false, "No pods on this node.")),
    panel("Devices", count(devices.length, "device"), devices.length ? deviceGroups(ctx, devices, "node-devices") : nothing(ctx, "device", false, "No devices on this node.")),
    panel("Actors", null, tree(ctx, name, "node-actors")),
    panel("Events", null, events.length ? eventTable(ctx, "node-events", events, { object: false }) : nothing(ctx, "event", false, "No events about this node.")),
  ];
}

const byKey = (x, y) => (x.key < y.key ? -1 : 1);

function missing(ctx, kind, key, up) {
  const there = ctx.model.settled[kind];
  return [
    title(ctx, key, up),
    troubles(ctx, [kind]),
    h("p", { class: "empty", key: "missing" }, there ? `There is no ${kind} of this name (any more).` : "Loading …"),
    eventsOfGone(ctx, kind, key),
  ];
}

/** What is gone may have left events that say why. */
function eventsOfGone(ctx, kind, key) {
  const [namespace, name] = key.includes("/") ? key.split("/") : ["", key];
  const events = eventsAbout(ctx.model, { node: "Node", pod: "Pod", device: "Device" }[kind], namespace, name);
  return events.length ? panel("Events", null, eventTable(ctx, "gone-events", events, { object: false })) : null;
}

export { missing };

const PROBLEM = new Set(["bad", "warn", "unknown"]);

export function pods(ctx) {
  const { model, route } = ctx;
  const all = model.all("pod");
  const words = wordsOf(route.query.get("q"));
  const only = route.query.get("show") === "problems";
  const shown = all.filter((p) => matches(words, p.key, p.node, p.status, p.ip, p.message, ...p.containers.map((c) => c.image))
    && (!only || PROBLEM.has(podState(model, p).tone)));
  return [
    title(ctx, "Pods"),
    troubles(ctx, ["pod"]),
    bar(ctx, { label: "Filter pods", hint: "Filter by name, node, status, image", choices: [["", "All"], ["problems", "Problems"]], shown: shown.length, total: all.length, unit: "pod" }),
    shown.length ? sheet(podTable(ctx, shown, "pods", true)) : nothing(ctx, "pod", all.length > 0, "No pods. kubectl apply -f pod.yaml makes one."),
  ];
}

const RANK = { bad: 0, warn: 1, unknown: 2, busy: 3, ok: 4, done: 5 };

function podTable(ctx, pods, id, withNode) {
  const { model, now } = ctx;
  const rows = pods.map((pod) => ({ pod, state: podState(model, pod) })).sort((x, y) => RANK[x.state.tone] - RANK[y.state.tone] || byKey(x.pod, y.pod));
  return table(ctx, {
    id, label: "Pods", rows, keyOf: (r) => r.pod.key, classOf: (r) => (r.state.tone === "unknown" ? "is-old" : ""),
    columns: [
      { name: "Pod", cls: "name", sort: (r) => r.pod.name, cell: (r) => a(link("pods", r.pod.key), h("span", { class: "ns" }, `${r.pod.namespace}/`), r.pod.name) },
      { name: "Status", cls: "status-cell", sort: (r) => r.state.word, cell: (r) => [status(r.state), lastKnown(r.state), r.state.why && r.state.tone !== "ok" && r.state.tone !== "unknown" ? h("span", { class: "why", max: 120 }, r.state.why) : null] },
      { name: "Ready", cls: "num", sort: (r) => r.pod.ready / (r.pod.total || 1), cell: (r) => `${r.pod.ready}/${r.pod.total}` },
      { name: "Restarts", cls: "num", sort: (r) => r.pod.restarts, cell: (r) => (r.pod.restarts ? h("span", { class: "strong" }, String(r.pod.restarts)) : "0") },
      withNode && { name: "Node", sort: (r) => r.pod.node, cell: (r) => nodeLink(r.pod.node) },
      { name: "IP", cls: "mono", sort: (r) => r.pod.ip, cell: (r) => r.pod.ip || "–" },
      { name: "Age", cls: "num", sort: (r) => -r.pod.createdMs, cell: (r) => when(r.pod.createdMs, now, "created ") },
    ].filter(Boolean),
  });
}

const CONTAINER_TONE = { running: "ok", waiting: "busy", terminated: "done" };

function containerState(model, pod, c) {
  const failing = /BackOff|Err|Denied|Invalid|Error/.test(c.why) || (c.state === "terminated" && c.why && !/Completed/.test(c.why));
  const tone = isSilent(model, pod.node) ? "unknown" : failing ? "bad" : c.state === "running" && !c.ready ? "busy" : CONTAINER_TONE[c.state] || "unknown";
  return { tone, word: c.state === "running" && !c.ready ? "running, not ready" : c.state || "unknown" };
}

export function pod(ctx) {
  const { model, now } = ctx;
  const key = ctx.route.parts.slice(1).join("/");
  const pod = model.get("pod", key);
  const up = { href: "#/pods", name: "Pods" };
  if (!pod) return missing(ctx, "pod", key, up);
  const state = podState(model, pod);
  const events = eventsAbout(model, "Pod", pod.namespace, pod.name);
  return [
    title(ctx, key, up, status(state)),
    troubles(ctx, ["pod", "event"]),
    state.why ? h("p", { class: `note t-${state.tone}`, key: "why", max: 4000 }, shape(state.tone), h("span", {}, state.why)) : null,
    panel("Facts", null, facts([
      ["Node", nodeLink(pod.node)], ["IP", pod.ip], ["Ready", `${pod.ready} of ${pod.total}`], ["Restarts", String(pod.restarts)],
      ["Created", when(pod.createdMs, now)], ["UID", h("span", { class: "mono" }, pod.uid || "–")],
    ])),
    panel("Containers", null, table(ctx, {
      id: "containers", label: "Containers", sorted: true, rows: pod.containers, keyOf: (c) => c.name,
      columns: [
        { name: "Container", cls: "name", cell: (c) => h("b", {}, c.name) },
        { name: "State", cls: "status-cell", cell: (c) => [status(containerState(model, pod, c)), c.why ? h("span", { class: "why" }, c.why) : null] },
        { name: "Restarts", cls: "num", cell: (c) => String(c.restarts) },
        { name: "Started", cls: "num", cell: (c) => when(c.startedMs, now) },
        { name: "Ended last", cell: (c) => c.lastEnd || "–" },
        { name: "Image", cls: "mono wide", cell: (c) => c.image },
      ],
    })),
    panel("Events", null, events.length ? eventTable(ctx, "pod-events", events, { object: false }) : nothing(ctx, "event", false, "No events about this pod (they are kept for an hour).")),
  ];
}

export function events(ctx) {
  const { model, route } = ctx;
  const all = model.all("event");
  const words = wordsOf(route.query.get("q"));
  const show = route.query.get("show") || "";
  const shown = all.filter((e) => matches(words, e.reason, e.message, e.objectKind, `${e.objectNamespace}/${e.objectName}`, e.source, e.level)
    && (show !== "warnings" || e.level === "Warning"));
  const first = (e) => (show === "first" && e.level === "Warning" ? 0 : 1);
  shown.sort((x, y) => first(x) - first(y) || y.lastMs - x.lastMs);
  return [
    title(ctx, "Events"),
    troubles(ctx, ["event"]),
    bar(ctx, { label: "Filter events", hint: "Filter by object, reason, message", choices: [["", "Newest first"], ["first", "Warnings first"], ["warnings", "Only warnings"]], shown: shown.length, total: all.length, unit: "event" }),
    shown.length ? sheet(eventTable(ctx, "events", shown)) : nothing(ctx, "event", all.length > 0, "No events yet."),
  ];
}
