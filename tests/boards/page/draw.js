// Panels as SVG and HTML: only what the boards use.
import { format } from "/page/units.js";

const NAMED = { green: "#73bf69", orange: "#ff9830", red: "#f2495c", blue: "#5794f2", yellow: "#fade2a", purple: "#b877d9", gray: "#8e929b", text: "#ccccdc", "semi-dark-green": "#56a64b" };
const PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#96d98d", "#ffb357", "#ff9830", "#e05fcf", "#37b6ba"];
const hex = (name) => NAMED[name] ?? name;
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** The color of the last step that the value reaches. */
function threshold(value, thresholds) {
  let color = "green";
  for (const step of thresholds?.steps ?? []) if (step.value === null || value >= step.value) color = step.color;
  return hex(color);
}
const last = (one) => one.points.at(-1)?.[1];
const mapped = (value, defaults) => defaults.mappings?.[0]?.options[String(value)];

/** Defaults of a field with the overrides that are for its name. */
function field(panel, name) {
  const config = structuredClone(panel.fieldConfig.defaults);
  for (const override of panel.fieldConfig.overrides ?? []) {
    if (override.matcher.options !== name) continue;
    for (const { id, value } of override.properties) {
      const [whole, part] = id.split(".");
      if (part) (config[whole] ??= {})[part] = value;
      else config[id] = value;
    }
  }
  return config;
}
const colors = (panel, series) =>
  series.map((one, at) => {
    const { color } = field(panel, one.name);
    return color?.mode === "fixed" ? hex(color.fixedColor) : PALETTE[at % PALETTE.length];
  });

function ticks(low, high, count, unit) {
  const rough = (high - low) / count || 1;
  const isBinary = unit === "bytes";
  const power = isBinary ? 2 ** Math.floor(Math.log2(rough)) : 10 ** Math.floor(Math.log10(rough));
  const size = (isBinary ? [1, 2] : [1, 2, 5, 10]).map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let at = Math.ceil(low / size) * size; at <= high + size * 1e-6; at += size) found.push(Number(at.toPrecision(12)));
  return found;
}
const clock = (t) => new Date(t * 1000).toISOString().slice(11, 16);

function timeTicks(query, count) {
  const size = [60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400].find((n) => (query.to - query.from) / n <= count) ?? 86400;
  const found = [];
  for (let t = Math.ceil(query.from / size) * size; t <= query.to; t += size) found.push(t);
  return found;
}

function powers(low, high) {
  const found = [];
  for (let at = 10 ** Math.ceil(Math.log10(low)); at <= high; at *= 10) found.push(at);
  return found.length > 1 ? found : [low, high];
}

/** Svg with time along the bottom; gives its parts and the x of a time. */
function frame(width, height, left, right, query) {
  const x = (t) => left + ((t - query.from) / (query.to - query.from)) * (width - left - right);
  const parts = [];
  for (const t of timeTicks(query, Math.max(2, width / 75))) {
    parts.push(`<line x1="${x(t)}" x2="${x(t)}" y1="2" y2="${height - 16}" stroke="#24272e"/>`);
    if (x(t) > left - 5 && x(t) < width - 14) parts.push(`<text x="${x(t)}" y="${height - 3}" text-anchor="middle">${clock(t)}</text>`);
  }
  return { x, parts };
}
const marks = (annotations, x, height) =>
  annotations.map(({ at, color }) => `<line x1="${x(at)}" x2="${x(at)}" y1="2" y2="${height - 16}" stroke="${hex(color)}" stroke-dasharray="3 3" opacity=".45"/>`);
const svg = (width, height, parts) => `<svg width="${width}" height="${height}" xmlns="http://www.w3.org/2000/svg">${parts.join("")}</svg>`;

const CALCS = {
  lastNotNull: ["Last", (p) => p.at(-1)],
  max: ["Max", (p) => Math.max(...p)],
  min: ["Min", (p) => Math.min(...p)],
  mean: ["Mean", (p) => p.reduce((a, b) => a + b, 0) / p.length],
};
function legend(panel, series, color) {
  const { calcs = [], displayMode } = panel.options.legend ?? {};
  const mark = (at) => `<i style="background:${color[at]}"></i>`;
  if (displayMode !== "table") return `<div class="legend">${series.map((one, at) => `<span>${mark(at)}${escape(one.name)}</span>`).join("")}</div>`;
  const head = calcs.map((calc) => `<th>${CALCS[calc][0]}</th>`).join("");
  const lines = series.slice(0, 5).map((one, at) => {
    const { unit, decimals } = field(panel, one.name);
    const cells = calcs.map((calc) => `<td>${format(CALCS[calc][1](one.points.map((p) => p[1])), unit, decimals)}</td>`).join("");
    return `<tr><td>${mark(at)}${escape(one.name)}</td>${cells}</tr>`;
  });
  const more = series.length > 5 ? `<tr><td>and ${series.length - 5} more</td></tr>` : "";
  return `<div class="legend"><table><tr><th></th>${head}</tr>${lines.join("")}${more}</table></div>`;
}

/** Series on common times, each on top of the one before. */
function stack(series, step) {
  const sums = new Map();
  return series.map((one) => {
    const points = one.points.map(([t, v]) => {
      const key = Math.round(t / step);
      const low = sums.get(key) ?? 0;
      sums.set(key, low + v);
      return [t, low + v, low];
    });
    return { ...one, stacked: points };
  });
}

function timeseries(panel, { series, step }, query, width, height, annotations) {
  const { custom, unit, decimals, min, max } = panel.fieldConfig.defaults;
  const isStacked = custom.stacking !== undefined;
  const drawn = isStacked ? stack(series, step) : series.map((one) => ({ ...one, stacked: one.points.map(([t, v]) => [t, v, undefined]) }));
  const lower = drawn.filter((one) => field(panel, one.name).custom?.axisPlacement !== "right");
  const values = lower.flatMap((one) => one.stacked.map((p) => p[1]));
  const isLog = custom.scaleDistribution?.type === "log";
  const low = isLog ? Math.max(Math.min(...values), 1e-3) / 2 : (min ?? Math.min(...values));
  let high = max ?? Math.max(...values);
  if (!(high > low)) high = low + 1;
  if (max === undefined) high += (high - low) * 0.05;
  const whole = decimals === 0 && high - low < 5;
  const lines = (isLog ? powers(low, high) : ticks(low, high, whole ? Math.ceil(high - low) : Math.max(2, height / 34), unit)).filter((v) => !whole || Number.isInteger(v));
  const labels = lines.map((v) => format(v, unit, decimals));
  const left = 10 + Math.max(...labels.map((label) => label.length)) * 6.2;
  const { x, parts } = frame(width, height, left, 6, query);
  const place = isLog ? (v) => Math.log10(Math.max(v, low)) : (v) => v;
  const scale = (from, to) => (v) => height - 18 - ((place(v) - place(from)) / (place(to) - place(from))) * (height - 26);
  const y = scale(low, high);
  lines.forEach((v, at) => {
    parts.push(`<line x1="${left}" x2="${width - 6}" y1="${y(v)}" y2="${y(v)}" stroke="#24272e"/>`);
    parts.push(`<text x="${left - 5}" y="${y(v) + 3.5}" text-anchor="end">${labels[at]}</text>`);
  });
  if (custom.thresholdsStyle) {
    for (const limit of panel.fieldConfig.defaults.thresholds.steps.filter((s) => s.value !== null && s.value > low && s.value < high)) {
      parts.push(`<line x1="${left}" x2="${width - 6}" y1="${y(limit.value)}" y2="${y(limit.value)}" stroke="${hex(limit.color)}" stroke-dasharray="6 4" opacity=".7"/>`);
    }
  }
  const color = colors(panel, drawn);
  drawn.forEach((one, at) => {
    const own = field(panel, one.name).custom?.axisPlacement === "right" ? scale(0, Math.max(1, ...one.points.map((p) => p[1])) * 1.05) : y;
    if (custom.drawStyle === "bars") {
      const wide = Math.max(1.5, (x(query.from + step) - left) * 0.75);
      for (const [t, v, base] of one.stacked) {
        if (v > (base ?? 0)) parts.push(`<rect x="${x(t) - wide / 2}" y="${own(v)}" width="${wide}" height="${own(base ?? 0) - own(v)}" fill="${color[at]}" opacity=".9"/>`);
      }
      return;
    }
    // A gap where samples are missing.
    const runs = [];
    for (const point of one.stacked) {
      if (!runs.length || point[0] - runs.at(-1).at(-1)[0] > step * 1.5) runs.push([]);
      runs.at(-1).push(point);
    }
    for (const run of runs) {
      const over = run.map(([t, v]) => `${x(t).toFixed(1)},${own(v).toFixed(1)}`);
      const under = run.map(([t, , base]) => `${x(t).toFixed(1)},${own(base ?? low).toFixed(1)}`).reverse();
      parts.push(`<polygon points="${over.join(" ")} ${under.join(" ")}" fill="${color[at]}" opacity="${(custom.fillOpacity ?? 0) / 100}"/>`);
      if (run.length === 1) parts.push(`<circle cx="${x(run[0][0])}" cy="${own(run[0][1])}" r="1.6" fill="${color[at]}"/>`);
      else if (custom.lineWidth > 0) parts.push(`<polyline points="${over.join(" ")}" fill="none" stroke="${color[at]}" stroke-width="1.3"/>`);
    }
  });
  parts.push(...marks(annotations, x, height));
  return svg(width, height, parts);
}

function timeline(panel, { series, step }, query, width, height, annotations) {
  const left = 12 + Math.max(...series.map((one) => one.name.length)) * 6.4;
  const { x, parts } = frame(width, height, left, 6, query);
  const tall = (height - 20) / series.length;
  series.forEach((one, at) => {
    parts.push(`<text x="${left - 6}" y="${tall * (at + 0.5) + 4}" text-anchor="end">${escape(one.name)}</text>`);
    const runs = [];
    for (const [t, v] of one.points) {
      const run = runs.at(-1);
      if (run && run.v === v && t - run.to <= step * 1.5) run.to = t;
      else runs.push({ v, from: run && t - run.to <= step * 1.5 ? run.to : t, to: t });
    }
    for (const run of runs) {
      const color = hex(mapped(run.v, panel.fieldConfig.defaults)?.color) ?? threshold(run.v, panel.fieldConfig.defaults.thresholds);
      const gap = Math.min(tall * 0.12, 8);
      parts.push(`<rect x="${x(run.from)}" y="${tall * at + gap}" width="${Math.max(1, x(run.to) - x(run.from))}" height="${tall - 2 * gap}" fill="${color}" opacity=".8"/>`);
    }
  });
  parts.push(...marks(annotations, x, height));
  return svg(width, height, parts);
}

function heatmap(panel, { series, step }, query, width, height) {
  const { unit } = panel.fieldConfig.defaults;
  const bound = (one) => (one.labels.le === "+Inf" ? Infinity : Number(one.labels.le));
  const ordered = [...series].sort((a, b) => bound(a) - bound(b));
  const left = 58;
  const { x, parts } = frame(width, height, left, 6, query);
  const tall = (height - 20) / ordered.length;
  const below = ordered.map((one, at) => new Map(at ? ordered[at - 1].points.map(([t, v]) => [t, v]) : []));
  const cells = ordered.map((one, at) => one.points.map(([t, v]) => [t, Math.max(0, v - (below[at].get(t) ?? 0))]));
  const most = Math.max(...cells.flat().map((cell) => cell[1]), 1e-9);
  cells.forEach((line, at) => {
    const top = height - 18 - tall * (at + 1);
    if (at % Math.ceil(14 / tall) === 0) parts.push(`<text x="${left - 5}" y="${top + tall / 2 + 4}" text-anchor="end">${bound(ordered[at]) === Infinity ? "more" : format(bound(ordered[at]), unit)}</text>`);
    for (const [t, v] of line) {
      if (v < 1e-9) continue;
      const share = (v / most) ** 0.5;
      parts.push(`<rect x="${x(t)}" y="${top}" width="${Math.max(1, x(query.from + step) - left - 0.4)}" height="${tall - 1}" fill="hsl(${38 - 28 * share} 95% ${22 + 42 * share}%)"/>`);
    }
  });
  return svg(width, height, parts);
}

function stat(panel, { series }, query, width, height) {
  const { defaults } = panel.fieldConfig;
  const one = series[0];
  const value = one && last(one);
  const map = value !== undefined && mapped(value, defaults);
  const text = value === undefined ? (defaults.noValue ?? "No data") : (map?.text ?? format(value, defaults.unit, defaults.decimals));
  const color = value === undefined ? NAMED.gray : map?.color ? hex(map.color) : threshold(value, defaults.thresholds);
  const isFilled = panel.options.colorMode === "background";
  let spark = "";
  if (panel.options.graphMode === "area" && one && one.points.length > 2) {
    const values = one.points.map((p) => p[1]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const at = ([t, v]) => `${(((t - query.from) / (query.to - query.from)) * width).toFixed(1)},${(height - 2 - ((v - low) / (high - low || 1)) * height * 0.3).toFixed(1)}`;
    const line = one.points.map(at);
    const ink = isFilled ? "#ffffff" : color;
    spark = svg(width, height, [`<polygon points="${line.join(" ")} ${line.at(-1).split(",")[0]},${height} ${line[0].split(",")[0]},${height}" fill="${ink}" opacity=".15"/>`, `<polyline points="${line.join(" ")}" fill="none" stroke="${ink}" opacity=".55"/>`]);
  }
  const size = Math.min(height * 0.55, (width * 1.5) / Math.max(text.length, 3), 40);
  return { html: `${spark}<div class="value" style="font-size:${size}px;color:${isFilled ? "#fff" : color}">${escape(text)}</div>`, background: isFilled ? color : undefined };
}

function bargauge(panel, { series }, width, height) {
  const { defaults } = panel.fieldConfig;
  const most = defaults.max ?? Math.max(...series.map(last), 1e-9);
  const ordered = [...series].sort((a, b) => last(b) - last(a));
  const left = Math.min(width * 0.5, 10 + Math.max(...ordered.map((one) => one.name.length)) * 6.6);
  const tall = Math.min(30, height / ordered.length);
  const parts = ordered.map((one, at) => {
    const value = last(one);
    const wide = ((width - left - 44) * value) / most;
    const color = threshold(value, defaults.thresholds);
    const middle = tall * (at + 0.5) + 4;
    return `<text x="${left - 6}" y="${middle}" text-anchor="end">${escape(one.name)}</text><rect x="${left}" y="${tall * at + 3}" width="${Math.max(1, wide)}" height="${tall - 6}" rx="2" fill="${color}" opacity=".75"/><text x="${left + wide + 5}" y="${middle}" style="fill:${color}">${format(value, defaults.unit, defaults.decimals)}</text>`;
  });
  return svg(width, height, parts);
}

/** Merge and organize, as the two transformations of the boards' tables do. */
function rows(panel, series) {
  const { renameByName, indexByName, excludeByName } = panel.transformations.find((one) => one.id === "organize").options;
  const lines = new Map();
  for (const one of series) {
    const key = JSON.stringify([one.labels.node, one.labels.actor]);
    const line = lines.get(key) ?? lines.set(key, {}).get(key);
    for (const [label, value] of Object.entries(one.labels)) line[renameByName[label] ?? label] = value;
    if (!excludeByName[`Value #${one.refId}`]) line[renameByName[`Value #${one.refId}`]] = last(one);
  }
  const columns = Object.keys(indexByName).sort((a, b) => indexByName[a] - indexByName[b]).map((name) => renameByName[name]);
  const found = [...lines.values()];
  for (const { displayName, desc } of [...panel.options.sortBy].reverse()) {
    found.sort((a, b) => {
      const [one, two] = [a[displayName] ?? -Infinity, b[displayName] ?? -Infinity];
      return (one < two ? -1 : one > two ? 1 : 0) * (desc ? -1 : 1);
    });
  }
  return { columns, found };
}

function table(panel, { series }) {
  const { columns, found } = rows(panel, series);
  const cell = (name, value) => {
    const config = field(panel, name);
    if (value === undefined) return "<td></td>";
    const map = mapped(value, config);
    const text = escape(map?.text ?? (typeof value === "number" ? format(value, config.unit, config.decimals) : value));
    const color = map?.color ? hex(map.color) : threshold(value, config.thresholds);
    const kind = config.custom?.cellOptions?.type;
    if (kind === "color-background") return `<td style="background:${color};color:#fff">${text}</td>`;
    if (kind === "gauge") return `<td><span class="gauge"><i style="width:${Math.min(100, (100 * value) / config.max)}%;background:${color}"></i></span>${text}</td>`;
    if (kind === "color-text") return `<td style="color:${color}">${text}</td>`;
    return config.links && value !== "cloudcore" ? `<td><a href="/d/kubeedge-node?var-node=${encodeURIComponent(value)}">${text}</a></td>` : `<td>${text}</td>`;
  };
  const lines = found.map((line) => `<tr>${columns.map((name) => cell(name, line[name])).join("")}</tr>`);
  return `<table class="table"><tr>${columns.map((name) => `<th>${name}</th>`).join("")}</tr>${lines.join("")}</table>`;
}

/** Draws a panel into `body`. */
export function draw(panel, data, query, body, annotations) {
  const { clientWidth: width, clientHeight: height } = body;
  if (panel.type === "stat") {
    const { html, background } = stat(panel, data, query, width, height);
    body.innerHTML = html;
    if (background) {
      body.parentElement.style.background = background;
      body.closest("section").classList.add("filled");
    }
  } else if (!data.series.length) body.innerHTML = '<div class="none">No data</div>';
  else if (panel.type === "table") body.innerHTML = table(panel, data);
  else if (panel.type === "bargauge") body.innerHTML = bargauge(panel, data, width, height);
  else if (panel.type === "heatmap") body.innerHTML = heatmap(panel, data, query, width, height);
  else if (panel.type === "state-timeline") body.innerHTML = timeline(panel, data, query, width, height, annotations);
  else if (panel.type === "timeseries") {
    body.insertAdjacentHTML("afterend", legend(panel, data.series, colors(panel, data.series)));
    body.innerHTML = timeseries(panel, data, query, width, body.clientHeight, annotations);
  } else throw new Error(`${panel.type} panels are not drawn here`);
}
