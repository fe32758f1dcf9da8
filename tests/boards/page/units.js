// Values as Grafana writes them: the units that the boards use.
const number = (value, decimals, rough = 2) => {
  if (decimals !== undefined) return value.toFixed(decimals);
  const size = Math.abs(value);
  const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : rough;
  return String(Number(value.toFixed(size > 0 && size < 0.01 ? 4 : digits)));
};
const scaled = (value, base, names, decimals) => {
  let at = 0;
  let rest = value;
  while (Math.abs(rest) >= base && at < names.length - 1) { rest /= base; at += 1; }
  return number(rest, at === 0 && Number.isInteger(rest) ? 0 : decimals, 2) + names[at];
};
const seconds = (value, decimals) => {
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 1e-3) return `${number(value * 1e6, decimals, 1)} µs`;
  if (size < 1) return `${number(value * 1e3, decimals, 1)} ms`;
  for (const [name, length] of [["years", 31536000], ["weeks", 604800], ["days", 86400], ["hours", 3600], ["min", 60]]) {
    if (size >= length) return `${number(value / length, decimals, 1)} ${name}`;
  }
  return `${number(value, decimals, 2)} s`;
};
const BYTES = [" B", " KiB", " MiB", " GiB", " TiB"];
const PLAIN = ["", " K", " Mil", " Bil"];
const RATES = { mps: " msg/s", ops: " ops/s", reqps: " req/s" };

const UNITS = ["none", "short", "s", "bytes", "Bps", "percentunit", ...Object.keys(RATES)];

export function format(value, unit, decimals) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (unit === "s") return seconds(value, decimals);
  if (unit === "bytes") return scaled(value, 1024, BYTES, decimals);
  if (unit === "Bps") return scaled(value, 1000, [" B/s", " kB/s", " MB/s"], decimals);
  if (unit === "percentunit") return `${number(value * 100, decimals, 1)}%`;
  if (unit === "short") return scaled(value, 1000, PLAIN, decimals);
  return number(value, decimals) + (RATES[unit] ?? "");
}
