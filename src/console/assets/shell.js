// What surrounds the views: header, navigation, sign-in, the word about the connection.

import { h } from "./dom.js";
import { clock, span } from "./format.js";
import { shape } from "./parts.js";

export const PAGES = [
  ["fleet", "f", "Fleet", "M3 10.5 10 4l7 6.5V17h-5v-4H8v4H3z"],
  ["nodes", "n", "Nodes", "M3 4h14v5H3zm0 7h14v5H3zm2-5.2v1.4h1.5V5.8zm0 7v1.4h1.5v-1.4z"],
  ["pods", "p", "Pods", "M10 2.5 16.5 6v8L10 17.5 3.5 14V6zm0 2L6 6.6l4 2.1 4-2.1zM5.2 8v5l4 2.2V10.1zm9.6 0-4 2.1v5.1l4-2.2z"],
  ["devices", "d", "Devices", "M6 6h8v8H6zM8 2h1.5v3H8zm2.5 0H12v3h-1.5zM8 15h1.5v3H8zm2.5 0H12v3h-1.5zM2 8h3v1.5H2zm0 2.5h3V12H2zM15 8h3v1.5h-3zm0 2.5h3V12h-3z"],
  ["actors", "a", "Actors", "M8 2.5h4v4h-1.2V9H16v4.5h-1.3v-3H10.7v3H9.3v-3h-4v3H4V9h5.2V6.5H8zM3 14h4v3.5H3zm5 0h4v3.5H8zm5 0h4v3.5h-4z"],
  ["events", "e", "Events", "M3 4h2v2H3zm4 .2h10v1.6H7zM3 9h2v2H3zm4 .2h10v1.6H7zM3 14h2v2H3zm4 .2h10v1.6H7z"],
];

const nameOf = (ctx, page, name) => (page === "fleet" && ctx.edge ? "Overview" : name);

export function header(ctx) {
  const { model } = ctx;
  const hello = model.hello;
  return h("header", { class: "head", key: "header" },
    h("a", { class: "skip", href: "#main", onclick: ctx.once("skip", (e) => {
      e.preventDefault();
      document.getElementById("top")?.focus();
    }) }, "Skip to the content"),
    h("div", { class: "brand" },
      h("svg", { viewBox: "0 0 32 32", class: "logo", "aria-hidden": "true", focusable: "false" }, h("rect", { width: 32, height: 32, rx: 7 }),
        h("path", { d: "M16 10v5M16 15l-7 6M16 15l7 6" }), h("circle", { cx: 16, cy: 8, r: 3.4 }), h("circle", { cx: 8.4, cy: 22.6, r: 3.4 }), h("circle", { cx: 23.6, cy: 22.6, r: 3.4 })),
      h("div", {}, h("b", {}, "kubeedge"), h("span", { class: "dim" }, hello ? ` ${hello.program} ${hello.version}` : ""), h("div", { class: "place dim" }, ctx.edge ? `node ${hello.node || ""}` : location.host,
        hello ? h("span", { class: "user-small", "aria-hidden": "true" }, ` · ${hello.user.split(":").slice(-2).join(":")}`) : null))),
    connection(ctx),
    h("div", { class: "who" },
      hello ? h("span", { class: "user dim", title: `signed in as ${hello.user}` }, h("span", { class: "vh" }, "Signed in as "), h("span", { max: 60 }, hello.user)) : null,
      h("button", { type: "button", class: "icon", id: "theme", "aria-label": `Switch to the ${ctx.dark() ? "light" : "dark"} theme`, title: "Light or dark", onclick: ctx.once("theme", ctx.switchTheme) },
        h("svg", { viewBox: "0 0 20 20", "aria-hidden": "true", focusable: "false" }, h("path", { d: ctx.dark() ? "M10 6a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM9.3 1.5h1.4v3H9.3zm0 14h1.4v3H9.3zM1.5 9.3h3v1.4h-3zm14 0h3v1.4h-3zM3.5 4.5l1-1 2 2-1 1zm10 10 1-1 2 2-1 1zM3.5 15.5l2-2 1 1-2 2zm10-10 2-2 1 1-2 2z" : "M8 2.5a7.7 7.7 0 1 0 9.5 9.5A6.2 6.2 0 0 1 8 2.5z" }))),
      h("button", { type: "button", class: "icon", id: "help", "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts (?)", onclick: ctx.once("help", () => ctx.help(true)) }, "?"),
      hello ? h("button", { type: "button", class: "plain", id: "sign-out", onclick: ctx.once("out", ctx.signOut) }, "Sign out") : null));
}

function connection(ctx) {
  const { line } = ctx;
  const said = { live: ["ok", "live"], loading: ["busy", "loading"], connecting: ["busy", "connecting"], lost: ["warn", "reconnecting"] }[line.name];
  if (!said) return null;
  const [tone, word] = said;
  return h("div", { class: `connection t-${tone}`, id: "connection", "data-state": line.name },
    shape(tone), h("span", {}, h("b", {}, word), line.name === "lost" && line.knownAt
      ? h("span", { class: "since" }, ` since ${clock(line.since)}, showing what was known then`) : null),
    ctx.edge && line.name === "live" && ctx.model.link
      ? h("span", { class: `cloud t-${ctx.model.link.connected ? "ok" : "warn"}`, id: "link" }, shape(ctx.model.link.connected ? "ok" : "warn"), ctx.model.link.connected ? "cloud reachable" : "cloud not reachable") : null);
}

/** Above a view whose data is not live. */
export function banner(ctx) {
  const { line, model } = ctx;
  if (line.name === "lost") {
    const wait = Math.max(0, Math.ceil((line.retryAt - Date.now()) / 1000));
    return h("div", { class: "note t-warn banner", key: "banner", id: "banner" }, shape("warn"),
      h("span", {}, h("b", {}, "Not connected. "), line.knownAt ? `This is what was known at ${clock(line.since)}, ${span(Date.now() - line.since)} ago. ` : "",
        line.why ? `${line.why[0].toUpperCase()}${line.why.slice(1)}. ` : "", line.trying ? "Trying now …" : `Trying again in ${wait}s.`),
      h("button", { type: "button", onclick: ctx.once("now", ctx.tryNow) }, "Try now"));
  }
  if (model.hello && model.firstVersion !== model.hello.version) {
    return h("div", { class: "note t-busy banner", key: "banner" }, shape("busy"), h("span", {}, `The server is now version ${model.hello.version}; this page came from ${model.firstVersion}.`),
      h("button", { type: "button", onclick: ctx.once("reload", () => location.reload()) }, "Load the new page"));
  }
  return null;
}

export function navigation(ctx) {
  const { found } = ctx.survey;
  const here = ctx.route.parts[0];
  return h("nav", { class: "pages", key: "nav", "aria-label": "Pages" }, PAGES.map(([page, key, name, path]) =>
    h("a", { key: page, href: `#/${page}`, "aria-current": here === page ? "page" : undefined, "aria-keyshortcuts": `g ${key}` },
      h("svg", { viewBox: "0 0 20 20", "aria-hidden": "true", focusable: "false" }, h("path", { d: path })),
      h("span", {}, nameOf(ctx, page, name)),
      page === "fleet" && found.length ? h("span", { class: "badge", title: "need attention" }, String(found.length), h("span", { class: "vh" }, " need attention")) : null)));
}

export function signInPage(ctx) {
  const { form, line } = ctx;
  const busy = form.busy;
  return h("main", { class: "sign-in", id: "main", key: "sign-in" }, h("form", { class: "panel", onsubmit: ctx.once("submit", ctx.submit), autocomplete: "off", "aria-busy": String(Boolean(busy)) },
    h("h1", { id: "top", tabindex: "-1" }, "Sign in"),
    form.notice ? h("p", { class: "note t-warn", key: "notice" }, shape("warn"), h("span", {}, form.notice)) : null,
    h("label", { for: "token" }, "Token"),
    h("input", { id: "token", name: "token", type: "password", autocomplete: "off", spellcheck: "false", autocapitalize: "off", required: true, "aria-describedby": "hint wrong", "aria-invalid": form.error ? "true" : undefined }),
    h("p", { id: "wrong", class: form.error ? "note t-bad" : "vh", role: "alert", key: "wrong" }, form.error ? shape("bad") : null, h("span", {}, form.error || "")),
    h("button", { type: "submit", class: "primary", disabled: busy || undefined }, busy ? "Signing in …" : "Sign in"),
    h("p", { id: "hint", class: "dim hint" }, "On the machine of this server, ", h("code", {}, "keadm console"), " prints a fresh token. Any bearer token of the Kubernetes API works on a cloud too; it sees what its RBAC rights allow."),
    line.name === "checking" ? h("p", { class: "dim", key: "check" }, "Looking for an earlier sign-in …") : null));
}

export function helpDialog(ctx) {
  if (!ctx.ui.help) return null;
  const rows = [["/", "go to the filter"], ...PAGES.map(([page, key, name]) => [`g ${key}`, `go to ${nameOf(ctx, page, name)}`]), ["Esc", "clear the filter, close a page or this list"], ["t", "light or dark"], ["?", "this list"]];
  return h("div", { class: "veil", key: "help", onclick: ctx.once("veil", (e) => { if (e.target === e.currentTarget) ctx.help(false); }) },
    h("div", { class: "dialog panel", role: "dialog", "aria-modal": "true", "aria-labelledby": "help-title", id: "help-dialog" },
      h("h2", { id: "help-title" }, "Keyboard"),
      h("dl", {}, rows.map(([keys, what]) => h("div", { key: keys }, h("dt", {}, keys.split(" ").map((k) => h("kbd", { key: k }, k))), h("dd", {}, what)))),
      h("button", { type: "button", id: "help-close", onclick: ctx.once("close-help", () => ctx.help(false)) }, "Close")));
}
