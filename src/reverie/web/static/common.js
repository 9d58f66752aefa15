// Shared by both pages: DOM elements without HTML parsing (names of runs are always text), number formats, theme, colours.

export const COLOURS = ["#5b8cff", "#f2913d", "#2fb380", "#e0567a", "#a678f0", "#17b1c9", "#c9a227", "#8a94a8", "#d65db1", "#7fb13d"];
export const colourOf = (id) => COLOURS[id % COLOURS.length];

/** Create an element: properties, `on` listeners, `data` attributes, children as nodes or text. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key === "on") for (const [event, run] of Object.entries(value)) node.addEventListener(event, run);
    else if (key === "style") for (const [name, v] of Object.entries(value)) node.style.setProperty(name, v);
    else if (key === "data") Object.assign(node.dataset, value);
    else if (key in node && key !== "list") node[key] = value;
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** The JSON answer of a path; with `body` (an object, sent as JSON) a POST. Throws an Error with the server's sentence. */
export async function ask(path, method = "GET", body = null) {
  const sent = body === null ? {} : { body: JSON.stringify(body) };
  const answer = await fetch(path, { method: body === null ? method : "POST", headers: { accept: "application/json", ...(body === null ? {} : { "content-type": "application/json" }) }, ...sent });
  const values = await answer.json().catch(() => ({ message: answer.statusText }));
  if (!answer.ok) throw new Error([values.message, values.hint].filter(Boolean).join(" "));
  return values;
}

/** 12345 -> "12.3k", 0.00123 -> "0.00123". */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${+(value / 1e9).toPrecision(3)}G`;
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size >= 100) return `${Math.round(value)}`;
  if (size && size < 1e-3) return value.toExponential(1);
  return `${+value.toPrecision(3)}`;
}

/** Save a URL or a Blob under a name. */
export function download(name, what) {
  const url = typeof what === "string" ? what : URL.createObjectURL(what);
  const link = el("a", { href: url, download: name.replace(/[^\w.-]+/g, "-").slice(0, 100) });
  document.body.append(link);
  link.click();
  link.remove();
  if (url !== what) setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** A cell of CSV; text that a spreadsheet would take for a formula begins with an apostrophe. */
export const cell = (value) => {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? "");
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

/** Half of the 95 % interval of a mean of n values is this many standard errors (Student's t). */
const T95 = [0, 0, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093];
export const student = (n) => T95[n] ?? 1.96 + 2.5 / n;

/** Seconds -> "1 h 05 min". */
export function duration(seconds) {
  if (!(seconds >= 0)) return "–";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(Math.round(seconds % 60)).padStart(2, "0")} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${String(Math.round((seconds % 3600) / 60)).padStart(2, "0")} min`;
  return `${+(seconds / 86400).toFixed(1)} d`;
}

export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const listeners = new Set();
export const onTheme = (run) => listeners.add(run);

export function startTheme(button) {
  const wanted = matchMedia("(prefers-color-scheme: dark)");
  const read = () => { try { return localStorage.getItem("reverie-theme"); } catch { return null; } };
  const apply = () => {
    document.documentElement.dataset.theme = read() || (wanted.matches ? "dark" : "light");
    listeners.forEach((run) => run());
  };
  apply();
  wanted.addEventListener("change", apply);
  button.addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("reverie-theme", next); } catch { /* a private window */ }
    apply();
    document.documentElement.dataset.theme = next;
    listeners.forEach((run) => run());
  });
}

/** 0..1 -> a colour from dark blue to gold (rising in lightness, so that colour-blind readers see the order). */
const STOPS = [[16, 18, 34], [52, 44, 112], [118, 60, 150], [196, 78, 128], [244, 136, 84], [252, 226, 140]];
export function heat(value) {
  const at = Math.max(0, Math.min(1, value)) * (STOPS.length - 1), i = Math.min(STOPS.length - 2, Math.floor(at)), part = at - i;
  return STOPS[i].map((from, k) => Math.round(from + (STOPS[i + 1][k] - from) * part));
}

/** A percentile of what is usual -> a colour: blue up to the median, gold at 99 %, red beyond all. */
const RARE = [[74, 128, 224], [96, 168, 200], [240, 190, 60], [216, 48, 60]];
export function rare(share) {
  const at = 3 * Math.max(0, Math.min(1, share < 0.5 ? 0 : Math.log10(2 * (1 - share) + 0.002) / Math.log10(0.002))), i = Math.min(2, Math.floor(at)), part = at - i;
  return `rgb(${RARE[i].map((from, k) => Math.round(from + (RARE[i + 1][k] - from) * part)).join(" ")})`;
}

/** Rows of numbers 0..1 as an image: one pixel each, enlarged by the style. */
export function drawHeat(canvas, rows, { scale = (x) => x } = {}) {
  const height = rows.length, width = rows[0].length;
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  rows.forEach((row, i) => row.forEach((value, j) => image.data.set([...heat(scale(value)), 255], 4 * (i * width + j))));
  context.putImageData(image, 0, 0);
}
