// What the page knows: filled by the stream's changes (`src/console/protocol.rs`), read by the views.

const KINDS = ["node", "pod", "device", "event"];
/** Numbers kept for one sparkline. */
const SERIES_LENGTH = 90;
/** Events kept; the oldest go first. */
const MAX_EVENTS = 3000;
/** Trees of an earlier stream are forgotten so long after a new one began. */
const OLD_TREES_MS = 20000;

const text = (value) => (typeof value === "string" ? value : "");
const number = (value) => (Number.isFinite(value) ? value : 0);

/** A tree may come from another machine: what is not as it should be becomes empty, names become unique. */
function asTree(tree) {
  const list = (actors, depth) => {
    const names = new Set();
    return (Array.isArray(actors) && depth < 4 ? actors : []).map((actor) => {
      let name = text(actor?.name) || "?";
      while (names.has(name)) name += "'";
      names.add(name);
      const last = actor?.last_failure;
      const inside = list(actor?.children, depth + 1);
      return {
        name, kind: text(actor?.kind), thread: text(actor?.thread), state: text(actor?.state), restarts: number(actor?.restarts),
        mailbox_depth: number(actor?.mailbox_depth), mailbox_refused: number(actor?.mailbox_refused),
        messages_total: number(actor?.messages_total), children: inside,
        children_total: Math.max(number(actor?.children_total), inside.length),
        last_failure: last ? { text: text(last.text), at_ms: number(last.at_ms) } : null,
      };
    });
  };
  return { name: text(tree?.name), uptime_seconds: number(tree?.uptime_seconds), actors: list(tree?.actors, 0) };
}

export class Model {
  constructor() {
    this.forget();
  }

  /** Everything: somebody else may sign in next. */
  forget() {
    this.hello = null;
    this.firstVersion = null;
    this.stream = 0;
    this.streamAt = 0;
    this.skew = 0;
    this.objects = { node: new Map(), pod: new Map(), device: new Map(), event: new Map() };
    this.settled = {};
    this.trouble = {};
    this.trees = new Map();
    this.link = null;
    this.series = new Map();
    this.version = 0;
    this.onRestart = this.onRestart || null;
  }

  /** The server's time: ages do not depend on the visitor's clock. */
  now() {
    return Date.now() + this.skew;
  }

  apply(change) {
    this.version += 1;
    switch (change.type) {
      case "hello":
        if (this.hello && (this.hello.user !== change.user || this.hello.program !== change.program)) this.forget();
        this.hello = change;
        this.firstVersion = this.firstVersion || change.version;
        this.stream += 1;
        this.streamAt = Date.now();
        this.settled = {};
        this.trouble = {};
        this.clockIs(change.nowMs);
        break;
      case "put":
        this.put(change.item);
        break;
      case "gone":
        this.objects[change.kind]?.delete(change.key);
        if (change.kind === "node") this.trees.delete(change.key);
        break;
      case "synced":
        this.synced(change.kind);
        break;
      case "trouble":
        this.trouble[change.kind] = change.why || "the reason is not known";
        this.settled[change.kind] = true;
        break;
      case "actors":
        this.actors(change);
        break;
      case "link":
        this.link = change;
        break;
      case "ping":
        this.clockIs(change.nowMs);
        this.forgetOldTrees();
        break;
    }
  }

  clockIs(ms) {
    if (ms) this.skew = ms - Date.now();
  }

  put(item) {
    const objects = this.objects[item.kind];
    if (!objects) return;
    item.stream = this.stream;
    if (item.kind === "device") this.remember(item);
    if (item.kind === "event") {
      item.news = this.settled.event ? Date.now() : objects.get(item.key)?.news || 0;
      if (objects.size >= MAX_EVENTS && !objects.has(item.key)) this.dropOldEvents(objects);
    }
    objects.set(item.key, item);
  }

  dropOldEvents(events) {
    const oldest = [...events.values()].sort((a, b) => a.lastMs - b.lastMs).slice(0, MAX_EVENTS / 10);
    for (const event of oldest) events.delete(event.key);
  }

  /** The numbers among the reported values. */
  remember(device) {
    for (const twin of device.twins) {
      const value = twin.reported === "" ? NaN : Number(twin.reported);
      if (!Number.isFinite(value)) continue;
      const key = `${device.key}\n${twin.property}`;
      let series = this.series.get(key);
      if (!series) this.series.set(key, (series = { points: [], at: 0, gap: 0, text: "" }));
      const at = twin.atMs || this.now();
      const last = series.points.at(-1);
      if (last && (at === series.at || (!twin.atMs && last === value))) continue;
      if (series.at && at > series.at) {
        const gap = at - series.at;
        series.gap = series.gap ? series.gap * 0.7 + gap * 0.3 : gap;
      }
      series.at = at;
      series.points.push(value);
      if (series.points.length > SERIES_LENGTH) series.points.shift();
      series.text = "";
    }
  }

  seriesOf(device, twin) {
    return this.series.get(`${device.key}\n${twin.property}`);
  }

  synced(kind) {
    const objects = this.objects[kind];
    if (!objects) return;
    for (const [key, item] of objects) {
      if (item.stream === this.stream) continue;
      objects.delete(key);
      if (kind === "node") this.trees.delete(key);
    }
    delete this.trouble[kind];
    this.settled[kind] = true;
  }

  /** A tree: rates come from the one before, and who has more restarts than before was restarted now. */
  actors({ source, atMs, tree }) {
    const before = this.trees.get(source);
    const sameRun = before && before.tree.uptime_seconds <= tree.uptime_seconds;
    const seconds = before ? (atMs - before.atMs) / 1000 : 0;
    const rows = new Map();
    tree = asTree(tree);
    const walk = (actors, above) => {
      for (const actor of actors) {
        const path = above ? `${above}/${actor.name}` : actor.name;
        const was = sameRun ? before.rows.get(path) : undefined;
        const row = { actor, path, rate: was?.rate ?? NaN, restartedAt: was?.restartedAt || 0 };
        if (was && seconds > 0.2) {
          const rate = Math.max(0, actor.messages_total - was.actor.messages_total) / seconds;
          row.rate = Number.isFinite(was.rate) ? was.rate * 0.5 + rate * 0.5 : rate;
        }
        if (was && actor.restarts > was.actor.restarts) {
          row.restartedAt = Date.now();
          this.onRestart?.(source, actor);
        }
        rows.set(path, row);
        walk(actor.children, path);
      }
    };
    walk(tree.actors, "");
    this.trees.set(source, { source, atMs, tree, rows, stream: this.stream });
  }

  forgetOldTrees() {
    if (Date.now() - this.streamAt < OLD_TREES_MS) return;
    for (const [source, tree] of this.trees) if (tree.stream !== this.stream) this.trees.delete(source);
  }

  all(kind) {
    return [...this.objects[kind].values()];
  }

  get(kind, key) {
    return this.objects[kind].get(key);
  }

  /** Has every kind arrived (or is known not to come)? */
  complete() {
    return this.stream > 0 && KINDS.every((kind) => this.settled[kind]);
  }
}
