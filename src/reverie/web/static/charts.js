// Charts: uPlot with bands, legend, axis labels, smoothing, a logarithmic axis, zoom by dragging, a box that names the
// point under the pointer, and both the chart and its numbers as files.
import { cell, css, download, duration, el, onTheme, short, student } from "./common.js";
import { legendRows, svgText } from "./svg.js";

const charts = new Set();
onTheme(() => charts.forEach((chart) => chart.rebuild()));

const AXIS_LABELS = { env_steps: "environment steps", seconds: "training time", updates: "updates of the networks" };
const AXIS_NAMES = { env_steps: "step ", seconds: "after ", updates: "update " };
const GRID_POINTS = 150; // of a band

/** Exponential moving average with bias correction; `weight` 0 means none. */
export function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0, norm = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

/** The value of a curve at x, between its points. */
function between({ x, y }, at) {
  let low = 0, high = x.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (x[middle] <= at) low = middle; else high = middle; }
  const width = x[high] - x[low];
  return width > 0 ? y[low] + (y[high] - y[low]) * (at - x[low]) / width : y[low];
}

/**
 * Curves of several seeds as one: their mean where all of them have values, and its 95 % interval (Student's t); of two
 * seeds both themselves, for an interval of two is as wide as the chart. -> {x, y, low, high, n}, or the only curve.
 */
export function band(curves, weight = 0) {
  const known = curves.filter((curve) => curve.x.length).map((curve) => ({ x: curve.x, y: smoothed(curve.y, weight) }));
  if (known.length < 2) return known.length ? { ...known[0], n: 1 } : { x: [], y: [], n: 0 };
  const from = Math.max(...known.map((c) => c.x[0])), to = Math.min(...known.map((c) => c.x.at(-1)));
  if (!(to >= from)) return { x: [], y: [], n: known.length };
  const x = Array.from({ length: GRID_POINTS }, (_, i) => from + (to - from) * i / (GRID_POINTS - 1)), y = [], low = [], high = [];
  for (const at of x) {
    const values = known.map((curve) => between(curve, at)), n = values.length, mean = values.reduce((a, b) => a + b) / n;
    const deviation = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1)), half = student(n) * deviation / Math.sqrt(n);
    y.push(mean);
    low.push(n > 2 ? mean - half : Math.min(...values));
    high.push(n > 2 ? mean + half : Math.max(...values));
  }
  return { x, y, low, high, n: known.length };
}

const faint = (colour, share) => colour + Math.round(share * 255).toString(16).padStart(2, "0");

/** Curves of several sources on one x axis: union of x, null where a curve has no point, the mean where it has several. */
function joined(curves) {
  const xs = [...new Set(curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  const column = (curve, values) => {
    const out = new Array(xs.length).fill(null), count = new Array(xs.length).fill(0);
    curve.x.forEach((x, i) => { // environments side by side end episodes at the same step
      const at = place.get(x);
      if (values[i] === null || values[i] === undefined) return;
      count[at] += 1;
      out[at] = count[at] > 1 ? out[at] + (values[i] - out[at]) / count[at] : values[i];
    });
    return out;
  };
  return { xs, column };
}

/** Ticks as text: of more than three digits where two of them would be the same. */
function labels(values) {
  const known = new Set(values.filter((y) => y !== null)).size;
  for (let digits = 3; ; digits++) {
    const texts = values.map((y) => (y === null ? "" : digits > 3 ? `${+y.toPrecision(digits)}` : short(y)));
    if (digits > 8 || new Set(texts.filter(Boolean)).size === known) return texts;
  }
}

/** The y range: the values with a margin; a constant curve does not lie on the edge. */
function range(plot, low, high) {
  if (low === null || high === null) return [0, 1];
  if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) { // smoothing adds the last digits of floats
    const half = Math.max(0.5, Math.abs(low) / 10);
    return [low > 0 ? Math.max(0, low - half) : low - half, high + half];
  }
  const margin = 0.06 * (high - low);
  return [low >= 0 && low - margin < 0 ? 0 : low - margin, high + margin];
}

/** The same without a few peaks that would press all else to the floor, e.g. the pace before learning begins. */
function calmRange(plot, low, high) {
  const values = plot.data.slice(1).flat().filter((v) => v !== null && v !== undefined).sort((a, b) => a - b);
  const usual = values.length > 5 ? values[Math.floor(0.9 * (values.length - 1))] : high;
  return range(plot, low, usual > 0 && high > 4 * usual ? 1.3 * usual : high);
}

export class Chart {
  /** options: {height, axis: "env_steps" | "seconds" | "updates" | "", xlabel, unit, log, smooth, calm, note: below the legend} */
  constructor(box, options = {}) {
    this.box = box; this.options = { height: 210, axis: "env_steps", smooth: 0, log: false, ...options };
    this.curves = []; this.plot = null; this.shape = "";
    box.classList.add("chart");
    this.area = el("div"); this.legend = el("div", { className: "legend" });
    box.append(this.area, this.legend);
    this.tip = el("div", { className: "tip", hidden: true });
    this.watcher = new ResizeObserver(() => this.resize());
    this.watcher.observe(box);
    charts.add(this);
  }

  get xlabel() { return AXIS_LABELS[this.options.axis] || this.options.xlabel || "steps into the dream"; }

  /** curves: [{label, colour, x, y, low?, high?, points?: bool, ci?: [], dash?: [], level?: number, raw?: bool, unlisted?: bool (in the legend)}] */
  show(curves, options = {}) {
    Object.assign(this.options, options);
    this.curves = curves.filter((curve) => curve.x.length || curve.level !== undefined);
    const shape = JSON.stringify([this.options, this.curves.map((c) => [c.label, c.colour, !!c.low, !!c.points, !!c.ci, !!c.dash])]);
    const data = this.data();
    if (this.plot && shape === this.shape && data) {
      const zoomed = this.zoomed;
      this.plot.setData(data, !zoomed);
      if (zoomed) this.plot.redraw();
    } else { this.shape = shape; this.rebuild(data); }
  }

  data() {
    const lines = this.curves.filter((curve) => curve.level === undefined);
    if (!lines.length) return null;
    const { xs, column } = joined(lines), positive = (v) => (this.options.log && !(v > 0) ? null : v);
    const data = [xs];
    for (const curve of this.curves) {
      if (curve.level !== undefined) { data.push(xs.map(() => curve.level)); continue; }
      const smooth = curve.points || curve.raw ? 0 : this.options.smooth;
      if (curve.low) data.push(column(curve, curve.high.map(positive)), column(curve, curve.low.map(positive)));
      else if (curve.ci) data.push(column(curve, curve.y.map((y, i) => positive(y + curve.ci[i]))), column(curve, curve.y.map((y, i) => positive(y - curve.ci[i]))));
      else if (smooth) data.push(column(curve, curve.y.map(positive)));
      data.push(column(curve, smoothed(curve.y, smooth).map(positive)));
    }
    return data;
  }

  series() {
    const series = [{}], bands = [];
    this.labeled = [];
    for (const curve of this.curves) {
      const none = { points: { show: false }, spanGaps: true };
      if (curve.level === undefined && (curve.low || curve.ci)) {
        const at = series.length;
        series.push({ ...none, stroke: "transparent", width: 0 }, { ...none, stroke: "transparent", width: 0 });
        bands.push({ series: [at, at + 1], fill: faint(curve.colour, curve.ci ? 0.22 : 0.18) });
      } else if (curve.level === undefined && this.options.smooth && !curve.points && !curve.raw) {
        series.push({ ...none, stroke: faint(curve.colour, 0.28), width: 1 });
      }
      this.labeled.push([series.length, curve]);
      const lonely = curve.level === undefined && curve.x[0] === curve.x.at(-1);
      series.push({
        stroke: curve.colour, width: curve.dash ? 1.2 : 1.8, dash: curve.dash, spanGaps: true,
        points: { show: !!curve.points || lonely, size: 6, fill: curve.colour, width: 0 },
      });
    }
    return { series, bands };
  }

  axes() {
    const stroke = css("--dim"), grid = { stroke: css("--grid"), width: 1 }, font = "11px system-ui, sans-serif";
    const axis = { stroke, grid, ticks: { ...grid, size: 4 }, font, labelFont: font, labelSize: 16, labelGap: 2 }, seconds = this.options.axis === "seconds";
    const xs = seconds ? (_, v) => v.map(duration) : (_, v) => v.map((x) => short(x));
    return [
      { ...axis, label: this.xlabel, values: xs, ...(this.options.axis ? {} : { incrs: [1, 2, 5, 10, 20, 50, 100] }), space: seconds ? 84 : 56, size: 28 },
      { ...axis, label: this.options.unit || "value", size: 50, values: (_, v) => labels(v) },
    ];
  }

  rebuild(data = this.data()) {
    if (this.plot) { this.plot.destroy(); this.plot = null; }
    this.area.replaceChildren();
    this.legend.replaceChildren();
    if (!data) {
      this.area.append(el("div", { className: "empty", style: { height: `${this.options.height}px` } }, this.options.empty || "no data yet"));
      return;
    }
    const { series, bands } = this.series(), span = this.options.calm ? calmRange : range;
    const options = {
      width: Math.max(120, this.box.clientWidth), height: this.options.height, series, bands, axes: this.axes(),
      padding: [8, 14, 0, 0], legend: { show: false },
      cursor: { points: { size: (_, at) => (at === this.near ? 11 : 5) }, drag: { x: true, y: false }, dataIdx: (plot, at, idx) => nearest(plot.data[at], idx) },
      scales: { x: { time: false }, y: { distr: this.options.log ? 3 : 1, ...(this.options.log ? {} : { range: span }) } },
      hooks: { setCursor: [(plot) => this.showTip(plot)], setSelect: [() => { this.zoomed = true; }] },
    };
    this.plot = new uPlot(options, data, this.area);
    this.zoomed = false;
    this.plot.over.append(this.tip);
    this.plot.over.addEventListener("dblclick", () => { this.zoomed = false; });
    this.plot.over.addEventListener("mouseleave", () => { this.tip.hidden = true; });
    this.legend.append(...this.curves.filter((curve) => !curve.unlisted).map((curve) => el("span", {}, mark(curve), curve.label)));
    if (this.options.note) this.legend.append(el("span", {}, this.options.note));
  }

  /** The points of all curves beside the pointer: [{at: series, curve, x, y, far}], the nearest first. */
  pointsAt(plot) {
    const { left, top, idx } = plot.cursor, found = [];
    for (const [at, curve] of this.labeled) {
      const index = nearest(plot.data[at], idx), y = plot.data[at][index];
      if (y === null || y === undefined) continue;
      const x = plot.data[0][index], away = Math.hypot(plot.valToPos(x, "x") - left, plot.valToPos(y, "y") - top);
      found.push({ at, curve, x, y, far: curve.level === undefined ? away : Infinity });
    }
    return found.sort((a, b) => a.far - b.far);
  }

  showTip(plot) {
    const { left, top, idx } = plot.cursor;
    if (idx === null || idx === undefined || left < 0) { this.tip.hidden = true; return; }
    const found = this.pointsAt(plot).slice(0, 12);
    if (!found.length) { this.tip.hidden = true; return; }
    this.near = found[0].at;
    const where = (x) => (this.options.axis === "seconds" ? duration(x) : x >= 1e6 ? short(x) : Math.round(x).toLocaleString("en"));
    const rows = found.map(({ curve, x, y }, i) => el("div", { className: i ? "" : "near" }, mark(curve), el("b", {}, short(y)), el("span", { className: "clipped" }, curve.label), x !== found[0].x && curve.level === undefined && el("span", { className: "dim" }, `at ${where(x)}`)));
    this.tip.replaceChildren(el("div", { className: "dim" }, (AXIS_NAMES[this.options.axis] ?? "step ") + where(found[0].x)), ...rows);
    this.tip.hidden = false;
    const width = plot.over.clientWidth, right = left > width / 2, room = Math.max(right ? left : width - left, 130) - 18;
    this.tip.style.setProperty("max-width", `${Math.min(330, room + 40)}px`);
    this.tip.style.setProperty("left", right ? "auto" : `${left + 14}px`);
    this.tip.style.setProperty("right", right ? `${width - left + 14}px` : "auto");
    this.tip.style.setProperty("top", `${Math.min(top + 8, Math.max(0, plot.over.clientHeight - 26 - 18 * rows.length))}px`);
  }

  resize() {
    const width = this.box.clientWidth;
    if (this.plot && width > 60 && Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: this.options.height });
  }

  /** The chart with its title and legend as a PNG of the size on the screen. */
  png(title) {
    const drawn = this.plot.ctx.canvas, scale = drawn.width / this.plot.width, line = 18 * scale, out = el("canvas"), ink = out.getContext("2d");
    const font = (size, weight = "") => `${weight} ${size * scale}px system-ui, sans-serif`.trim();
    ink.font = font(12);
    const rows = legendRows(this.curves, this.plot.width, (label) => ink.measureText(label).width / scale);
    out.width = drawn.width; out.height = drawn.height + 30 * scale + line * rows.length + 8 * scale;
    ink.fillStyle = css("--panel"); ink.fillRect(0, 0, out.width, out.height);
    ink.fillStyle = css("--text"); ink.font = font(13, "600"); ink.fillText(title, 10 * scale, 20 * scale);
    ink.drawImage(drawn, 0, 28 * scale);
    ink.font = font(12);
    rows.forEach((row, i) => row.forEach(([curve, x]) => {
      const y = drawn.height + 30 * scale + line * (i + 0.7);
      ink.fillStyle = curve.colour; ink.fillRect((x + 10) * scale, y - 8 * scale, 10 * scale, 10 * scale);
      ink.fillStyle = css("--text"); ink.fillText(curve.label, (x + 25) * scale, y);
    }));
    out.toBlob((blob) => download(`${title}.png`, blob), "image/png");
  }

  /** The same as lines and text, which stay sharp in a paper. */
  svg(title) { download(`${title}.svg`, new Blob([svgText(this, title)], { type: "image/svg+xml" })); }

  /** What is drawn, as tidy CSV: curve, x, value, and the lower and upper end of a band. */
  csv(title) {
    const rows = [["curve", this.xlabel, this.options.unit || "value", "low", "high"]];
    for (const curve of this.curves) {
      if (curve.level !== undefined) rows.push([curve.label, "", curve.level, "", ""]);
      else curve.x.forEach((x, i) => rows.push([curve.label, x, curve.y[i], curve.low?.[i] ?? (curve.ci ? curve.y[i] - curve.ci[i] : ""), curve.high?.[i] ?? (curve.ci ? curve.y[i] + curve.ci[i] : "")]));
    }
    download(`${title}.csv`, new Blob([rows.map((row) => row.map(cell).join(",")).join("\n") + "\n"], { type: "text/csv" }));
  }

  remove() {
    this.watcher.disconnect();
    if (this.plot) this.plot.destroy();
    charts.delete(this);
  }
}

/** The closest index to `idx` at which a column has a value. */
function nearest(values, idx) {
  const there = (at) => values[at] !== null && values[at] !== undefined;
  for (let step = 0; step < 400; step++) {
    if (there(idx + step)) return idx + step;
    if (there(idx - step)) return idx - step;
  }
  return idx;
}

const mark = (curve) => el("span", { className: `swatch${curve.dash ? " dashed" : ""}${curve.points ? " dots" : ""}`, style: { "--c": curve.colour } });

/** A card with a title and a chart, and buttons for its files. csv() -> the URL of all its numbers, "" for what is drawn. */
export function chartCard(title, { wide = false, about = null, csv = () => "", ...options } = {}) {
  const box = el("div"), chart = new Chart(box, options);
  const save = (what, hint, work) => el("button", { type: "button", className: "quiet", title: hint, on: { click: () => { if (chart.plot) work(); } } }, what);
  const head = el("div", { className: "head" }, el("h3", {}, title),
    save("PNG", "Save this chart as an image", () => chart.png(title)),
    save("SVG", "Save this chart as a drawing, for a paper", () => chart.svg(title)),
    save("CSV", "Save the numbers of this chart", () => { const url = csv(); if (url) download(`${title}.csv`, url); else chart.csv(title); }),
    about && el("button", { type: "button", className: "quiet about", title: "What does this number mean?", on: { click: about } }, "?"));
  const card = el("div", { className: wide ? "card wide" : "card", data: { chart: title } }, head, box);
  return { card, chart, head };
}
