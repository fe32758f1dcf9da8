// What is well and what is not: one place decides, all views and the title say the same.
// A tone is `ok`, `busy` (on its way), `warn`, `bad`, `unknown` (nobody knows now) or `done`.

const MINUTE = 60000;
/** Restarts and warnings of this last while count as news. */
const RECENT_MS = 10 * MINUTE;
/** A pod may take so long to become ready before it is a problem. */
const PATIENCE_MS = MINUTE;

const BUSY = /^(Pending|ContainerCreating|PodInitializing|Init:\d|Terminating|Scheduling)/;
const DONE = /^(Completed|Succeeded)$/;

export function nodeState(node, now) {
  const cordoned = node.unschedulable ? ", cordoned" : "";
  if (node.ready === "True") {
    const pressed = node.pressures?.length > 0;
    return { tone: pressed ? "warn" : "ok", word: `Ready${cordoned}`, why: node.pressures?.join("; ") || "" };
  }
  if (node.ready === "False") return { tone: "bad", word: `NotReady${cordoned}`, why: node.why };
  const fresh = now - node.createdMs < PATIENCE_MS;
  return { tone: fresh ? "busy" : "bad", word: fresh ? "Joining" : `Unreachable${cordoned}`, why: node.why };
}

/** Does the node answer? What a silent one told last is only what was known then. */
export function isSilent(model, name) {
  if (!name) return false;
  if (model.hello?.program === "edgecore") return false;
  const node = model.get("node", name);
  return Boolean(node && node.ready !== "True");
}

export function podState(model, pod) {
  const tone = podTone(pod, model.now());
  if (isSilent(model, pod.node) && !DONE.test(pod.status)) {
    return { tone: "unknown", word: pod.status, why: `${pod.node} is silent: this is what it told last` };
  }
  return { tone, word: pod.status || "Unknown", why: pod.message };
}

function podTone(pod, now) {
  if (DONE.test(pod.status)) return "done";
  if (pod.status === "Running") {
    if (pod.ready >= pod.total) return "ok";
    return now - youngest(pod) < PATIENCE_MS ? "busy" : "warn";
  }
  if (BUSY.test(pod.status)) return now - pod.createdMs < 2 * PATIENCE_MS || pod.status === "Terminating" ? "busy" : "warn";
  return pod.status ? "bad" : "unknown";
}

const youngest = (pod) => Math.max(pod.createdMs, ...pod.containers.map((c) => c.startedMs || 0));

export function deviceState(model, device) {
  const word = device.state || "not heard of";
  if (isSilent(model, device.node)) return { tone: "unknown", word, why: `${device.node} is silent: this is what it told last` };
  const tone = { online: "ok", ok: "ok", offline: "bad", disconnected: "bad", unhealthy: "bad", "": "unknown", unknown: "unknown" };
  return { tone: tone[device.state.toLowerCase()] || "warn", word, why: "" };
}

/**
 * Is a reported value no longer current? Empty when it is; else why not. The rhythm is what the page has
 * seen itself: values that come every second are old after five of them, others after ten minutes never.
 */
export function staleness(model, device, twin, series) {
  if (isSilent(model, device.node)) return "its node is silent";
  if (device.state && !/^(online|ok)$/i.test(device.state)) return `the device is ${device.state}`;
  if (!twin.atMs) return "";
  const old = model.now() - twin.atMs;
  if (series?.gap && old > Math.max(15000, 6 * series.gap)) return "it used to come more often";
  return "";
}

/** Desired and reported differ: the device has not done (or cannot do) what it should. */
export function differs(twin) {
  if (twin.desired === "" || twin.desired === twin.reported) return false;
  const [want, is] = [Number(twin.desired), Number(twin.reported)];
  return !(twin.reported !== "" && Number.isFinite(want) && want === is);
}

export function actorTone(state) {
  return { running: "ok", waiting: "bad", failed: "bad", draining: "busy", declared: "busy", ended: "done" }[state] || "warn";
}

/** Where an event's object has its page; undefined when it has none. */
export function pageOf(model, event) {
  const key = `${event.objectNamespace}/${event.objectName}`;
  if (event.objectKind === "Pod" && model.get("pod", key)) return link("pods", key);
  if (event.objectKind === "Device" && model.get("device", key)) return link("devices", key);
  if (event.objectKind === "Node" && model.get("node", event.objectName)) return link("nodes", event.objectName);
  return undefined;
}

export const link = (page, key) => `#/${page}/${key.split("/").map(encodeURIComponent).join("/")}`;

/** The whole fleet in figures, with everything that needs somebody, the worst first. */
export function survey(model) {
  const now = model.now();
  const found = [];
  const nodes = new Map();
  const of = (name) => {
    let row = nodes.get(name);
    if (!row) nodes.set(name, (row = { pods: 0, running: 0, devices: 0, online: 0, restarts: 0 }));
    return row;
  };
  const totals = { nodes: 0, ready: 0, pods: 0, running: 0, done: 0, silentPods: 0, devices: 0, online: 0, silentDevices: 0, restarts: 0, recent: 0, warnings: 0 };
  const add = (tone, href, what, why, atMs) => found.push({ tone, href, what, why, atMs });

  for (const node of model.objects.node.values()) {
    const state = nodeState(node, now);
    totals.nodes += 1;
    if (node.ready === "True") totals.ready += 1;
    if (state.tone === "bad" || state.tone === "warn") {
      add(state.tone, link("nodes", node.key), `Node ${node.key} is ${state.tone === "warn" ? "under pressure" : state.word}`, state.why, node.sinceMs);
    }
  }
  for (const pod of model.objects.pod.values()) {
    const state = podState(model, pod);
    const row = of(pod.node);
    if (state.tone === "done") {
      totals.done += 1;
      continue;
    }
    totals.pods += 1;
    row.pods += 1;
    // A pod of a silent node is not counted as running: nobody knows.
    if (state.tone === "unknown") totals.silentPods += 1;
    if (state.tone === "ok") {
      totals.running += 1;
      row.running += 1;
    }
    if (state.tone === "bad" || state.tone === "warn") {
      const word = pod.status === "Running" ? `not ready (${pod.ready} of ${pod.total})` : pod.status;
      add(state.tone, link("pods", pod.key), `Pod ${pod.key} is ${word}`, state.why, pod.createdMs);
    }
  }
  for (const device of model.objects.device.values()) {
    const state = deviceState(model, device);
    const row = of(device.node);
    totals.devices += 1;
    if (state.tone === "unknown") totals.silentDevices += 1;
    row.devices += 1;
    if (state.tone === "ok") {
      totals.online += 1;
      row.online += 1;
    }
    if (state.tone === "bad" || state.tone === "warn") {
      add(state.tone, link("devices", device.key), `Device ${device.key} is ${state.word}`, "", device.lastOnlineMs);
    }
  }
  for (const tree of model.trees.values()) {
    const row = of(tree.source);
    for (const { actor, path } of tree.rows.values()) {
      totals.restarts += actor.restarts;
      row.restarts += actor.restarts;
      const tone = actorTone(actor.state);
      const last = actor.last_failure;
      const recent = last && now - last.at_ms < RECENT_MS;
      if (recent) totals.recent += 1;
      if (tone !== "bad" && !recent) continue;
      const what = tone === "bad" ? `is ${actor.state}` : "was restarted";
      add(tone === "bad" ? "bad" : "warn", link("actors", tree.source), `Actor ${path} of ${tree.source} ${what}`, last?.text || "", last?.at_ms || 0);
    }
  }
  for (const event of model.objects.event.values()) {
    if (event.level === "Warning" && now - event.lastMs < RECENT_MS) totals.warnings += 1;
  }
  if (model.link && !model.link.connected) {
    add("warn", undefined, "The cloud is not reachable", "this node goes on with what it knows", model.link.sinceMs);
  }
  const rank = { bad: 0, warn: 1 };
  found.sort((a, b) => rank[a.tone] - rank[b.tone] || b.atMs - a.atMs || (a.what < b.what ? -1 : 1));
  return { totals, nodes, found };
}
