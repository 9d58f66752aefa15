// The views of the dashboard. Each has open(main, state) -> {update, lines?, again?, tick?, close?}.
import { band, chartCard } from "./charts.js";
import { ask, css, drawHeat, duration, el, short } from "./common.js";
import { player } from "./player.js";

const AXES = { env_steps: "env steps", seconds: "wall time", updates: "updates" };
const POINTS = Math.round(Math.max(160, Math.min(500, innerWidth / 2.5)));

/** Title, and keys or patterns of which the first that a run has is drawn. */
const FAVOURED = [
  ["World model loss", ["world_model/loss"]],
  ["Image or vector loss", [/^world_model\/obs\/.*_loss$/]],
  ["Reward loss", ["world_model/reward_loss"]],
  ["Continue loss", ["world_model/continue_loss"]],
  ["KL posterior ‖ prior", ["kl/raw", "world_model/kl"]],
  ["Actor entropy", ["actor/entropy"]],
  ["Value in dreams", ["critic/value"]],
];
/** The same of the machine, with unit, and whether the range leaves out peaks: before learning begins steps are quick. */
const MACHINE = [
  ["Environment steps per second", ["speed/env_steps_per_second"], "steps per second", true],
  ["Updates per second", ["speed/updates_per_second"], "updates per second"],
  ["Memory of the process", ["machine/ram_gb"], "GB"],
  ["CPU in use", ["machine/cpu_busy"], "cores (1: one is always busy)"],
  ["GPU memory", ["machine/gpu_gb"], "GB"],
  ["GPU in use", ["machine/gpu_busy"], "share of the GPU"],
];
/** Metrics of the machine: the only ones that runs of different tasks share a scale of. */
const SHARED = /^(speed|machine|time|train|replay|frames)(\/|$)/;
const RANDOM = "#8a94a8";
const keyOf = (run, wanted) => wanted.map((w) => (typeof w === "string" ? run.keys.find((k) => k === w) : run.keys.find((k) => w.test(k)))).find(Boolean);

/** Series that have been fetched; live lines are appended to them. */
class Store {
  constructor() { this.kept = new Map(); }

  async series(run, keys, axis) {
    const missing = keys.filter((key) => !this.kept.has(`${run.id} ${axis} ${key}`));
    for (let i = 0; i < missing.length; i += 60) {
      const some = missing.slice(i, i + 60);
      const found = await ask(`/api/runs/${run.id}/series?x=${axis}&limit=${POINTS}&keys=${encodeURIComponent(some.join(","))}`);
      for (const key of some) this.kept.set(`${run.id} ${axis} ${key}`, { x: [], y: [], ...found.series[key], from: found.count, generation: found.generation });
    }
    return keys.map((key) => this.kept.get(`${run.id} ${axis} ${key}`));
  }

  async returns(run, axis) {
    const name = `${run.id} ${axis} `;
    if (!this.kept.has(name)) {
      const found = await ask(`/api/runs/${run.id}/returns?x=${axis}&limit=${POINTS}`);
      this.kept.set(name, { ...found, from: found.count });
    }
    return this.kept.get(name);
  }

  /** Append new lines of a run, or drop its series if they must be fetched again. */
  take(news) {
    const mine = [...this.kept].filter(([name]) => name.startsWith(`${news.id} `));
    if (news.again) { mine.forEach(([name]) => this.kept.delete(name)); return; }
    for (const [name, series] of mine) {
      const [, axis, key] = name.split(" ");
      if (series.generation !== news.generation || !key || series.x.length > 3 * POINTS) { this.kept.delete(name); continue; }
      news.lines.forEach((line, i) => {
        const values = line.metrics;
        if (!values || news.from + i < series.from || typeof values[key] !== "number") return;
        const x = values[axis] ?? series.x.at(-1) ?? 0;
        series.x.push(x); series.y.push(values[key]);
        if (series.low) { series.low.push(values[key]); series.high.push(values[key]); }
      });
      series.from = Math.max(series.from, news.from + news.lines.length);
    }
  }
}

function segments(choices, chosen, on) {
  const buttons = Object.entries(choices).map(([value, label]) => el("button", { type: "button", ariaPressed: String(value === chosen), on: { click: () => {
    buttons.forEach(([v, b]) => { b.ariaPressed = String(v === value); });
    on(value);
  } } }, label)).map((button, i) => [Object.keys(choices)[i], button]);
  return el("div", { className: "segments", role: "group" }, ...buttons.map(([, button]) => button));
}

function tools(state) {
  const smooth = el("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: state.smooth, on: { input: () => state.set("smooth", +smooth.value) } });
  const log = el("input", { type: "checkbox", checked: state.log, id: "log", on: { change: () => state.set("log", log.checked) } });
  return el("div", { className: "tools" },
    el("span", { className: "inline" }, "horizontal", segments(AXES, state.axis, (axis) => state.set("axis", axis))),
    el("span", { className: "inline seeds", title: "Runs that differ in nothing but their seed, as their mean and its 95 % interval" }, "seeds", segments({ each: "each run", bands: "as one band" }, state.seeds, (seeds) => state.set("seeds", seeds))),
    el("label", {}, "smoothing", smooth), el("label", {}, log, "log scale"),
    el("span", { className: "dim hide-small" }, "drag to zoom, double-click to reset"));
}

async function explain(key, card) {
  const old = card.querySelector(".meaning");
  if (old) { old.remove(); return; }
  const found = await ask(`/api/explain?key=${encodeURIComponent(key)}`).catch(() => ({}));
  const lines = found.meaning ? [found.meaning, found.unit && `Unit: ${found.unit}.`, found.healthy && `Healthy: ${found.healthy}.`, found.advice, found.where] : ["The glossary has no entry for it."];
  card.append(el("p", { className: "meaning small dim" }, el("code", {}, key), el("br"), lines.filter(Boolean).join(" ")));
}

const nothing = (text) => el("div", { className: "note" }, text);

// ----------------------------------------------------------------------------------------------------------- curves

/** The runs by a property, in order: [[value, runs]]. */
function by(runs, key) {
  const found = new Map();
  for (const run of runs) found.set(run[key], [...(found.get(run[key]) || []), run]);
  return [...found];
}

/** Name of a group of seeds: what their names have in common. */
function commonName(runs) {
  const names = runs.map((run) => run.name);
  let length = 0;
  while (length < names[0].length && names.every((name) => name[length] === names[0][length])) length++;
  return `${names[0].slice(0, length).replace(/[\s/_.-]*(seed)?[\s/_.-]*$/i, "") || runs[0].task} (${runs.length} seeds)`;
}

/** What is drawn as one curve: each run, or each group of runs that differ in their seed alone. -> [{label, colour, runs}] */
function curvesOf(runs, state) {
  const single = (run) => ({ label: run.name, colour: state.colour(run.id), runs: [run] });
  if (state.seeds !== "bands") return runs.map(single);
  return by(runs, "group").flatMap(([group, some]) => (group && some.length > 1 ? [{ label: commonName(some), colour: state.colour(some[0].id), runs: some }] : some.map(single)));
}

/** One curve of some runs: itself, or the band of several. found: their series. */
function asCurve({ label, colour, runs }, found, smooth) {
  if (runs.length === 1) return { label, colour, ...found[0] };
  const { n, ...made } = band(found, smooth);
  return { label: `${label}: mean${n > 2 ? " and its 95 % interval" : n === 2 ? " and both" : ""}`, colour, raw: true, ...made };
}

function openCurves(main, state) {
  const store = new Store(), cards = new Map(), groups = new Map();
  const tasks = new Map(); // a chart of returns for each task: scores of different tasks cannot be compared
  const grid = el("div", { className: "grid" }), machine = el("div", { className: "grid" }), more = el("div"), bar = tools(state);
  const lead = el("p", { className: "dim small lead" }, "A run learns if its return rises above the gray line, which is what random actions earn. Each task has charts of its own: numbers of different tasks do not compare.");
  main.append(bar, lead, grid, el("h2", {}, "The machine"), machine, el("h2", {}, "All metrics"), more);
  const options = () => ({ axis: state.axis, smooth: state.smooth, log: state.log });

  function card(title, keys, into, calm = false) {
    const name = `${into === grid || into === machine ? "" : "all "}${title}`;
    if (!cards.has(name)) {
      const own = () => cards.get(name).runs, found = () => own().find((run) => keyOf(run, keys));
      const made = chartCard(title, { calm, about: () => { if (found()) explain(keyOf(found(), keys), made.card); }, csv: () => csvOf(own(), [...new Set(own().map((run) => keyOf(run, keys)).filter(Boolean))]) });
      cards.set(name, { ...made, keys, runs: [] });
      into.append(made.card);
    }
    return cards.get(name);
  }

  async function drawReturns(runs) {
    const own = by(runs, "task");
    for (const [task, { card: box }] of tasks) box.hidden = !own.some(([name]) => name === task);
    for (const [task, some] of own) {
      if (!tasks.has(task)) {
        const made = chartCard(`Return of episodes${task ? `: ${task}` : ""}`, { wide: true, height: 290, unit: "return: sum of an episode's rewards", csv: () => csvOf(tasks.get(task).runs, []) });
        made.card.classList.add("returns");
        grid.insertBefore(made.card, [...grid.children].find((child) => !child.classList.contains("returns")) || null);
        tasks.set(task, { ...made, runs: [] });
      }
      tasks.get(task).card.classList.toggle("wide", own.length === 1);
      tasks.get(task).runs = some;
      await drawTask(tasks.get(task), some);
    }
  }

  async function drawTask({ chart }, runs) {
    const curves = [], drawn = curvesOf(runs, state), found = new Map();
    for (const run of runs) found.set(run, await store.returns(run, state.axis));
    const levels = [...found.values()].map((f) => f.random).filter((level) => level !== null);
    if (levels.length) curves.push({ label: `random actions (${short(levels.reduce((a, b) => a + b) / levels.length)})`, colour: RANDOM, x: [], level: levels.reduce((a, b) => a + b) / levels.length, dash: [5, 5] });
    for (const each of drawn) {
      const series = each.runs.map((run) => found.get(run)), tests = series.map((s) => s.eval).filter((e) => e.x.length), alone = drawn.length === 1;
      const training = asCurve(each, series.map((s) => s.train), state.smooth);
      curves.push({ ...training, label: alone ? `training episodes${each.runs.length > 1 ? ` of ${training.label}` : ""}` : training.label });
      if (!tests.length) continue;
      const tested = { colour: alone ? css("--text") : each.colour, dash: [4, 3], points: true, unlisted: !alone, label: `${alone && each.runs.length === 1 ? "" : `${each.label} · `}evaluation${each.runs.length === 1 ? " and its 95 % interval" : ""}` };
      if (each.runs.length === 1) curves.push({ ...tested, x: tests[0].x, y: tests[0].y, ci: tests[0].ci95 });
      else curves.push({ ...asCurve({ ...each, label: `${each.label} · evaluation` }, tests, 0), colour: tested.colour, dash: tested.dash, unlisted: !alone });
    }
    chart.show(curves, { ...options(), log: false, note: drawn.length > 1 ? "line: training episodes; dashed: evaluations and their 95 % interval" : "" });
  }

  function drawGroups(runs) {
    const keys = [...new Set(runs.flatMap((run) => run.keys))].sort();
    for (const key of keys) {
      const group = key.split("/")[0];
      if (!groups.has(group)) {
        const inner = el("div", { className: "grid" }), count = el("span", { className: "dim" });
        const box = el("details", { className: "group", on: { toggle: () => update() } }, el("summary", {}, `${group} `, count), inner);
        groups.set(group, { box, inner, keys: new Set(), count });
        more.append(box);
      }
      groups.get(group).keys.add(key);
    }
    for (const { keys: own, count } of groups.values()) count.textContent = `${own.size}`;
  }

  async function drawCard(drawn, runs, unit) {
    const curves = [];
    for (const each of curvesOf(runs, state)) {
      const own = each.runs.filter((run) => keyOf(run, drawn.keys)), found = [];
      for (const run of own) found.push((await store.series(run, [keyOf(run, drawn.keys)], state.axis))[0]);
      if (own.length) curves.push(asCurve({ ...each, runs: own }, found, state.smooth));
    }
    drawn.runs = runs;
    drawn.card.hidden = !curves.length;
    drawn.chart.show(curves, { ...options(), unit });
  }

  /** A metric of some runs: in one chart for each task, for no two have the same scale; what the machine does in one. */
  async function drawMetric(title, keys, into, runs, own = "", calm = false) {
    const key = runs.map((run) => keyOf(run, keys)).find(Boolean) || "", unit = own || state.units[key] || "", parts = SHARED.test(key) ? [["", runs]] : by(runs, "task");
    for (const [name, { card: box }] of cards) if (name === title || name.startsWith(`${title}: `) || name === `all ${title}` || name.startsWith(`all ${title}: `)) if (box.parentNode === into) box.hidden = true;
    for (const [task, some] of parts) {
      if (some.some((run) => keyOf(run, keys))) await drawCard(card(parts.length > 1 ? `${title}: ${task}` : title, keys, into, calm), some, unit);
    }
  }

  async function update() {
    const runs = state.picked(), featured = [...FAVOURED, ...MACHINE];
    main.classList.toggle("none", !runs.length);
    bar.querySelector(".seeds").hidden = !by(runs, "group").some(([group, some]) => group && some.length > 1);
    await Promise.all(runs.map((run) => store.series(run, featured.map(([, keys]) => keyOf(run, keys)).filter(Boolean), state.axis)));
    await drawReturns(runs);
    if (!runs.length) for (const { card: box } of cards.values()) box.hidden = true;
    for (const [title, keys] of FAVOURED) await drawMetric(title, keys, grid, runs);
    for (const [title, keys, unit, calm] of MACHINE) await drawMetric(title, keys, machine, runs, unit, calm);
    drawGroups(runs);
    for (const { box, inner, keys } of groups.values()) {
      if (!box.open) continue;
      await Promise.all(runs.map((run) => store.series(run, [...keys].filter((key) => run.keys.includes(key)), state.axis)));
      for (const key of keys) await drawMetric(key, [key], inner, runs);
    }
  }
  const guarded = queued(update);
  return {
    update: guarded, again: () => { store.kept.clear(); guarded(); }, close: () => [...tasks.values(), ...cards.values()].forEach(({ chart }) => chart.remove()),
    lines(news) {
      store.take(news);
      const run = state.runs.find((r) => r.id === news.id);
      for (const line of news.lines || []) for (const key of Object.keys(line.metrics || {})) if (run && !(key in AXES) && !run.keys.includes(key)) run.keys.push(key);
      if (state.chosen.has(news.id)) guarded();
    },
  };
}

const csvOf = (runs, keys) => `/api/csv?runs=${runs.map((run) => run.id).join(",")}${keys.length ? `&keys=${encodeURIComponent(keys.join(","))}` : ""}`;

/** Runs `work` one at a time; calls in the meantime lead to one more run. */
function queued(work) {
  let busy = false, again = false;
  return async function run() {
    if (busy) { again = true; return; }
    busy = true;
    try { await work(); } catch (error) { console.warn(error); } finally { busy = false; }
    if (again) { again = false; run(); }
  };
}

/** A bar to choose one of the selected runs. */
function focusBar(state) {
  const box = el("div", { className: "tools" });
  return { box, draw() {
    const runs = state.picked(), focus = state.focused();
    box.hidden = runs.length < 2;
    box.replaceChildren(segments(Object.fromEntries(runs.map((run) => [`${run.id} `, run.name])), focus && `${focus.id} `, (id) => state.refocus(+id)));
  } };
}

function single(draw) {
  return (main, state) => {
    const bar = focusBar(state), body = el("div", { className: "stack" });
    main.append(bar.box, body);
    const view = draw(body, state);
    let shown = null;
    return { ...view, update() {
      bar.draw();
      const run = state.focused();
      if (!run) { body.replaceChildren(nothing("Choose a run.")); shown = null; return; }
      const fresh = shown !== run.id;
      shown = run.id;
      view.update(run, fresh);
    } };
  };
}

// ---------------------------------------------------------------------------------------------------------- latents

const LATENT_CHARTS = [
  ["KL components", "nats", { "posterior ‖ prior": ["kl/raw", "world_model/kl"], "prior ‖ posterior": ["kl/reverse", "world_model/kl_reverse"], "loss after free nats": ["kl/loss", "world_model/kl_loss"] }],
  ["States under the free nats", "share of states", { share: ["kl/below_free", "world_model/kl_below_free"] }],
  ["Entropy of latents", "nats", { posterior: ["entropy/posterior", "world_model/posterior_entropy"], prior: ["entropy/prior", "world_model/prior_entropy"] }],
  ["Perplexity of categoricals", "classes in use", { mean: ["latent/perplexity"], lowest: ["latent/perplexity_min"] }],
  ["Used classes and dead categoricals", "share", { used: ["latent/used"], dead: ["latent/dead"] }],
  ["Gradients of the KL's halves", "norm", { prior: ["kl/grad_prior"], posterior: ["kl/grad_posterior"] }],
];
const LINE = ["#5b8cff", "#f2913d", "#2fb380"];

const openLatents = single((body, state) => {
  const store = new Store(), usage = el("div", { className: "card wide" }), grid = el("div", { className: "grid" }, usage);
  const charts = LATENT_CHARTS.map(([title, unit, parts]) => {
    const made = chartCard(title, { unit });
    grid.append(made.card);
    return { ...made, parts };
  });
  let current = null;

  async function drawUsage(run) {
    const found = await ask(`/api/runs/${run.id}/latents`);
    const head = el("h3", {}, "How often each class is used");
    if (!found.usage?.length) { usage.replaceChildren(head, nothing("No data yet: training writes it with its first measurement of the latents. Gaussian latents have no classes.")); return; }
    const rows = found.usage, classes = rows[0].length, canvas = el("canvas", { className: "heat" });
    drawHeat(canvas, rows, { scale: (p) => Math.sqrt(p) });
    canvas.style.setProperty("height", `${Math.max(120, Math.min(360, 14 * rows.length))}px`);
    const scale = el("canvas");
    drawHeat(scale, [Array.from({ length: 64 }, (_, i) => i / 63)]);
    const label = el("span");
    canvas.addEventListener("pointermove", (event) => {
      const i = Math.min(rows.length - 1, Math.floor(event.offsetY / canvas.clientHeight * rows.length)), j = Math.min(classes - 1, Math.floor(event.offsetX / canvas.clientWidth * classes));
      label.textContent = `categorical ${i + 1}, class ${j + 1}: ${(100 * rows[i][j]).toFixed(1)} %`;
    });
    const perplexity = rows.map((row) => Math.exp(-row.reduce((sum, p) => sum + (p > 0 ? p * Math.log(p) : 0), 0)));
    const dead = perplexity.filter((p) => p < 1.1).length, mean = perplexity.reduce((a, b) => a + b, 0) / rows.length;
    usage.replaceChildren(head,
      el("p", { className: "small" }, `${rows.length} categoricals (rows) of ${classes} classes (columns) at env step ${short(found.env_steps)}: perplexity ${mean.toFixed(1)} of ${classes} on average, ${dead} categorical${dead === 1 ? "" : "s"} dead.`),
      el("div", { className: "heat-axes" }, el("span", { className: "up" }, "categorical"), el("span", { className: "ends" }, el("span", {}, "1"), el("span", {}, `${rows.length}`)), canvas, el("span", { className: "ends across" }, el("span", {}, "1"), el("span", {}, "class"), el("span", {}, `${classes}`))),
      el("div", { className: "scale" }, "never", scale, "always", el("span", { className: "grow" }), label));
  }

  const update = queued(async () => {
    const run = current;
    if (!body.contains(grid)) body.replaceChildren(grid);
    await drawUsage(run);
    for (const { chart, parts, card } of charts) {
      const curves = [];
      for (const [label, keys] of Object.entries(parts)) {
        const key = keyOf(run, keys);
        if (key) curves.push({ label, colour: LINE[Object.keys(parts).indexOf(label)], ...(await store.series(run, [key], state.axis))[0] });
      }
      card.hidden = !curves.length;
      chart.show(curves, { axis: state.axis, smooth: 0.3, log: false });
    }
  });
  return { update(run) { current = run; update(); }, again: () => { store.kept.clear(); if (current) update(); }, close: () => charts.forEach(({ chart }) => chart.remove()),
    lines(news) { store.take(news); if (current && news.id === current.id) update(); } };
});

// ---------------------------------------------------------------------------------------------------------- insight

/** A button that starts a job on the server, and its result. */
function jobPanel(name, button, hint, draw, before = () => {}) {
  const box = el("div", { className: "stack" }), start = el("button", { type: "button", className: "main" }, button), out = el("div");
  let run = null, timer = 0, turn = 0;
  async function poll(begin) {
    clearTimeout(timer);
    const id = run.id, mine = ++turn, state = await ask(`/api/runs/${id}/jobs/${name}`, begin ? "POST" : "GET");
    if (run.id !== id) return;
    start.disabled = state.state === "running";
    start.textContent = state.state === "done" ? "again" : button;
    if (state.state === "idle") { out.replaceChildren(); before(out, run, start, () => turn === mine); }
    if (state.state === "running") { out.replaceChildren(el("p", { className: "spin dim" }, "computing")); timer = setTimeout(() => poll(false), 700); }
    if (state.state === "failed") out.replaceChildren(el("p", {}, state.message), el("p", { className: "dim small" }, state.hint || ""));
    if (state.state === "done") draw(out, state.result, run);
  }
  start.addEventListener("click", () => poll(true));
  box.append(el("div", { className: "bar" }, start, el("p", { className: "dim small" }, hint)), out);
  return { box, show(next) { run = next; out.replaceChildren(); poll(false).catch((error) => out.replaceChildren(error.message)); }, close: () => clearTimeout(timer) };
}

function drawFindings(out, findings) {
  if (!findings.length) { out.replaceChildren(nothing("No findings.")); return; }
  out.replaceChildren(el("div", { className: "stack" }, ...findings.map((finding) => el("div", { className: `card finding ${["FAIL", "WARN", "OK"].includes(finding.level) ? finding.level : ""}` },
    el("h4", {}, el("span", { className: "level" }, finding.level), finding.verdict),
    el("p", {}, finding.evidence), finding.why && el("p", { className: "dim" }, finding.why),
    (finding.key || finding.change) && el("div", { className: "change small" }, finding.key && el("code", {}, finding.key), finding.key && finding.change ? " → " : "", finding.change ? String(finding.change) : "")))));
}

/** All lists of numbers in a nested object: {"a/b": [..]}. */
function lists(values, prefix = "") {
  const found = {};
  for (const [key, value] of Object.entries(values || {})) {
    const name = prefix ? `${prefix}/${key}` : key;
    if (Array.isArray(value) && value.length > 1 && value.every((x) => x === null || typeof x === "number")) found[name] = value;
    else if (value && typeof value === "object" && !Array.isArray(value)) Object.assign(found, lists(value, name));
  }
  return found;
}

/** What the doctor found before, if it has run: when, and whether the run has gone further. */
async function drawEarlier(out, run, start, still) {
  const { found } = await ask(`/api/runs/${run.id}/findings`);
  if (!still()) return; // it was started meanwhile
  if (!found) { out.replaceChildren(el("p", { className: "dim small" }, "It has not run yet. `reverie train` asks it after evaluations.")); return; }
  start.textContent = "run it again";
  const list = el("div"), since = run.updates - found.updates;
  drawFindings(list, found.findings);
  out.replaceChildren(el("p", { className: "dim small" }, `Found at update ${found.updates.toLocaleString("en")}, step ${found.env_steps.toLocaleString("en")}${since > 0 ? `; the run is ${since.toLocaleString("en")} updates further now` : ""}.`), list);
}

const DRIFT_TITLES = { error: ["Error of observations", "share of their variance"], latent_kl: ["KL posterior ‖ dream", "nats"], reward: ["Squared error of rewards", "reward squared"], continues: ["Brier score of the continue head", "0 is perfect, 0.25 is guessing"] };
const ENDINGS = { mse: "squared error", psnr: "PSNR, dB", ssim: "SSIM, 1 is equal" };

/** Title and unit of a group of drift curves. */
function driftTitle(group) {
  if (DRIFT_TITLES[group]) return DRIFT_TITLES[group];
  const ending = group.split("/").at(-1), name = group.replace(/^observations\//, "").replace(new RegExp(`/${ending}$`), "").replaceAll("_", " ");
  return ending in ENDINGS ? [`${name}, ${ending.toUpperCase()}`, ENDINGS[ending]] : [group.replaceAll("_", " "), "value"];
}

const GUESSES = { dream: "dream", floor: "reconstruction", copy: "copy of the last frame", mean: "mean of all" };

function drawDrift(out, drift) {
  const found = lists(drift), horizons = found.horizons || found.horizon, groups = new Map();
  for (const [name, values] of Object.entries(found)) {
    if (values === horizons || name === "starts" || name.startsWith("returns/")) continue;
    const cut = name.lastIndexOf("/"), group = cut < 0 ? name : name.slice(0, cut), label = cut < 0 ? name : name.slice(cut + 1);
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push({ label, values });
  }
  const order = (group) => { const at = Object.keys(DRIFT_TITLES).indexOf(group); return at < 0 ? 99 : at; };
  const grid = el("div", { className: "grid" }), useful = drift.useful_horizon;
  out.replaceChildren(...[useful !== undefined && useful !== null && el("p", {}, "Useful horizon: ", el("b", {}, `${useful}`), " steps. Beyond it, guessing is as good as dreaming.", drift.imagination_horizon ? ` The actor learns from dreams of ${drift.imagination_horizon} steps.` : ""),
    drift.warning && el("div", { className: "card finding WARN" }, el("span", { className: "level" }, "WARN"), drift.warning),
    typeof drift.returns?.correlation === "number" && el("p", { className: "dim small" }, `Imagined against realized return: correlation ${short(drift.returns.correlation)}${typeof drift.returns.bias === "number" ? `, bias ${short(drift.returns.bias)}` : ""}.`), grid].filter(Boolean));
  for (const [group, parts] of [...groups].sort(([a], [b]) => order(a) - order(b))) {
    const [title, unit] = driftTitle(group), { card, chart } = chartCard(title, { axis: "", xlabel: "steps after the last observation", unit });
    grid.append(card);
    const colours = ["#5b8cff", "#f2913d", "#2fb380", "#e0567a", "#a678f0", "#17b1c9"];
    const curves = parts.map(({ label, values }, i) => ({ label: GUESSES[label] || label.replaceAll("_", " "), colour: colours[i % 6], x: horizons?.length === values.length ? horizons : values.map((_, k) => k + 1), y: values, raw: true, dash: label === "dream" || parts.length === 1 ? undefined : [5, 4] }));
    chart.show(curves);
  }
}

const LEVELS = { yes: "OK", partly: "WARN", no: "FAIL" };
const POLICIES = { random: "random actions", own: "the run's own policy", made: "made in its dreams" };

/** What `reverie trust` left in the run. */
function drawTrust(out, found) {
  const [verdict, ...rest] = found.verdict, grid = el("div", { className: "grid" }), level = LEVELS[found.level];
  const score = (policy) => `${short(policy.mean)}${typeof policy.ci95 === "number" ? ` ± ${short(policy.ci95)}` : ""}`;
  out.replaceChildren(el("div", { className: `card finding ${level}` }, el("h4", {}, el("span", { className: "level" }, level), verdict), ...rest.map((text) => el("p", {}, text)),
    el("p", { className: "dim small" }, `${found.checkpoint ?? "checkpoint"}, ${short(found.updates)} updates in the dream, ${short(found.cpu_minutes)} CPU minutes.`)),
  el("div", { className: "card scroll" }, el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "policy"), el("th", { className: "num" }, "return in the real task, 95 %"))), el("tbody", {}, ...Object.entries(POLICIES).map(([key, name]) =>
    el("tr", {}, el("td", {}, name), el("td", { className: "num" }, score(found.policies[key]))))))), grid);
  const steps = (values) => values.map((_, k) => k + 1), { optimism, errors } = found;
  const show = (title, unit, curves) => {
    const { card, chart } = chartCard(title, { axis: "", xlabel: "steps", unit });
    grid.append(card);
    chart.show(curves.map((c) => ({ raw: true, x: steps(c.y), ...c })));
  };
  show("Earned within so many steps", "sum of rewards", [{ label: "in the dream", colour: LINE[1], y: optimism.dream }, { label: "really", colour: LINE[0], y: optimism.real }]);
  show("The gap, and its 95 % interval", "sum of rewards", [{ label: "dream − real", colour: LINE[0], y: optimism.gap }, { label: "lower", colour: "#8a94a8", y: optimism.low, dash: [4, 3] }, { label: "upper", colour: "#8a94a8", y: optimism.high, dash: [4, 3] }]);
  for (const [source, where] of Object.entries({ replay: "its replay", played: "episodes of the made policy" })) {
    const curves = Object.entries(errors[source] || {}).map(([label, y], i) => ({ label, y, colour: LINE[i % 3] })).filter((c) => c.y.some((v) => v !== null));
    if (curves.length) show(`Errors on ${where}`, "share of the variance", curves);
  }
}

const openInsight = single((body) => {
  const doctor = jobPanel("doctor", "run the doctor", "Reads the run's metrics and newest checkpoint, and reports what is wrong and what to change.", drawFindings, (out, run, start, still) => drawEarlier(out, run, start, still).catch((error) => out.replaceChildren(error.message)));
  const drift = jobPanel("drift", "measure drift", "Compares open-loop dreams with what really happened; takes seconds to a minute.", drawDrift);
  return { update(run, fresh) {
    if (!fresh) return;
    const trust = el("div", { className: "stack" });
    body.replaceChildren(el("h2", {}, "Doctor's findings"), doctor.box, el("h2", {}, "Drift: how far the model can dream"), drift.box, el("h2", {}, "Trust: may a policy learn in its dreams?"), trust);
    doctor.show(run); drift.show(run);
    ask(`/api/runs/${run.id}/trust`).then((found) => { if (found.trust) drawTrust(trust, found.trust); else trust.replaceChildren(nothing("Not measured yet: reverie trust RUN trains a fresh policy in the dreams only and plays it in the real task.")); })
      .catch((error) => trust.replaceChildren(nothing(error.message)));
  }, close: () => { doctor.close(); drift.close(); } };
});

// ------------------------------------------------------------------------------------------------------------ videos

/** A title and a line for a video: of an evaluation its step and return. */
function videoTitle(video) {
  const dream = /^dream-(\d+)/.exec(video.name);
  if (dream) return [`Dream at step ${(+dream[1]).toLocaleString("en")}`, "made by reverie dream"];
  if (video.env_steps === undefined) return [video.name, ""];
  const mean = video.return === undefined || video.return === null ? "return not logged" : `mean return ${short(video.return)}${video.episodes > 1 ? ` ± ${short(video.ci95)} over ${video.episodes} episodes` : ""}; this is one of them`;
  return [`Evaluation at step ${video.env_steps.toLocaleString("en")}`, mean];
}

const openVideos = single((body) => {
  const dream = jobPanel("dream", "make a video", "A real part of an episode beside the model's dream of it from the recorded actions only.", (out, url, run) => {
    out.replaceChildren(el("div", { className: "card wide-video" }, el("h3", {}, "left: what happened; middle: what the model dreamed; right: the difference"), player(`${url}?${Date.now()}`, `/api/runs/${run.id}/jobs/dream/frames`, "Truth, dream and error side by side")));
  });
  return { async update(run, fresh) {
    if (!fresh) return;
    const list = el("div", { className: "videos" });
    body.replaceChildren(el("h2", {}, "Truth against dream"), dream.box, el("h2", {}, "Videos of the run"), list);
    dream.show(run);
    const { videos } = await ask(`/api/runs/${run.id}/videos`);
    list.replaceChildren(...(videos.length ? videos.map((video) => {
      const src = `/api/runs/${run.id}/videos/${video.number}?${video.modified}`;
      const [title, text] = videoTitle(video), kind = video.name.split(".").at(-1).toLowerCase();
      const node = kind === "mp4" ? el("video", { src, controls: true, loop: true, muted: true, preload: "metadata" }) : kind === "gif" ? player(src, `/api/runs/${run.id}/videos/${video.number}/frames`, title) : el("img", { src, loading: "lazy", alt: title });
      return el("div", { className: "card" }, el("h3", {}, title), el("p", { className: "small" }, text), node, el("p", { className: "dim small" }, video.name));
    }) : [nothing("No videos yet. Evaluations write them if the task can be rendered; so does `reverie dream`.")]));
  }, close: () => dream.close() };
});

// ---------------------------------------------------------------------------------------------- configuration, episodes

function openConfig(main, state) {
  const filter = el("input", { type: "search", placeholder: "filter settings", on: { input: () => draw() } });
  let mode = "changed", rows = [], runs = [];
  const box = el("div", { className: "card scroll tall" }), about = el("div", { className: "stack" });
  main.append(el("div", { className: "tools" }, segments({ differs: "differ between runs", changed: "not the default", all: "all" }, mode, (next) => { mode = next; draw(); }), filter, el("span", { className: "dim" }, "bold: not the default; blue: differs between the chosen runs")), box, el("h2", {}, "Provenance"), about);

  function draw() {
    const wanted = filter.value.trim().toLowerCase();
    const shown = rows.filter((row) => (mode === "all" || row[mode]) && `${row.key} ${row.doc}`.toLowerCase().includes(wanted));
    if (!shown.length) { box.replaceChildren(nothing(mode === "differs" ? "The selected runs have the same settings." : "No setting matches.")); return; }
    const head = el("tr", {}, el("th", {}, "setting"), ...runs.map((run) => el("th", {}, el("span", { className: "swatch", style: { background: state.colour(run.id) } }), ` ${run.name}`)), el("th", {}, "default"), el("th", {}, "meaning"));
    box.replaceChildren(el("table", { className: "settings" }, el("thead", {}, head), el("tbody", {}, ...shown.map((row) => el("tr", { className: row.differs && runs.length > 1 && mode !== "differs" ? "differs" : "" },
      el("td", {}, el("code", {}, row.key)), ...row.values.map((value) => el("td", {}, value === row.default ? el("span", { className: "dim" }, value) : el("b", {}, value ?? "?"))),
      el("td", { className: "dim" }, row.default), el("td", { className: "dim small" }, row.doc))))));
  }

  async function provenance(run) {
    const { path, provenance: facts } = await ask(`/api/runs/${run.id}/about`);
    const versions = Object.entries(facts.versions || {}).map(([name, value]) => `${name} ${value}`).join(", ");
    const hardware = facts.hardware || {};
    const rows = { directory: path, command: facts.command, started: facts.started, commit: facts.commit, versions, hardware: [hardware.gpu, hardware.machine, hardware.cpus && `${hardware.cpus} CPUs`].filter(Boolean).join(", "), protocol: facts.protocol?.line };
    return el("div", { className: "card scroll" }, el("h3", {}, run.name), el("table", {}, el("tbody", {}, ...Object.entries(rows).filter(([, value]) => value).map(([key, value]) => el("tr", {}, el("td", { className: "dim" }, key), el("td", { className: "wrap" }, el("code", {}, String(value))))))));
  }

  return { update: queued(async () => {
    runs = state.picked();
    if (!runs.length) { box.replaceChildren(nothing("Choose a run.")); about.replaceChildren(); return; }
    ({ rows } = await ask(`/api/configs?runs=${runs.map((run) => run.id).join(",")}`));
    runs = runs.slice(0, 20);
    draw();
    about.replaceChildren(...await Promise.all(runs.map(provenance)));
  }) };
}

const openEpisodes = single((body) => {
  let current = null;
  const update = queued(async () => {
    const { episodes } = await ask(`/api/runs/${current.id}/episodes`);
    if (!episodes.length) { body.replaceChildren(nothing("No episode has ended yet.")); return; }
    const names = ["phase", "env_steps", "return", "length", "seconds"], heads = [["phase"], ["env steps"], ["return"], ["length", ", steps"], ["time", " of training"]];
    body.replaceChildren(el("div", { className: "card scroll tall" }, el("table", { className: "episodes" },
      el("thead", {}, el("tr", {}, ...heads.map(([name, more], i) => el("th", { className: i ? "num" : "" }, name, more && el("span", { className: "hide-small" }, more))))),
      el("tbody", {}, ...episodes.map((episode) => el("tr", {}, ...names.map((name, i) => el("td", { className: i ? "num" : "dim" }, name === "seconds" ? duration(episode[name]) : name === "env_steps" ? episode[name].toLocaleString("en") : typeof episode[name] === "number" ? short(episode[name]) : episode[name]))))))));
  });
  return { update(run) { current = run; update(); }, lines(news) { if (current && news.id === current.id) update(); } };
});

export const VIEWS = {
  curves: { title: "Curves", open: openCurves },
  latents: { title: "Latents", open: openLatents },
  insight: { title: "Insight", open: openInsight },
  videos: { title: "Videos", open: openVideos },
  config: { title: "Config", open: openConfig },
  episodes: { title: "Episodes", open: openEpisodes },
};
