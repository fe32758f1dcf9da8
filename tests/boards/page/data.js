// From a board's JSON to the answers of Prometheus: variables, time, steps, one request a target.
async function api(path, parameters) {
  const response = await fetch(`/prometheus/api/v1/${path}`, { method: "POST", body: new URLSearchParams(parameters) });
  const answer = await response.json();
  if (answer.status !== "success") throw new Error(`${path}: ${answer.error}`);
  return answer.data;
}

const UNIT = { s: 1, m: 60, h: 3600, d: 86400 };
const duration = (text) => Number(text.slice(0, -1)) * UNIT[text.slice(-1)];
/** Unix seconds of `now`, `now-15m` or a time in milliseconds. */
const instant = (text) => {
  if (!text.startsWith("now")) return Number(text) / 1000;
  return Date.now() / 1000 - (text.length > 3 ? duration(text.slice(4)) : 0);
};

export class Query {
  constructor(board, parameters, scrape) {
    this.board = board;
    this.parameters = parameters;
    this.scrape = scrape;
    this.to = instant(parameters.get("to") ?? board.time.to);
    this.from = instant(parameters.get("from") ?? board.time.from);
    this.values = {};
    this.shown = [];
  }

  fill(text, step) {
    const range = Math.round(this.to - this.from);
    const rate = Math.max(step + this.scrape, 4 * this.scrape);
    const known = { __rate_interval: `${rate}s`, __interval: `${step}s`, __range: `${range}s`, ...this.values };
    return text.replace(/\$\{?(\w+)(?::\w+)?\}?/g, (whole, name) => known[name] ?? whole);
  }

  async readVariables() {
    for (const variable of this.board.templating.list) {
      const wanted = this.parameters.getAll(`var-${variable.name}`).filter((value) => value && value !== "$__all");
      let found = [];
      if (variable.type === "query") {
        const [, expr, label] = variable.query.query.match(/^label_values\((.*),\s*(\w+)\)$/);
        found = await this.labelValues(label, this.fill(expr, 60));
      }
      const all = variable.includeAll && !wanted.length;
      const value = all ? variable.allValue : wanted.length ? wanted.join("|") : (found[0] ?? variable.current?.value ?? "");
      this.values[variable.name] = value;
      this.shown.push([variable.label ?? variable.name, all ? "All" : wanted.join(" + ") || found[0] || variable.current?.text || ""]);
    }
  }

  async labelValues(label, match) {
    const series = await api("series", { "match[]": match, start: this.from, end: this.to });
    return [...new Set(series.map((one) => one[label]).filter(Boolean))].sort();
  }

  /** Series `{ name, labels, points: [[t, v]..] }` of every target of a panel; `width` in pixels. */
  async panel(panel, width) {
    const least = panel.interval ? duration(panel.interval) : this.scrape;
    const step = Math.max(least, Math.ceil((this.to - this.from) / Math.max(60, width / 3)));
    const answers = await Promise.all(
      panel.targets.map(async (target) => {
        const query = this.fill(target.expr, step);
        const data = target.instant
          ? await api("query", { query, time: this.to })
          : await api("query_range", { query, start: Math.floor(this.from / step) * step, end: this.to, step });
        return data.result.map((one) => ({
          refId: target.refId,
          labels: one.metric,
          name: this.name(target, one.metric),
          points: (one.values ?? [one.value]).map(([t, v]) => [t, Number(v)]).filter(([, v]) => !Number.isNaN(v)),
        }));
      }),
    );
    return { series: answers.flat().filter((one) => one.points.length), step };
  }

  name(target, labels) {
    if (target.legendFormat) return target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? "").trim();
    return Object.values(labels).join(" ");
  }

  /** Beginnings of what an annotation shows: `{ at, color }`. */
  async annotations() {
    const found = [];
    for (const annotation of this.board.annotations.list.filter((one) => one.enable)) {
      const step = Math.max(this.scrape, Math.ceil((this.to - this.from) / 400));
      const data = await api("query_range", { query: this.fill(annotation.expr, step), start: this.from, end: this.to, step });
      for (const { values } of data.result) {
        let last = -Infinity;
        for (const [t] of values) {
          if (t - last > 2 * step) found.push({ at: t, color: annotation.iconColor });
          last = t;
        }
      }
    }
    return found;
  }
}
