// The dream player: keys and buttons send messages over a websocket, and each is answered with one step of the dream.
import { ask, byId, css, el, heat, onTheme, rare, short, startTheme } from "./common.js";
import { controlRows, isSimple, keyList, noteAnswer, session, showMessage, stepOf } from "./session.js";

const query = new URLSearchParams(location.search);
let info = null, moment = null, history = [], playing = false, shape = "", frames = [], seed = /^\d{1,6}$/.test(query.get("seed") ?? "") ? +query.get("seed") : Math.floor(Math.random() * 1e6);
let picked = []; // the selected index of each choice, and the values of each group of sliders
const CONTEXT = 5;

// --------------------------------------------------------------------------------------------------------- messages

const link = session("/api/play", {
  opened: () => begin(seed), take,
  closed: () => { stop(); return "The connection is closed: reverie watch has ended, or the page was idle for too long. Reload the page."; },
});
const { say } = link;

function begin(next) { seed = next; stop(); link.clear(); byId("step").textContent = "loading the agent"; say({ do: "start", run: +byId("run").value, seed, context: CONTEXT }); }

function take(answer) {
  if (answer.type === "error") {
    stop();
    showMessage([answer.message, answer.hint].filter(Boolean).join(" "));
    if (!info) byId("step").textContent = "no dream";
    return;
  }
  showMessage("");
  if (answer.type === "started") {
    info = answer; history = []; frames = [];
    byId("run-text").textContent = `${info.task}${info.env_steps === null ? "" : `, trained for ${short(info.env_steps)} env steps`}`;
    drawContext(); drawControls();
  }
  moment = answer;
  history.length = answer.last + 1;
  history[answer.step] = { images: answer.images, vectors: answer.vectors, reward: answer.reward[0], value: answer.value[0], go: answer.continue[0], lanes: answer.lanes, unknown: answer.uncertainty };
  draw();
  count(answer.ms);
  noteAnswer(answer.step);
  if (playing) schedule();
}

// ---------------------------------------------------------------------------------------------------- the policy plays

let timer = 0, last = 0;
function schedule() {
  clearTimeout(timer);
  const pause = Math.max(0, 1000 / byId("fps").value - (performance.now() - last));
  timer = setTimeout(() => { last = performance.now(); if (playing) say({ do: "policy", mode: byId("greedy").checked ? "mode" : "sample" }); }, pause);
}
function stop() { playing = false; clearTimeout(timer); byId("auto").textContent = "▶ policy plays"; }
function toggle() { if (playing) { stop(); return; } playing = true; byId("auto").textContent = "⏸ pause"; schedule(); }

function count(ms) {
  const now = performance.now();
  frames = [...frames.filter((t) => now - t < 1500), now];
  const rate = frames.length > 2 ? (frames.length - 1) / ((now - frames[0]) / 1000) : 0;
  byId("speed-text").textContent = `${rate ? `${rate.toFixed(0)} frames/s · ` : ""}${ms.toFixed(1)} ms`;
}

// ---------------------------------------------------------------------------------------------------------- drawing


const imageKeys = () => Object.keys(moment.images);

function draw() {
  drawStage(); drawNumbers(); drawPolicy(); drawLatent(); drawStrip();
  byId("step").textContent = moment.step ? `dream step ${moment.step}` : "start: a real step";
  byId("action-text").textContent = moment.action ? `after ${moment.lanes.length > 1 && new Set(moment.action.map(String)).size > 1 ? "different actions" : nameOf(moment.action[0])}` : "";
  for (const [id, off] of [["back", !moment.step], ["first", !moment.step]]) byId(id).disabled = off;
}

function drawStage() {
  const stage = byId("stage"), lanes = moment.lanes.length, keys = imageKeys();
  const wanted = JSON.stringify([lanes, keys, Object.keys(moment.vectors)]);
  if (wanted !== shape) { // otherwise only the images are replaced, so that nothing flickers
    shape = wanted;
    stage.classList.toggle("many", lanes > 1); stage.classList.toggle("drawn", !keys.length);
    const each = Math.max(1, keys.length || 1), columns = lanes === 1 ? each : lanes <= 3 ? lanes : lanes === 4 ? 2 : 3;
    stage.style.setProperty("--columns", columns);
    stage.replaceChildren(...moment.lanes.flatMap((_, row) => (keys.length ? keys : [""]).map((key) => {
      const caption = el("figcaption"), image = key ? el("img", { alt: `Image that the model imagines: ${key}`, draggable: false }) : el("canvas");
      return el("figure", { data: { row, key }, title: lanes > 1 ? "Continue with this branch only" : "", on: { click: () => { if (moment.lanes.length > 1) say({ do: "keep", row }); } } }, image, caption);
    })));
  }
  stage.classList.toggle("known", Boolean(moment.uncertainty));
  for (const figure of stage.children) {
    const row = +figure.dataset.row, [image, caption] = figure.children;
    if (figure.dataset.key) image.src = moment.images[figure.dataset.key][row];
    else drawVectors(image, row);
    if (moment.lanes.length > 1) caption.replaceChildren(`${row + 1}   value ${short(moment.value[row])}`, el("span", { className: "hide-small" }, `   reward ${short(moment.reward[row])}`), el("span", { className: "hide-small" }, moment.uncertainty ? `   unknown ${percent(moment.uncertainty[row])}` : ""));
    else caption.textContent = figure.dataset.key && imageKeys().length > 1 ? figure.dataset.key : "";
    caption.hidden = !caption.textContent;
    if (moment.uncertainty) figure.style.setProperty("--known", rare(moment.uncertainty[row]));
  }
}

const LINES = ["#5b8cff", "#f2913d", "#2fb380", "#e0567a", "#a678f0", "#17b1c9", "#c9a227", "#8a94a8"];
/** Vectors of up to eight numbers as lines over the dream and the real steps before it; longer ones as bars. */
function drawVectors(canvas, row) {
  const key = Object.keys(moment.vectors)[0];
  if (!key) return;
  const scale = devicePixelRatio || 1, width = canvas.clientWidth || 420, height = canvas.clientHeight || 300;
  canvas.width = width * scale; canvas.height = height * scale;
  const c = canvas.getContext("2d"), now = moment.vectors[key][row];
  c.scale(scale, scale);
  c.fillStyle = "#0a0c12"; c.fillRect(0, 0, width, height);
  c.font = "12px system-ui, sans-serif";
  const real = info.context.vectors[key] || [];
  const path = [...real.slice(0, -1), ...history.slice(0, moment.step + 1).map((h) => h && (h.vectors[key][Math.min(row, h.vectors[key].length - 1)]))].slice(-160);
  const start = Math.max(0, real.length - 1 - Math.max(0, real.length - 1 + moment.step + 1 - 160));
  if (now.length > 8) {
    const all = path.filter(Boolean).flat(), low = Math.min(...all), span = Math.max(...all) - low || 1;
    now.forEach((value, i) => { c.fillStyle = LINES[0]; const h = (value - low) / span * (height - 30) + 2; c.fillRect(8 + i * (width - 16) / now.length, height - 8 - h, Math.max(1, (width - 16) / now.length - 1), h); });
    return;
  }
  const band = (height - 12) / now.length;
  now.forEach((value, d) => {
    const values = path.map((v) => (v ? v[d] : null)), some = values.filter((v) => v !== null), low = Math.min(...some), span = Math.max(...some) - low || 1, top = 6 + d * band;
    const at = (i) => [8 + i * (width - 84) / Math.max(30, values.length - 1), top + band - 6 - (values[i] - low) / span * (band - 14)];
    c.strokeStyle = "#262b3d"; c.beginPath(); c.moveTo(8, top + band); c.lineTo(width - 8, top + band); c.stroke();
    for (const [from, to, style] of [[0, start, "#5d657c"], [start, values.length - 1, LINES[d % 8]]]) {
      c.strokeStyle = style; c.lineWidth = 2; c.beginPath();
      let begun = false;
      for (let i = from; i <= to; i++) { if (values[i] === null) continue; if (begun) c.lineTo(...at(i)); else c.moveTo(...at(i)); begun = true; }
      c.stroke();
    }
    c.fillStyle = LINES[d % 8];
    c.beginPath(); c.arc(...at(values.length - 1), 3.5, 0, 7); c.fill();
    c.textAlign = "right"; c.fillText(short(value), width - 10, top + band / 2 + 4);
  });
}

function sparkline(canvas, values, range) {
  const width = canvas.width = canvas.clientWidth * devicePixelRatio, height = canvas.height = canvas.clientHeight * devicePixelRatio, c = canvas.getContext("2d");
  const some = values.filter((v) => v !== undefined), low = range ? range[0] : Math.min(...some, 0), span = (range ? range[1] : Math.max(...some)) - low || 1;
  const at = (i) => [values.length < 2 ? width / 2 : 3 + i * (width - 6) / (values.length - 1), height - 4 - (values[i] - low) / span * (height - 8)];
  c.strokeStyle = css("--accent"); c.lineWidth = 1.5 * devicePixelRatio; c.beginPath();
  let begun = false;
  values.forEach((v, i) => { if (v === undefined) return; if (begun) c.lineTo(...at(i)); else c.moveTo(...at(i)); begun = true; });
  c.stroke();
  if (values[moment.step] !== undefined) { c.fillStyle = css("--accent"); c.beginPath(); c.arc(...at(moment.step), 3 * devicePixelRatio, 0, 7); c.fill(); }
}

function drawNumbers() {
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  byId("reward").textContent = short(mean(moment.reward)); byId("value").textContent = short(mean(moment.value));
  byId("continue").textContent = `${(100 * mean(moment.continue)).toFixed(1)} %`;
  sparkline(byId("reward-line"), history.map((h) => h?.reward)); sparkline(byId("value-line"), history.map((h) => h?.value));
  sparkline(byId("continue-line"), history.map((h) => h?.go), [0, 1]);
  byId("unknown-card").hidden = !moment.uncertainty;
  byId("unknown-card").parentElement.classList.toggle("four", Boolean(moment.uncertainty));
  if (!moment.uncertainty) return;
  byId("unknown").textContent = percent(mean(moment.uncertainty));
  sparkline(byId("unknown-line"), history.map((h) => h?.unknown && mean(h.unknown)), [0, 1]);
}

/** A percentile: 0.994 -> "99.4 %". */
const percent = (share) => `${(100 * share).toFixed(share > 0.98 && share < 1 ? 1 : 0)} %`;

function drawPolicy() {
  const parts = moment.policy[0], controls = info.controls, rows = [];
  parts.forEach((part, i) => {
    const names = controls[i]?.names || [];
    if (part.kind === "choice") {
      const best = Math.max(...part.probs);
      part.probs.map((p, k) => [p, k]).sort((a, b) => (part.probs.length > 8 ? b[0] - a[0] : 0)).slice(0, 8).forEach(([p, k]) => rows.push(el("div", { className: p === best ? "prob best" : "prob" },
        el("span", {}, names[k] ?? `${k}`), el("meter", { min: 0, max: 1, value: p }), el("span", { className: "right" }, `${(100 * p).toFixed(1)} %`))));
    } else part.mean.forEach((x, k) => rows.push(el("div", { className: "prob" }, el("span", {}, names[k] ?? `${k}`), el("input", { type: "range", min: -1, max: 1, step: 0.001, value: x, disabled: true }), el("span", { className: "right" }, x.toFixed(2)))));
  });
  byId("policy").replaceChildren(...rows);
}

function drawLatent() {
  const latent = moment.latent, canvas = byId("latent");
  if (!latent) { byId("latent-text").textContent = "Gaussian, without classes"; canvas.hidden = true; return; }
  const { rows, columns } = latent, bytes = Uint8Array.from(atob(latent.probs[0]), (x) => x.charCodeAt(0)), chosen = latent.chosen[0], cell = Math.max(8, Math.floor(512 / columns));
  canvas.width = columns * cell; canvas.height = rows * cell;
  const c = canvas.getContext("2d");
  c.fillStyle = "#0a0c12"; c.fillRect(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) {
    const [r, g, b] = heat(Math.sqrt(bytes[i * columns + j] / 255));
    c.fillStyle = `rgb(${r} ${g} ${b})`; c.fillRect(j * cell, i * cell, cell - 1, cell - 1);
  }
  c.strokeStyle = "#ffffff"; c.lineWidth = Math.min(3, Math.max(1.5, cell / 12));
  chosen.forEach((j, i) => c.strokeRect(j * cell + 1, i * cell + 1, cell - 3, cell - 3));
  let entropy = 0;
  for (const byte of bytes) { const p = byte / 255; if (p > 0) entropy -= p * Math.log(p); }
  byId("latent-text").textContent = `${rows} × ${columns}, entropy ${Math.max(0, entropy).toFixed(1)} nats`;
}

// ----------------------------------------------------------------------------------------------------------- history

function drawContext() {
  const strip = byId("strip"), key = Object.keys(info.context.images)[0];
  strip.replaceChildren(...Array.from({ length: info.context.length - 1 }, (_, i) => el("button", { type: "button", className: "real", disabled: true, title: "A real step before the dream" },
    key ? el("img", { src: info.context.images[key][i], alt: "" }) : el("canvas"), el("span", {}, "real"))));
  const { uncertainty, surprise } = info.context, band = byId("band");
  band.hidden = !uncertainty && !surprise;
  strip.classList.toggle("banded", !band.hidden);
  if (band.hidden) return;
  byId("band-text").textContent = uncertainty ? "how unknown each step was: usual" : "how surprising each real step was: usual";
  [...strip.children].forEach((button, i) => drawBand(button, [(uncertainty || surprise)[i]], [uncertainty && `unknown ${percent(uncertainty[i])} before looking`, surprise && `surprise ${percent(surprise[i])}`].filter(Boolean).join(", ")));
  const scale = byId("band-scale"), c = scale.getContext("2d");
  scale.width = 120; scale.height = 1;
  for (let i = 0; i < 120; i++) { c.fillStyle = rare(1 - 0.5 * 0.002 ** (i / 119)); c.fillRect(i, 0, 1, 1); }
}

/** The band below a step of the strip: a part for each branch. */
function drawBand(button, shares, text) {
  let band = button.querySelector("i");
  if (!band) button.insertBefore(band = el("i"), button.lastChild);
  band.replaceChildren(...shares.map((share) => el("u", { style: { background: rare(share) } })));
  if (text) button.title = `${button.title.split(":")[0]}: ${text}`;
}

/** Of a step with several branches, where one of them was kept, that one only. */
function unknownAt(step) {
  const then = history[step], row = moment.lanes.length === 1 && then ? then.lanes.indexOf(moment.lanes[0]) : -1;
  return then?.unknown && (row >= 0 ? [then.unknown[row]] : then.unknown);
}

function drawStrip() {
  const strip = byId("strip"), before = info.context.length - 1;
  while (strip.children.length > before + moment.last + 1) strip.lastChild.remove();
  while (strip.children.length < before + moment.last + 1) {
    const to = strip.children.length - before;
    strip.append(el("button", { type: "button", data: { to }, title: `Back to step ${to}`, on: { click: () => { stop(); say({ do: "rewind", to }); } } }, el("img", { alt: "" }), el("span", {}, `${to}`)));
  }
  const button = strip.children[before + moment.step], keys = imageKeys();
  strip.classList.toggle("plain", !keys.length);
  if (keys.length) button.firstChild.src = moment.images[keys[0]][0]; else button.firstChild.hidden = true;
  for (let step = 0; step <= moment.last; step++) {
    const shares = unknownAt(step);
    if (shares) drawBand(strip.children[before + step], shares, `unknown ${shares.map(percent).join(", ")}`);
  }
  for (const other of strip.children) { other.removeAttribute("aria-current"); other.classList.toggle("ahead", +other.dataset.to > moment.step); }
  button.setAttribute("aria-current", "step");
  strip.scrollLeft = Math.max(0, button.offsetLeft - strip.offsetLeft - strip.clientWidth + 2 * button.offsetWidth); // not scrollIntoView: that moves the page
}

// ---------------------------------------------------------------------------------------------------------- controls

function nameOf(action) {
  let at = 0;
  const parts = info.controls.map((control) => {
    const own = action.slice(at, at += control.names.length);
    return control.kind === "choice" ? control.names[own.indexOf(Math.max(...own))] : own.map((x, i) => `${control.names[i]} ${x.toFixed(2)}`).join(", ");
  });
  return parts.join(", ");
}

const simple = () => isSimple(info.controls);

function drawControls() {
  picked = info.controls.map((control) => (control.kind === "choice" ? 0 : control.names.map(() => 0)));
  byId("controls").replaceChildren(...controlRows(info.controls, {
    choose, slide: (part, k, value) => { picked[part][k] = value; }, step: () => { stop(); act(); }, main: true,
  }));
  markPicked();
  const videos = byId("videos");
  videos.replaceChildren(...info.videos.map((kind) => el("a", { href: `/api/dreams/${info.session}.${kind}`, download: `dream.${kind}`, title: "The dream up to this step" }, `save ${kind.toUpperCase()}`)));
  byId("help").replaceChildren(...keyList([["arrows, WASD, 1–9", "act"], ["P", "policy plays"], [".", "one policy step"], ["backspace", "back"], ["B", "branch"], ["R", "resample"], ["N", "new start"]]),
    info.masked ? el("p", { className: "dim" }, "This task has an action mask. The dream accepts any action; the policy's probabilities respect the imagined mask.") : "");
}

function markPicked() {
  if (simple()) return;
  for (const button of byId("controls").querySelectorAll(".choices button")) button.classList.toggle("picked", picked[+button.dataset.part] === +button.dataset.k);
}

function choose(part, k) { picked[part] = k; markPicked(); if (simple()) { stop(); act(); } }

function act() {
  if (link.waits() > 2) return; // a held key must not fill the queue
  say(stepOf(info.controls, picked));
}

const ACTIONS = {
  auto: toggle, once: () => { stop(); say({ do: "policy", mode: byId("greedy").checked ? "mode" : "sample" }); },
  first: () => { stop(); say({ do: "rewind", to: 0 }); }, back: () => { stop(); if (moment.step) say({ do: "rewind", to: moment.step - 1 }); },
  branch: () => { stop(); say({ do: "branch", lanes: +byId("lanes").value }); }, reroll: () => say({ do: "reroll" }), again: () => begin(seed + 1),
};
const KEYS = { KeyP: "auto", Period: "once", Backspace: "back", Home: "first", KeyB: "branch", KeyR: "reroll", KeyN: "again" };

function key(event) {
  const slider = event.target.type === "range"; // uses the arrow keys itself
  if (!info || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT" || (slider && /^(Arrow|Home|End|Page)/.test(event.code))) return;
  const part = info.controls.findIndex((control) => control.kind === "choice" && event.code in control.keys);
  if (part >= 0) { event.preventDefault(); stop(); picked[part] = info.controls[part].keys[event.code]; markPicked(); act(); return; }
  if (event.code === "Enter" && !simple() && event.target.tagName !== "BUTTON") { event.preventDefault(); stop(); act(); return; }
  if (KEYS[event.code] && !event.repeat || event.code === "Backspace") { event.preventDefault(); ACTIONS[KEYS[event.code]](); }
}

startTheme(byId("theme"));
onTheme(() => { if (moment) draw(); });
for (const [id, run] of Object.entries(ACTIONS)) byId(id).addEventListener("click", () => { if (info) run(); });
byId("fps").addEventListener("input", () => { byId("fps-text").textContent = byId("fps").value; });
addEventListener("keydown", key);
for (const id of ["run", "lanes"]) byId(id).addEventListener("change", () => byId(id).blur()); // so that keys go to the dream again
byId("run").addEventListener("change", () => { info = null; window.history.replaceState(null, "", `/play?run=${byId("run").value}`); begin(seed); });
ask("/api/runs").then(({ runs }) => {
  byId("run").replaceChildren(...runs.map((run) => el("option", { value: run.id }, run.name)));
  if (runs.some((run) => `${run.id}` === query.get("run"))) byId("run").value = query.get("run");
  if (runs.length) link.open(); else showMessage("There is no run yet.");
}).catch((error) => showMessage(error.message));
