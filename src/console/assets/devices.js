// Devices: what they report beside what is wanted of them.

import { h } from "./dom.js";
import { clock, matches, wordsOf } from "./format.js";
import { deviceState, differs, link, staleness } from "./health.js";
import { a, bar, eventTable, eventsAbout, facts, lastKnown, more, nodeLink, nothing, panel, shape, sheet, spark, status, title, troubles, when } from "./parts.js";
import { missing } from "./objects.js";

const COLUMNS = [["Property", ""], ["Reported", "value"], ["Trend", "trend"], ["Desired", "value"], ["In force", "value"], ["Taken", "num"]];

/** One group of rows for each device. */
export function deviceGroups(ctx, devices, id) {
  const limit = Math.ceil(ctx.limit(id) / 2);
  return [
    h("div", { class: "scroll", key: `${id}-table` }, h("table", { role: "table", class: "t-twins", "aria-label": "Devices and their properties" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map(([name, cls]) => h("th", { scope: "col", role: "columnheader", class: cls }, name)))),
      devices.slice(0, limit).map((device) => group(ctx, device)))),
    more(ctx, id, devices.length, limit),
  ];
}

function group(ctx, device) {
  const head = h("tr", { class: "device", role: "row", key: "head" }, h("th", { colspan: "6", scope: "rowgroup", role: "rowheader" },
    a(link("devices", device.key), h("span", { class: "ns" }, `${device.namespace}/`), device.name), status(deviceState(ctx.model, device)), lastKnown(deviceState(ctx.model, device)),
    h("span", { class: "about dim" }, [device.model, device.protocol].filter(Boolean).join(", "), device.node && ctx.route.parts[0] !== "nodes" ? [" on ", nodeLink(device.node)] : null)));
  return h("tbody", { key: device.key, role: "rowgroup" }, head,
    device.twins.length ? device.twins.map((twin) => twinRow(ctx, device, twin))
      : h("tr", { role: "row", key: "none" }, h("td", { colspan: "6", role: "cell", class: "dim" }, "This device has no properties.")));
}

function twinRow(ctx, device, twin) {
  const { model, now } = ctx;
  const series = model.seriesOf(device, twin);
  const stale = staleness(model, device, twin, series);
  const off = differs(twin);
  const none = h("span", { class: "dim" }, "–");
  const value = (text) => (text === "" ? none : h("span", { class: "v", max: 80 }, text, twin.unit ? h("span", { class: "unit" }, ` ${twin.unit}`) : null));
  return h("tr", { key: `twin-${twin.property}`, role: "row", class: `${stale ? "is-old" : ""}${off ? " is-off" : ""}` },
    h("td", { role: "rowheader", class: "property", "data-label": "Property" }, twin.property),
    h("td", { role: "cell", class: "value reported", "data-label": "Reported" }, value(twin.reported)),
    h("td", { role: "cell", class: "trend", "data-label": "Trend" }, spark(series)),
    h("td", { role: "cell", class: "value", "data-label": "Desired" },
      off ? h("span", { class: "mark t-warn", title: "The device reports something else than is wanted." }, shape("warn"), h("span", { class: "vh" }, "differs from reported: ")) : null,
      value(twin.desired), !twin.writable && twin.desired === "" ? h("span", { class: "vh" }, "cannot be set") : null),
    h("td", { role: "cell", class: "value", "data-label": "In force" }, value(twin.observedDesired)),
    h("td", { role: "cell", class: "num", "data-label": "Taken" }, when(twin.atMs, now, "taken at "), stale ? h("span", { class: "stale", title: stale }, " stale") : null));
}

export function devices(ctx) {
  const { model, route } = ctx;
  const all = model.all("device");
  const words = wordsOf(route.query.get("q"));
  const show = route.query.get("show") || "";
  const shown = all.filter((d) => matches(words, d.key, d.node, d.model, d.protocol, d.state, ...d.twins.map((t) => t.property))
    && (show !== "problems" || deviceState(model, d).tone !== "ok") && (show !== "differs" || d.twins.some(differs)));
  shown.sort((x, y) => (x.key < y.key ? -1 : 1));
  return [
    title(ctx, "Devices"),
    troubles(ctx, ["device"]),
    bar(ctx, { label: "Filter devices", hint: "Filter by name, node, model, property", choices: [["", "All"], ["problems", "Not online"], ["differs", "Desired differs"]], shown: shown.length, total: all.length, unit: "device" }),
    shown.length ? sheet(deviceGroups(ctx, shown, "devices")) : nothing(ctx, "device", all.length > 0, "No devices. kubectl apply -f device.yaml makes one."),
  ];
}

export function device(ctx) {
  const { model, now } = ctx;
  const key = ctx.route.parts.slice(1).join("/");
  const device = model.get("device", key);
  const up = { href: "#/devices", name: "Devices" };
  if (!device) return missing(ctx, "device", key, up);
  const state = deviceState(model, device);
  const events = eventsAbout(model, "Device", device.namespace, device.name);
  return [
    title(ctx, key, up, status(state)),
    troubles(ctx, ["device", "event"]),
    state.why ? h("p", { class: `note t-${state.tone}`, key: "why" }, shape(state.tone), h("span", {}, state.why)) : null,
    panel("Facts", null, facts([["Node", nodeLink(device.node)], ["Model", device.model], ["Protocol", device.protocol],
      ["State", device.state || "never told"], ["Last online", when(device.lastOnlineMs, now)]])),
    panel("Properties", null, h("div", { class: "twins" }, device.twins.map((twin) => card(ctx, device, twin)),
      device.twins.length ? null : h("p", { class: "empty" }, "This device has no properties."))),
    panel("Events", null, events.length ? eventTable(ctx, "device-events", events, { object: false }) : nothing(ctx, "event", false, "No events about this device.")),
  ];
}

function card(ctx, device, twin) {
  const { model, now } = ctx;
  const series = model.seriesOf(device, twin);
  const stale = staleness(model, device, twin, series);
  const off = differs(twin);
  const value = (text) => (text === "" ? "–" : [text, twin.unit ? h("span", { class: "unit" }, ` ${twin.unit}`) : null]);
  return h("article", { class: `twin${stale ? " is-old" : ""}`, key: twin.property, "aria-label": twin.property, max: 4000 },
    h("h3", {}, twin.property, h("span", { class: "dim" }, twin.dataType)),
    h("div", { class: "big" }, h("span", { class: `v${twin.reported.length > 16 ? " long" : ""}` }, value(twin.reported)), spark(series)),
    facts([
      ["Desired", off ? [shape("warn"), " ", value(twin.desired), " (differs)"] : value(twin.desired)],
      ["In force at the edge", value(twin.observedDesired)],
      ["Taken", [clock(twin.atMs, now), twin.atMs ? " (" : "", twin.atMs ? when(twin.atMs, now) : null, twin.atMs ? " ago)" : ""]],
      stale ? ["Stale", stale] : null,
      ["Can be set", twin.writable ? "yes" : "no"],
    ]));
}
