// Figures as people read them.

const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fraction = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** 1234567 -> "1,234,567". */
export function count(value) {
  return isNumber(value) ? whole.format(value) : NONE;
}

/** A number for the axis of a chart: 12,500 -> "12.5k". */
export function short(value) {
  if (value >= 1e9) return `${fraction.format(value / 1e9)}G`;
  if (value >= 1e6) return `${fraction.format(value / 1e6)}M`;
  if (value >= 1e4) return `${fraction.format(value / 1e3)}k`;
  return fraction.format(value);
}

/** Messages a second: "12.5/s". */
export function rate(value) {
  if (!isNumber(value)) return NONE;
  return `${value < 100 ? fraction.format(value) : whole.format(value)}/s`;
}

/** The rate of a counter in a group of them: `rateOf(stats, "publish")`. 0 if it has not counted yet. */
export function rateOf(stats, name) {
  return stats?.[`${name}_details`]?.rate ?? 0;
}

/** 1536 -> "1.5 KiB". */
export function bytes(value) {
  if (!isNumber(value)) return NONE;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? whole.format(value) : fraction.format(value)} ${UNITS[unit]}`;
}

/** 1536 -> "1.5 KiB/s". */
export function byteRate(value) {
  return isNumber(value) ? `${bytes(value)}/s` : NONE;
}

/** A length of time in milliseconds: "850 ms", "12 s", "3 min 20 s", "4 d 2 h". */
export function duration(ms) {
  if (!isNumber(ms)) return NONE;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${whole.format(Math.floor(seconds / 86400))} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** A point in time, in milliseconds since 1970. */
export function dateTime(ms) {
  return isNumber(ms) ? new Date(ms).toLocaleString() : NONE;
}

/** The time of day. */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** The value of an argument, a header or a setting as text. */
export function plain(value) {
  if (value === undefined || value === null) return NONE;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** The members of an object, one a line: "name: value". Empty if it has none. */
export function lines(values) {
  return Object.entries(values ?? {})
    .map(([name, value]) => `${name}: ${plain(value)}`)
    .join("\n");
}

/** A point in time that the broker gives as text. */
export function dateTimeText(text) {
  if (!text) return undefined;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? String(text) : dateTime(ms);
}

/** What is shown for an exchange without a name. */
export function exchangeName(name) {
  return name === "" ? "(default)" : name;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}
