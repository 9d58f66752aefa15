// Charts: uPlot with bands, smoothing, a logarithmic axis, zoom by dragging, and a box with the values under the pointer.
import { css, duration, el, onTheme, short } from "./common.js";

const charts = new Set();
onTheme(() => charts.forEach((chart) => chart.rebuild()));

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

const faint = (colour, share) => colour + Math.round(share * 255).toString(16).padStart(2, "0");

/** Curves of several sources on one x axis: union of x, null where a curve has no point. */
function joined(curves) {
  const xs = [...new Set(curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  const column = (curve, values) => {
    const out = new Array(xs.length).fill(null);
    curve.x.forEach((x, i) => { out[place.get(x)] = values[i]; });
    return out;
  };
  return { xs, column };
}

/** The y range: the values with a margin; a constant curve lies in the middle. */
function range(plot, low, high) {
  if (low === null || high === null) return [0, 1];
  if (low === high) return [low - Math.max(0.5, Math.abs(low) / 10), high + Math.max(0.5, Math.abs(high) / 10)];
  const margin = 0.06 * (high - low);
  return [low >= 0 && low - margin < 0 ? 0 : low - margin, high + margin];
}

export class Chart {
  /** options: {height, axis: "env_steps" | "seconds" | "updates" | "", log, smooth, range} */
  constructor(box, options = {}) {
    this.box = box; this.options = { height: 190, axis: "env_steps", smooth: 0, log: false, ...options };
    this.curves = []; this.plot = null; this.shape = "";
    box.classList.add("chart");
    this.tip = el("div", { className: "tip", hidden: true });
    this.watcher = new ResizeObserver(() => this.resize());
    this.watcher.observe(box);
    charts.add(this);
  }

  /** curves: [{label, colour, x, y, low?, high?, points?: bool, ci?: [], dash?: [], level?: number, raw?: bool}] */
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
        bands.push({ series: [at, at + 1], fill: faint(curve.colour, curve.ci ? 0.22 : 0.16) });
      } else if (curve.level === undefined && this.options.smooth && !curve.points && !curve.raw) {
        series.push({ ...none, stroke: faint(curve.colour, 0.28), width: 1 });
      }
      this.labeled.push([series.length, curve]);
      const lonely = curve.level === undefined && curve.x.length < 2;
      series.push({
        stroke: curve.colour, width: curve.dash ? 1.2 : 1.8, dash: curve.dash, spanGaps: true,
        points: { show: !!curve.points || lonely, size: 6, fill: curve.colour, width: 0 },
      });
    }
    return { series, bands };
  }

  rebuild(data = this.data()) {
    if (this.plot) { this.plot.destroy(); this.plot = null; }
    this.box.replaceChildren();
    if (!data) {
      this.box.append(el("div", { className: "empty", style: { height: `${this.options.height}px` } }, this.options.empty || "no data yet"));
      return;
    }
    const { series, bands } = this.series();
    const stroke = css("--dim"), grid = { stroke: css("--grid"), width: 1 }, font = "11px system-ui, sans-serif";
    const axis = { stroke, grid, ticks: { ...grid, size: 4 }, font };
    const xs = this.options.axis === "seconds" ? (_, v) => v.map(duration) : (_, v) => v.map((x) => short(x));
    const options = {
      width: Math.max(120, this.box.clientWidth), height: this.options.height, series, bands,
      padding: [8, 14, 0, 0], legend: { show: false },
      cursor: { points: { size: 7 }, drag: { x: true, y: false }, focus: { prox: 24 } },
      scales: { x: { time: false }, y: { distr: this.options.log ? 3 : 1, ...(this.options.log ? {} : { range }) } },
      axes: [
        { ...axis, values: xs, ...(this.options.axis ? {} : { incrs: [1, 2, 5, 10, 20, 50, 100] }), space: this.options.axis === "seconds" ? 84 : 56, size: 28 },
        { ...axis, size: 52, values: (_, v) => v.map((y) => (y === null ? "" : short(y))) },
      ],
      hooks: { setCursor: [(plot) => this.showTip(plot)], setSelect: [() => { this.zoomed = true; }] },
    };
    this.plot = new uPlot(options, data, this.box);
    this.zoomed = false;
    this.plot.over.append(this.tip);
    this.plot.over.addEventListener("dblclick", () => { this.zoomed = false; });
    this.plot.over.addEventListener("mouseleave", () => { this.tip.hidden = true; });
  }

  showTip(plot) {
    const { left, top, idx } = plot.cursor;
    if (idx === null || idx === undefined || left < 0) { this.tip.hidden = true; return; }
    const x = plot.data[0][idx], rows = [];
    for (const [at, curve] of this.labeled) {
      let near = idx; // the closest point that this curve has
      for (let step = 0; plot.data[at][near] === null && step < 400; step++) {
        const [right, before] = [idx + step, idx - step];
        if (plot.data[at][right] !== null && plot.data[at][right] !== undefined) near = right;
        else if (plot.data[at][before] !== null && plot.data[at][before] !== undefined) near = before;
      }
      const value = plot.data[at][near];
      if (value !== null && value !== undefined) {
        rows.push(el("div", {}, el("span", { className: "swatch", style: { background: curve.colour } }), `${curve.label}  ${short(value)}`));
      }
    }
    const name = { env_steps: "step ", seconds: "after ", updates: "update " }[this.options.axis] ?? "horizon ";
    const where = this.options.axis === "seconds" ? duration(x) : x >= 1e6 ? short(x) : Math.round(x).toLocaleString("en");
    this.tip.replaceChildren(el("div", { className: "dim" }, name + where), ...rows);
    this.tip.hidden = !rows.length;
    const right = left > plot.over.clientWidth / 2;
    this.tip.style.setProperty("left", right ? "auto" : `${left + 14}px`);
    this.tip.style.setProperty("right", right ? `${plot.over.clientWidth - left + 14}px` : "auto");
    this.tip.style.setProperty("top", `${Math.min(top + 8, Math.max(0, plot.over.clientHeight - 26 - 18 * rows.length))}px`);
  }

  resize() {
    const width = this.box.clientWidth;
    if (this.plot && width > 60 && Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: this.options.height });
  }

  remove() {
    this.watcher.disconnect();
    if (this.plot) this.plot.destroy();
    charts.delete(this);
  }
}

/** A card with a title and a chart. */
export function chartCard(title, { wide = false, about = null, ...options } = {}) {
  const box = el("div");
  const head = el("div", { className: "head" }, el("h3", {}, title), about && el("button", { type: "button", className: "quiet", title: "Explain this metric", on: { click: about } }, "?"));
  const card = el("div", { className: wide ? "card wide" : "card", data: { chart: title } }, head, box);
  return { card, chart: new Chart(box, options), head };
}
