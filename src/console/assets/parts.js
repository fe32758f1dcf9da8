// Pieces that several views share.

import { h } from "./dom.js";
import { age, clock, count, figure } from "./format.js";
import { link, pageOf } from "./health.js";

const SHAPES = {
  ok: ["circle", { cx: 6, cy: 6, r: 4.5 }],
  busy: ["path", { d: "M6 1.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 0 1 0-9zm0 1.6a2.9 2.9 0 0 0 0 5.8z" }],
  warn: ["path", { d: "M6 .9 11.6 11H.4zM5.3 4.4v3.2h1.4V4.4zm0 4v1.4h1.4V8.4z" }],
  bad: ["path", { d: "M3.6.7h4.8l2.9 2.9v4.8l-2.9 2.9H3.6L.7 8.4V3.6zM3.4 4.5 4.9 6 3.4 7.5l1.1 1.1L6 7.1l1.5 1.5 1.1-1.1L7.1 6l1.5-1.5-1.1-1.1L6 4.9 4.5 3.4z" }],
  unknown: ["path", { d: "M6 1a5 5 0 1 1 0 10A5 5 0 0 1 6 1zm0 1.4a3.6 3.6 0 1 0 0 7.2 3.6 3.6 0 0 0 0-7.2z" }],
  done: ["path", { d: "M4.6 10.2 1 6.6l1.2-1.2 2.4 2.4 5.2-5.2L11 3.8z" }],
};

/** Shape and colour; the word stands beside it. */
export function shape(tone) {
  const [tag, props] = SHAPES[tone] || SHAPES.unknown;
  return h("svg", { class: `shape t-${tone}`, viewBox: "0 0 12 12", "aria-hidden": "true", focusable: "false" }, h(tag, props));
}

export function status({ tone, word, why }) {
  return h("span", { class: `status t-${tone}`, title: why || undefined }, shape(tone), h("span", { max: 48 }, word));
}

/** Beside what a silent node told last. */
export function lastKnown(state) {
  return state.tone === "unknown" && state.why ? h("span", { class: "dim last-known" }, "last known") : null;
}

/** A time with its age. */
export function when(ms, now, title = "") {
  if (!ms) return h("span", { class: "dim" }, "–");
  return h("time", { datetime: new Date(ms).toISOString(), title: `${title}${clock(ms, now)}` }, age(ms, now));
}

export function a(href, ...inside) {
  return href ? h("a", { href }, ...inside) : h("span", {}, ...inside);
}

export function panel(title, aside, ...inside) {
  return h("section", { class: "panel", key: title, "aria-label": title },
    h("header", {}, h("h2", {}, title), aside ? h("div", { class: "aside" }, aside) : null), ...inside);
}

/** A panel that is the page's only one. */
export function sheet(...inside) {
  return h("section", { class: "panel", key: "sheet", "aria-label": "List" }, ...inside);
}

/** Name and value pairs. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) =>
    h("div", { key: name }, h("dt", {}, name), h("dd", {}, value === "" || value === undefined ? "–" : value))));
}

/** What is said instead of rows: why there are none. */
export function nothing(ctx, kind, filtered, text) {
  if (filtered) return h("p", { class: "empty" }, "Nothing matches the filter. ", h("kbd", {}, "Esc"), " clears it.");
  if (kind && !ctx.model.settled[kind]) return h("p", { class: "empty" }, "Loading …");
  if (kind && ctx.model.trouble[kind]) return null;
  return h("p", { class: "empty" }, text);
}

const NAMES = { node: "Nodes", pod: "Pods", device: "Devices", event: "Events" };

/** Kinds that cannot be shown now, and why. */
export function troubles(ctx, kinds) {
  return kinds.filter((kind) => ctx.model.trouble[kind]).map((kind) =>
    h("p", { class: "note t-warn", key: `trouble-${kind}`, role: "alert" }, shape("warn"),
      h("span", {}, h("b", {}, `${NAMES[kind]} cannot be shown: `), ctx.model.trouble[kind],
        ctx.model.objects[kind].size ? " What is shown of them may be old." : "")));
}

/**
 * A table that becomes cards on a phone. `columns`: `{name, cell(row), sort(row), cls}`; the first names the
 * row. Rows beyond the limit wait behind a button.
 */
export function table(ctx, { id, label, columns, rows, keyOf, classOf, sorted }) {
  const [by, down] = sorted === undefined ? sorting(ctx) : [null, false];
  const column = by && columns.find((c) => c.name === by && c.sort);
  const all = column ? sortBy(rows, column.sort, down) : rows;
  const limit = ctx.limit(id);
  const head = columns.map((c) => {
    const state = column === c ? (down ? "descending" : "ascending") : undefined;
    const inside = c.sort && sorted === undefined
      ? h("button", { type: "button", class: "sort", onclick: ctx.once(`sort:${c.name}`, () => ctx.sort(c.name)) }, c.name,
          h("span", { "aria-hidden": "true", class: "arrow" }, state ? (down ? " ↓" : " ↑") : ""))
      : c.name;
    return h("th", { scope: "col", role: "columnheader", class: c.cls, "aria-sort": state }, inside);
  });
  const line = (row) => h("tr", { key: keyOf(row), role: "row", class: classOf?.(row) }, columns.map((c, i) =>
    h("td", { role: i ? "cell" : "rowheader", class: c.cls, "data-label": c.name || undefined }, c.cell(row))));
  return [
    h("div", { class: "scroll", key: `${id}-table` }, h("table", { role: "table", "aria-label": label, class: `t-${id}` },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
      h("tbody", { role: "rowgroup" }, all.slice(0, limit).map(line)))),
    more(ctx, id, all.length, limit),
  ];
}

export function more(ctx, id, total, limit) {
  if (total <= limit) return null;
  const next = Math.min(total - limit, 200);
  return h("p", { class: "more", key: `${id}-more` },
    h("button", { type: "button", onclick: ctx.once(`more:${id}`, () => ctx.more(id)) }, `Show ${next} more`), ` of ${count(total, "row")}`);
}

function sorting(ctx) {
  const wish = ctx.route.query.get("s") || "";
  return wish.startsWith("-") ? [wish.slice(1), true] : [wish, false];
}

const collator = new Intl.Collator("en", { numeric: true });

function sortBy(rows, value, down) {
  const sign = down ? -1 : 1;
  return rows.map((row) => [value(row), row]).sort(([x], [y]) =>
    sign * (typeof x === "number" && typeof y === "number" ? x - y : collator.compare(String(x), String(y)))).map(([, row]) => row);
}

/** The filter of a list, choices beside it, and how many rows are left. */
export function bar(ctx, { label, hint, choices, shown, total, unit }) {
  const chosen = ctx.route.query.get("show") || "";
  return h("div", { class: "bar", role: "search", key: "bar" },
    h("label", { class: "find" }, h("span", { class: "vh" }, label),
      h("input", { id: "filter", type: "search", placeholder: hint, autocomplete: "off", spellcheck: "false", autocapitalize: "off",
        value: ctx.route.query.get("q") || "", oninput: ctx.once("filter", (e) => ctx.query("q", e.target.value)) }),
      h("kbd", { "aria-hidden": "true" }, "/")),
    choices ? h("div", { class: "choices", role: "group", "aria-label": "What to show" }, choices.map(([value, name]) =>
      h("button", { type: "button", key: value, "aria-pressed": String(chosen === value), onclick: ctx.once(`show:${value}`, () => ctx.query("show", value)) }, name))) : null,
    h("span", { class: "left" }, shown === total ? count(total, unit) : `${shown.toLocaleString("en")} of ${count(total, unit)}`));
}

const [WIDE, HIGH] = [96, 22];

/** The last numbers as a line. */
export function spark(series) {
  const points = series?.points || [];
  if (points.length < 2) return h("span", { class: "dim spark-wait", title: "a line is drawn from the second number on" }, "·");
  const [low, high] = [Math.min(...points), Math.max(...points)];
  if (!series.text) {
    const [step, size] = [(WIDE - 4) / (points.length - 1), high - low || 1];
    series.text = points.map((p, i) => `${(2 + i * step).toFixed(1)},${(HIGH - 3 - ((high === low ? 0.5 : (p - low) / size) * (HIGH - 6))).toFixed(1)}`).join(" ");
  }
  const [x, y] = series.text.slice(series.text.lastIndexOf(" ") + 1).split(",");
  return h("svg", { class: "spark", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `${points.length} values from ${figure2(low)} to ${figure2(high)}` },
    h("polyline", { points: series.text }), h("circle", { cx: x, cy: y, r: 2 }));
}

const figure2 = (n) => (Number.isInteger(n) ? String(n) : Math.abs(n) < 1000 ? String(Number(n.toPrecision(4))) : figure(n));

/** Events as rows: the newest first. */
export function eventTable(ctx, id, events, { object = true } = {}) {
  const { model, now } = ctx;
  return table(ctx, {
    id, label: "Events", sorted: true, rows: events, keyOf: (e) => e.key,
    classOf: (e) => `${e.level === "Warning" ? "is-warning" : ""}${Date.now() - e.news < 6000 ? " is-new" : ""}`,
    columns: [
      { name: "Last", cls: "time", cell: (e) => when(e.lastMs, now, e.count > 1 ? `first ${clock(e.firstMs, now)}, last ` : "") },
      { name: "Kind", cls: "level", cell: (e) => (e.level === "Warning" ? status({ tone: "warn", word: "Warning" }) : h("span", { class: "dim" }, e.level)) },
      { name: "Reason", cls: "reason", cell: (e) => e.reason },
      object && { name: "Object", cls: "object", cell: (e) => a(pageOf(model, e), `${e.objectKind} ${e.objectNamespace && e.objectKind !== "Node" ? `${e.objectNamespace}/` : ""}${e.objectName}`) },
      { name: "Message", cls: "wide text", cell: (e) => [e.message, e.count > 1 ? h("span", { class: "times" }, ` ×${e.count}`) : null] },
      { name: "From", cls: "source dim", cell: (e) => e.source },
    ].filter(Boolean),
  });
}

/** Events about one object, the newest first. */
export function eventsAbout(model, kind, namespace, name) {
  const mine = model.all("event").filter((e) =>
    e.objectKind === kind && e.objectName === name && (kind === "Node" || e.objectNamespace === namespace));
  return mine.sort((x, y) => y.lastMs - x.lastMs);
}

export const nodeLink = (name) => (name ? a(link("nodes", name), name) : h("span", { class: "dim" }, "–"));

/** The head of a page about one thing. */
export function title(ctx, name, up, ...aside) {
  return h("div", { class: "title", key: "title" },
    up ? h("a", { class: "up", href: up.href, id: "up" }, h("span", { "aria-hidden": "true" }, "‹ "), up.name) : null,
    h("h1", { id: "top", tabindex: "-1" }, name), ...aside);
}
