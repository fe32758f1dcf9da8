// Actors: the live supervision tree of each program.

import { h } from "./dom.js";
import { age, clock, count, figure, matches, span, wordsOf } from "./format.js";
import { actorTone, isSilent, link } from "./health.js";
import { bar, status, title, when } from "./parts.js";

/** So long a restarted actor stands out. */
const FLASH_MS = 8000;
/** An actor with more workers than these shows them on demand. */
const OPEN_WORKERS = 6;

export function actors(ctx) {
  const { model, route, edge } = ctx;
  const sources = [...model.trees.keys()].sort((x, y) => (y === "cloudcore") - (x === "cloudcore") || (x < y ? -1 : 1));
  const chosen = route.parts[1] || sources[0];
  const found = model.trees.get(chosen);
  const words = wordsOf(route.query.get("q"));
  const total = found ? found.rows.size : 0;
  const shown = found ? [...found.rows.values()].filter((r) => visible(r, words)).length : 0;
  return [
    title(ctx, "Actors"),
    sources.length > 1 ? h("nav", { class: "sources", "aria-label": "Programs", key: "sources" }, sources.map((source) => {
      const restarts = sum(model.trees.get(source));
      return h("a", { key: source, href: link("actors", source), "aria-current": source === chosen ? "true" : undefined, class: flashing(model.trees.get(source)) ? "flash" : "" },
        source, restarts ? h("span", { class: "badge", title: count(restarts, "restart") }, String(restarts)) : null);
    })) : null,
    bar(ctx, { label: "Filter actors", hint: "Filter by name, thread, state", shown, total, unit: "actor" }),
    chosen ? h("section", { class: "panel", key: `tree-${chosen}`, "aria-label": `Actors of ${chosen}` }, tree(ctx, chosen, "actors", words))
      : h("p", { class: "empty", key: "none" }, edge || model.complete() ? "No actor tree is known. It needs the right to list nodes." : "Loading …"),
  ];
}

const sum = (found) => [...found.rows.values()].reduce((n, r) => n + r.actor.restarts, 0);
const flashing = (found) => [...found.rows.values()].some((r) => Date.now() - r.restartedAt < FLASH_MS);
const visible = (row, words) => matches(words, row.path, row.actor.kind, row.actor.thread, row.actor.state, row.actor.last_failure?.text || "");

/** The tree of one program: an actor, below it its workers. */
export function tree(ctx, source, id, words = []) {
  const { model, now } = ctx;
  const found = model.trees.get(source);
  if (!found) return h("p", { class: "empty" }, model.get("node", source) || !model.complete() ? "No tree of this program has arrived (yet)." : "No program of this name is known.");
  const silent = isSilent(model, source);
  const rows = [];
  for (const actor of found.tree.actors || []) {
    const row = found.rows.get(actor.name);
    const inside = actor.children.map((child) => found.rows.get(`${actor.name}/${child.name}`)).filter((r) => r && (!words.length || visible(r, words)));
    if (words.length && !inside.length && !visible(row, words)) continue;
    const fold = `${source}/${actor.name}`;
    const open = words.length > 0 || (ctx.ui.open.get(fold) ?? actor.children.length <= OPEN_WORKERS);
    rows.push(line(ctx, row, { fold: actor.children.length > OPEN_WORKERS && !words.length ? fold : null, open, workers: actor.children_total }));
    // A worker in trouble is never folded away.
    const limit = ctx.limit(id);
    const shown = (open ? inside : inside.filter((r) => actorTone(r.actor.state) === "bad" || Date.now() - r.restartedAt < FLASH_MS)).slice(0, limit);
    for (const worker of shown) rows.push(line(ctx, worker, { worker: true }));
    const left = open ? actor.children_total - actor.children.length : 0;
    if (left > 0) rows.push(h("tr", { role: "row", class: "worker", key: `${actor.name}/…` }, h("td", { role: "cell", colspan: "8", class: "dim" }, `and ${left} more that the program does not list`)));
  }
  const restarts = sum(found);
  return [
    h("p", { class: "under-title", key: "about" }, h("b", {}, found.tree.name), ` up ${span(found.tree.uptime_seconds * 1000)}, ${count(found.rows.size, "actor")}, ${count(restarts, "restart")}, as of ${clock(found.atMs, now)}`,
      silent || found.stream !== model.stream ? h("span", { class: "stale" }, ` last known, ${age(found.atMs, now)} old`) : null),
    h("div", { class: "scroll", key: `${id}-table` }, h("table", { role: "table", class: `t-actors${silent ? " is-old" : ""}`, "aria-label": `Actors of ${source}` },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, [["Actor", ""], ["State", ""], ["Restarts", "num"], ["Mailbox", "num"], ["Messages/s", "num"], ["Messages", "num"], ["Thread", ""], ["Last failure", "wide"]]
        .map(([name, cls]) => h("th", { scope: "col", role: "columnheader", class: cls }, name)))),
      h("tbody", { role: "rowgroup" }, rows))),
  ];
}

function line(ctx, row, { worker = false, fold = null, open = false, workers = 0 }) {
  const { now } = ctx;
  const { actor } = row;
  const last = actor.last_failure;
  const justNow = Date.now() - row.restartedAt < FLASH_MS;
  const name = fold
    ? h("button", { type: "button", class: "fold", "aria-expanded": String(open), onclick: ctx.once(`fold:${fold}`, () => {
        ctx.ui.open.set(fold, !(ctx.ui.open.get(fold) ?? false));
        ctx.draw();
      }) }, h("span", { class: "caret", "aria-hidden": "true" }, open ? "▾" : "▸"), actor.name, h("span", { class: "dim" }, ` ${workers}`))
    : actor.name;
  return h("tr", { key: row.path, role: "row", class: `${worker ? "worker" : "top"}${justNow ? " flash" : ""}` },
    h("td", { role: "rowheader", class: "name", "data-label": worker ? "Worker" : "Actor" }, worker ? h("span", { class: "twig", "aria-hidden": "true" }) : null, name),
    h("td", { role: "cell", "data-label": "State" }, status({ tone: actorTone(actor.state), word: actor.state }), justNow ? h("span", { class: "strong" }, " restarted just now") : null),
    h("td", { role: "cell", class: "num", "data-label": "Restarts" }, actor.restarts ? h("b", { class: "t-warn" }, String(actor.restarts)) : "0"),
    h("td", { role: "cell", class: "num", "data-label": "Mailbox" }, String(actor.mailbox_depth), actor.mailbox_refused ? h("span", { class: "t-bad strong", title: "messages refused because the mailbox was full" }, ` +${actor.mailbox_refused} refused`) : null),
    h("td", { role: "cell", class: "num", "data-label": "Messages/s" }, figure(row.rate)),
    h("td", { role: "cell", class: "num", "data-label": "Messages" }, actor.messages_total.toLocaleString("en")),
    h("td", { role: "cell", class: "dim", "data-label": "Thread" }, actor.thread),
    h("td", { role: "cell", class: `wide text${last ? "" : " none"}`, "data-label": "Last failure" }, last ? [when(last.at_ms, now), " ago: ", last.text] : h("span", { class: "dim" }, "–")));
}
