// The console: keeps the model fed, decides when to draw, and listens to the keyboard.

import { patch } from "./dom.js";
import { survey } from "./health.js";
import { Model } from "./model.js";
import { Stream, signIn, signOut } from "./stream.js";
import { PAGES, banner, header, helpDialog, navigation, signInPage } from "./shell.js";
import { fleet, nodes } from "./fleet.js";
import { events, node, pod, pods } from "./objects.js";
import { device, devices } from "./devices.js";
import { actors } from "./actors.js";
import { h } from "./dom.js";

/** Drawn at most so often: calm to look at and cheap with a thousand devices. */
const DRAW_EVERY_MS = 300;
const ROWS_AT_FIRST = 100;
const ROWS_MORE = 200;
/** A key after `g` counts for so long. */
const CHORD_MS = 1500;
/** Remembers (without the token, which only the cookie has) that somebody signed in here. */
const SIGNED_IN = "kubeedge-console-signed-in";
const THEME = "kubeedge-console-theme";

const root = document.getElementById("app");
const model = new Model();

function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch { /* storage is off: nothing is remembered */ }
}

/** Undefined when storage is off. */
function recall(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return undefined;
  }
}

function say(text) {
  document.getElementById("say").textContent = text;
}

const handlers = new Map();
const ctx = {
  model,
  ui: { open: new Map(), limits: new Map(), help: false, allProblems: false },
  form: { error: "", notice: "", busy: false },
  line: { name: "checking", since: 0, knownAt: 0, retryAt: 0, why: "", trying: false },
  route: parse(location.hash),
  // One listener for one purpose: listeners are not exchanged at each drawing.
  once(name, listener) {
    let kept = handlers.get(name);
    if (!kept) handlers.set(name, (kept = { call: (event) => kept.listener(event) }));
    kept.listener = listener;
    return kept.call;
  },
  limit: (id) => ctx.ui.limits.get(id) || ROWS_AT_FIRST,
  more(id) {
    ctx.ui.limits.set(id, ctx.limit(id) + ROWS_MORE);
    draw();
  },
  sort(name) {
    const is = ctx.route.query.get("s");
    ctx.query("s", is === name ? `-${name}` : is === `-${name}` ? "" : name);
  },
  query(name, value) {
    if (value) ctx.route.query.set(name, value);
    else ctx.route.query.delete(name);
    const query = ctx.route.query.toString();
    const path = `#/${ctx.route.parts.map(encodeURIComponent).join("/")}`;
    history.replaceState(null, "", query ? `${path}?${query}` : path);
    draw();
  },
  dark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },
  switchTheme() {
    const theme = ctx.dark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    remember(THEME, theme);
    draw();
  },
  help(open) {
    ctx.ui.help = open;
    draw();
    document.getElementById(open ? "help-close" : "help")?.focus();
  },
  async submit(event) {
    event.preventDefault();
    const input = document.getElementById("token");
    const token = input.value.trim();
    if (!token || ctx.form.busy) return;
    ctx.form = { error: "", notice: "", busy: true };
    draw();
    const wrong = await signIn(token);
    ctx.form = { error: wrong, notice: "", busy: false };
    if (wrong) {
      draw();
      document.getElementById("token")?.select();
      return;
    }
    input.value = "";
    remember(SIGNED_IN, "1");
    enter();
  },
  async signOut() {
    stream.stop();
    const done = await signOut();
    out(done ? "" : "The server was not reached: this browser may still be signed in. Close it, or sign out again later.");
  },
  tryNow: () => stream.now(),
  draw,
};

const stream = new Stream({
  change(change) {
    model.apply(change);
    if (change.type === "hello") {
      const was = ctx.line.name;
      ctx.line = { ...ctx.line, name: model.complete() ? "live" : "loading", since: Date.now(), why: "", trying: false };
      if (was === "lost") say("Connected again.");
    }
    if (ctx.line.name === "loading" && model.complete()) {
      ctx.line = { ...ctx.line, name: "live", since: Date.now() };
      // For whoever measures how long a load takes.
      performance.mark("kubeedge-first-data");
    }
    soon();
  },
  state(state) {
    if (state.name === "out") {
      out(state.why ? `You are signed out: ${state.why}` : model.hello ? "Your sign-in is no longer accepted: it has expired or was revoked." : "");
      return;
    }
    if (state.name === "waiting") {
      if (ctx.line.name !== "lost") {
        ctx.line = { name: "lost", since: stream.heard, knownAt: model.hello ? stream.heard : 0 };
        say("The connection is lost. Trying to reconnect.");
      }
      ctx.line = { ...ctx.line, retryAt: state.retryAt, why: state.why, trying: false };
    }
    if (state.name === "connecting" || state.name === "open") ctx.line.trying = true;
    soon();
  },
});

model.onRestart = (source, actor) => say(`Actor ${actor.name} of ${source} was restarted.`);

function enter() {
  ctx.line = { ...ctx.line, name: "connecting", since: Date.now(), why: "" };
  stream.start();
  draw();
  document.getElementById("top")?.focus({ preventScroll: true });
}

function out(notice) {
  stream.stop();
  model.forget();
  remember(SIGNED_IN, null);
  ctx.form = { error: "", notice, busy: false };
  ctx.line = { name: "out", since: 0, knownAt: 0, retryAt: 0, why: "", trying: false };
  draw();
  document.getElementById("token")?.focus();
}

/** `#/pods/default/web?q=x` as `{parts: ["pods", "default", "web"], query}`. */
function parse(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  if (!PAGES.some(([page]) => page === parts[0])) parts.splice(0, parts.length, "fleet");
  return { parts, query: new URLSearchParams(query || "") };
}

function view() {
  const { parts } = ctx.route;
  const [page, ...key] = parts;
  if (page === "nodes") {
    // An edge has one node: its own.
    if (!key.length && ctx.edge && model.hello.node) ctx.route.parts = ["nodes", model.hello.node];
    return ctx.route.parts.length > 1 ? node(ctx) : nodes(ctx);
  }
  if (page === "pods") return key.length > 1 ? pod(ctx) : pods(ctx);
  if (page === "devices") return key.length > 1 ? device(ctx) : devices(ctx);
  if (page === "actors") return actors(ctx);
  if (page === "events") return events(ctx);
  return fleet(ctx);
}

let drawnAt = 0;
let due = 0;

/** Draws when it is time again. */
function soon() {
  if (due || document.hidden) return;
  const wait = Math.max(0, drawnAt + DRAW_EVERY_MS - performance.now());
  due = setTimeout(() => requestAnimationFrame(draw), wait);
}

function draw() {
  clearTimeout(due);
  due = 0;
  drawnAt = performance.now();
  ctx.now = model.now();
  ctx.edge = model.hello?.program === "edgecore";
  ctx.survey = survey(model);
  const inside = ctx.line.name !== "out" && ctx.line.name !== "checking";
  const old = ctx.line.name === "lost";
  if (!inside) {
    patch(root, [header(ctx), signInPage(ctx), helpDialog(ctx)]);
    document.title = "Sign in · kubeedge console";
    return;
  }
  patch(root, [
    header(ctx),
    navigation(ctx),
    h("main", { id: "main", key: "main", class: old ? "old" : "" }, banner(ctx),
      h("div", { key: ctx.route.parts.join("/"), class: "view", "data-page": ctx.route.parts[0] }, view())),
    helpDialog(ctx),
  ]);
  const name = document.getElementById("top")?.textContent || "";
  const mark = old ? "⚠ not connected · " : ctx.survey.found.length ? `(${ctx.survey.found.length}) ` : "";
  document.title = `${mark}${name} · kubeedge ${model.hello?.program || "console"}`;
}

/** Where Esc leads. */
function close() {
  const filter = document.getElementById("filter");
  if (ctx.ui.help) return ctx.help(false);
  if (ctx.route.query.get("q")) {
    filter.value = "";
    return ctx.query("q", "");
  }
  if (document.activeElement === filter && filter) return filter.blur();
  const up = document.getElementById("up");
  if (up) location.hash = up.getAttribute("href");
}

let chordUntil = 0;
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.("input, textarea, select");
  if (event.key === "Escape") {
    event.preventDefault();
    close();
    return;
  }
  if (ctx.ui.help && event.key === "Tab") {
    // The dialog has one button: the focus stays on it.
    event.preventDefault();
    document.getElementById("help-close")?.focus();
    return;
  }
  if (typing) return;
  const chord = performance.now() < chordUntil && PAGES.find(([, key]) => key === event.key);
  chordUntil = 0;
  if (chord && model.stream) {
    event.preventDefault();
    location.hash = `#/${chord[0]}`;
  } else if (event.key === "g") chordUntil = performance.now() + CHORD_MS;
  else if (event.key === "/") {
    const filter = document.getElementById("filter");
    if (!filter) return;
    event.preventDefault();
    filter.focus();
    filter.select();
  } else if (event.key === "?") ctx.help(!ctx.ui.help);
  else if (event.key === "t") ctx.switchTheme();
});

addEventListener("hashchange", () => {
  ctx.route = parse(location.hash);
  if (ctx.line.name === "out" || ctx.line.name === "checking") return;
  ctx.ui.limits.clear();
  draw();
  scrollTo(0, 0);
  // Whoever listens hears where he is.
  document.getElementById("top")?.focus({ preventScroll: true });
});
addEventListener("online", () => stream.now());
addEventListener("pageshow", (event) => event.persisted && model.stream && stream.start());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  if (ctx.line.name === "lost") stream.now();
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
// Ages grow by themselves.
setInterval(() => ctx.line.name !== "out" && soon(), 1000);

if (recall(SIGNED_IN) === null) out("");
else enter();
