// A chart of uPlot, which draws on a canvas, as an SVG drawing: the same scales, ticks and colours, as lines and text.
import { css } from "./common.js";

const SPACE = "http://www.w3.org/2000/svg", TITLE = 28, LINE = 18;

function node(tag, attributes, ...children) {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined && value !== null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** "#rrggbbaa" -> a colour and an opacity, for programs that know no colours of eight digits. */
const paint = (what, colour) => ({ [what]: colour.slice(0, 7), [`${what}-opacity`]: colour.length === 9 ? +(parseInt(colour.slice(7), 16) / 255).toFixed(2) : undefined });
const text = (x, y, size, words, more = {}) => node("text", { x, y, "font-size": size, fill: css("--dim"), ...more }, words.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, "?")); // what XML forbids
const tenth = (value) => Math.round(10 * value) / 10;

/** Curves in the rows of a legend: [[[curve, x], ...], ...]. measure(label) -> its width. */
export function legendRows(curves, width, measure) {
  const rows = [[]];
  let used = 0;
  for (const curve of curves.filter((each) => !each.unlisted)) {
    const wide = measure(curve.label) + 34;
    if (used && used + wide > width - 16) { rows.push([]); used = 0; }
    rows.at(-1).push([curve, used]);
    used += wide;
  }
  return rows;
}

/** Grid, ticks and labels of both axes. area: {left, top, width, height} of the curves. */
function axes(plot, area) {
  const [x, y] = plot.axes, right = area.left + area.width, bottom = area.top + area.height, grid = { stroke: css("--grid"), "stroke-width": 1 }, parts = [];
  x._splits.forEach((value, i) => {
    const at = tenth(area.left + plot.valToPos(value, "x"));
    parts.push(node("line", { x1: at, x2: at, y1: area.top, y2: bottom + 4, ...grid }), text(at, bottom + 17, 11, x._values[i] ?? "", { "text-anchor": "middle" }));
  });
  y._splits.forEach((value, i) => {
    if (value === null) return; // ticks that a logarithmic axis leaves out
    const at = tenth(area.top + plot.valToPos(value, "y"));
    parts.push(node("line", { x1: area.left - 4, x2: right, y1: at, y2: at, ...grid }), text(area.left - 8, at + 4, 11, y._values[i] ?? "", { "text-anchor": "end" }));
  });
  const middle = area.top + area.height / 2;
  parts.push(text(area.left + area.width / 2, bottom + 38, 11, x.label, { "text-anchor": "middle" }), text(11, middle, 11, y.label, { "text-anchor": "middle", transform: `rotate(-90 11 ${middle})` }));
  return parts;
}

/** One series of the plot: its points at [x, y], without those that have no value. */
function points(plot, index, area) {
  const [xs, ys] = [plot.data[0], plot.data[index]];
  return xs.flatMap((x, i) => (ys[i] === null || ys[i] === undefined ? [] : [[tenth(area.left + plot.valToPos(x, "x")), tenth(area.top + plot.valToPos(ys[i], "y"))]]));
}

function curves(plot, { series, bands }, area) {
  const parts = bands.map(({ series: [high, low], fill }) => node("polygon", { points: [...points(plot, high, area), ...points(plot, low, area).reverse()].join(" "), ...paint("fill", fill) }));
  series.forEach((each, i) => {
    if (!i || each.stroke === "transparent") return;
    const found = points(plot, i, area);
    if (each.width) parts.push(node("polyline", { points: found.join(" "), fill: "none", "stroke-width": each.width, "stroke-linejoin": "round", "stroke-dasharray": each.dash?.join(" "), ...paint("stroke", each.stroke) }));
    if (each.points.show) parts.push(...found.map(([cx, cy]) => node("circle", { cx, cy, r: 3, ...paint("fill", each.points.fill) })));
  });
  return parts;
}

/** A `Chart` with its title and legend as the text of an SVG file. */
export function svgText(chart, title) {
  const { plot } = chart, scale = plot.ctx.canvas.width / plot.width, box = plot.bbox, width = plot.width;
  const area = { left: box.left / scale, top: box.top / scale + TITLE, width: box.width / scale, height: box.height / scale };
  const ink = plot.ctx;
  ink.save(); ink.font = "12px system-ui, sans-serif";
  const rows = legendRows(chart.curves, width, (label) => ink.measureText(label).width);
  ink.restore();
  const below = plot.height + TITLE + 2, height = below + LINE * rows.length + 8;
  const legend = rows.flatMap((row, i) => row.flatMap(([curve, x]) => {
    const y = below + LINE * (i + 0.7);
    return [node("rect", { x: tenth(x + 10), y: y - 8, width: 10, height: 10, ...paint("fill", curve.colour) }), text(tenth(x + 25), y, 12, curve.label, { fill: css("--text") })];
  }));
  const clip = node("clipPath", { id: "area" }, node("rect", { x: area.left - 4, y: area.top - 4, width: area.width + 8, height: area.height + 8 }));
  const drawing = node("svg", { width, height: Math.ceil(height), viewBox: `0 0 ${width} ${Math.ceil(height)}`, "font-family": "system-ui, sans-serif" },
    node("title", {}, title), node("defs", {}, clip), node("rect", { width: "100%", height: "100%", fill: css("--panel") }),
    text(10, 20, 13, title, { "font-weight": 600, fill: css("--text") }), ...axes(plot, area),
    node("g", { "clip-path": "url(#area)" }, ...curves(plot, chart.series(), area)), ...legend);
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(drawing)}\n`;
}
