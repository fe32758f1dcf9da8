// Times, ages and numbers as text.

const two = (n) => String(n).padStart(2, "0");

/** `14:03:05`, with the day when it is not today's. */
export function clock(ms, now = Date.now()) {
  if (!ms) return "–";
  const t = new Date(ms);
  const time = `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
  const today = new Date(now);
  if (t.toDateString() === today.toDateString()) return time;
  return `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())} ${time}`;
}

/** A span of time as kubectl writes it: `42s`, `3m10s`, `5h12m`, `2d3h`, `40d`. */
export function span(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 120) return `${s}s`;
  const m = Math.floor(s / 60);
  if (m < 10) return s % 60 ? `${m}m${s % 60}s` : `${m}m`;
  if (m < 180) return `${m}m`;
  const hours = Math.floor(m / 60);
  if (hours < 8) return m % 60 ? `${hours}h${m % 60}m` : `${hours}h`;
  if (hours < 48) return `${hours}h`;
  const d = Math.floor(hours / 24);
  if (d < 8) return hours % 24 ? `${d}d${hours % 24}h` : `${d}d`;
  return d < 730 ? `${d}d` : `${Math.floor(d / 365)}y`;
}

/** How long ago; `–` when unknown. */
export function age(ms, now) {
  return ms ? span(now - ms) : "–";
}

/** Rates and other figures: three digits are enough. */
export function figure(n) {
  if (!Number.isFinite(n)) return "–";
  const size = Math.abs(n);
  if (size === 0) return "0";
  if (size < 0.1) return "<0.1";
  if (size < 10) return n.toFixed(1);
  if (size < 10000) return String(Math.round(n));
  return `${(n / 1000).toFixed(size < 100000 ? 1 : 0)}k`;
}

/** `16316536Ki` as `15.6 GiB`; what is no such quantity stays as it is. */
export function bytes(quantity) {
  const parts = /^(\d+)(Ki|Mi|Gi|k|M|G)?$/.exec(quantity || "");
  if (!parts) return quantity || "–";
  const unit = { Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, k: 1e3, M: 1e6, G: 1e9 }[parts[2]] || 1;
  const n = Number(parts[1]) * unit;
  return n >= 2 ** 30 ? `${(n / 2 ** 30).toFixed(1)} GiB` : `${Math.round(n / 2 ** 20)} MiB`;
}

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

/** Do all words of the filter stand in the text? */
export function matches(words, ...fields) {
  if (!words.length) return true;
  const text = fields.join("\n").toLowerCase();
  return words.every((word) => text.includes(word));
}

export const wordsOf = (filter) => (filter || "").toLowerCase().split(/\s+/).filter(Boolean);
