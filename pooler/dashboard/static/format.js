// How numbers, times and sizes are written. Unknown is an en dash everywhere.

export const UNKNOWN = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const UNITS = ["", "k", "M", "G", "T", "P"];

// Three digits that count: 0.25, 3.4, 27, 1.25k, 31.4M.
export function short(value, units = UNITS) {
  if (value === null || value === undefined) return UNKNOWN;
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return digits(value) + units[unit];
}

export const count = (value) =>
  value === null || value === undefined ? UNKNOWN : whole.format(value);

export const bytes = (value) => short(value, [" B", " kB", " MB", " GB", " TB", " PB"]);

export const rate = (value) => (value === null || value === undefined ? UNKNOWN : `${short(value)}/s`);

// Seconds as people say them: 420 µs, 12.4 ms, 1.2 s, 3 min 12 s, 2 h 5 min, 3 d 4 h.
export function seconds(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value === 0) return "0";
  if (value < 0.0009995) return `${digits(value * 1e6)} µs`;
  if (value < 0.9995) return `${digits(value * 1e3)} ms`;
  if (value < 59.95) return `${digits(value)} s`;
  const all = Math.round(value);
  if (all < 3600) return pair(all, 60, "min", 1, "s");
  if (all < 86400) return pair(all, 3600, "h", 60, "min");
  return pair(all, 86400, "d", 3600, "h");
}

export const micros = (value) =>
  seconds(value === null || value === undefined ? value : value / 1e6);

export const clock = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");

export function moment(time) {
  const date = new Date(time * 1000);
  const today = new Date().toDateString() === date.toDateString();
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return today ? clock(time) : `${day}, ${clock(time)}`;
}

function digits(value) {
  const size = Math.abs(value);
  if (size >= 99.95 || Number.isInteger(value)) return value.toFixed(0);
  if (size >= 9.995) return trim(value.toFixed(1));
  return trim(value.toFixed(2));
}

const trim = (text) => text.replace(/\.?0+$/, "");

function pair(all, big, bigName, small, smallName) {
  const rest = Math.floor((all % big) / small);
  return `${Math.floor(all / big)} ${bigName}${rest ? ` ${rest} ${smallName}` : ""}`;
}
