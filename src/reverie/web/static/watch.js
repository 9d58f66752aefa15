// The dashboard: selected runs, the open view, and live updates. The address says all of it, so that it can be shared.
import { ask, byId, colourOf, duration, el, short, startTheme } from "./common.js";
import { edit } from "./notes.js";
import { VIEWS } from "./panels.js";

const saved = (key, otherwise) => { try { return JSON.parse(localStorage.getItem(`reverie-${key}`)) ?? otherwise; } catch { return otherwise; } };
const save = (key, value) => { try { localStorage.setItem(`reverie-${key}`, JSON.stringify(value)); } catch { /* a private window */ } };

/** State that all views share. */
const state = {
  runs: [], units: {}, chosen: new Set(), focus: null, unhide: false,
  axis: saved("axis", "env_steps"), smooth: saved("smooth", 0.6), log: saved("log", false), seeds: saved("seeds", "each"),
  colour: colourOf,
  picked() { return this.runs.filter((run) => this.chosen.has(run.id)); },
  focused() { return this.picked().find((run) => run.id === this.focus) || this.picked()[0] || null; },
  set(key, value) { this[key] = value; save(key, value); changed(); },
  refocus(id) { this.focus = id; drawRuns(); changed(); },
};

let view = null, viewName = "";

// ---------------------------------------------------------------------------------------------------------- address

/** "#curves?runs=a,b&x=seconds" -> the view's name and the rest. */
function address() {
  const [name, rest] = location.hash.slice(1).split("?");
  return [name in VIEWS ? name : "curves", new URLSearchParams(rest || "")];
}

/** Take what the address says of the selection and of the axes. */
function readAddress() {
  const given = address()[1];
  if (["env_steps", "seconds", "updates"].includes(given.get("x"))) state.axis = given.get("x");
  if (given.has("smooth")) state.smooth = Math.max(0, Math.min(0.99, +given.get("smooth") || 0));
  if (given.has("log")) state.log = given.get("log") === "1";
  if (["each", "bands"].includes(given.get("seeds"))) state.seeds = given.get("seeds");
  if (!given.has("runs")) return false;
  const names = given.getAll("runs").filter(Boolean), found = state.runs.filter((run) => names.includes(run.name));
  state.chosen = new Set(found.map((run) => run.id));
  state.focus = state.runs.find((run) => run.name === given.get("focus"))?.id ?? null;
  byId("notice").textContent = found.length < names.length ? `${names.length - found.length} of the ${names.length} runs in this address are not here.` : "";
  return true;
}

function writeAddress() {
  const given = new URLSearchParams(state.picked().map((run) => ["runs", run.name]));
  if (!state.chosen.size) given.set("runs", "");
  const focus = state.runs.find((run) => run.id === state.focus);
  if (focus && state.chosen.has(focus.id)) given.set("focus", focus.name);
  given.set("x", state.axis); given.set("smooth", state.smooth); given.set("log", state.log ? 1 : 0); given.set("seeds", state.seeds);
  history.replaceState(null, "", `#${viewName}?${given}`);
}

// ------------------------------------------------------------------------------------------------------------ views

const axes = () => JSON.stringify([state.axis, state.smooth, state.log, state.seeds]);

function openView() {
  const name = address()[0];
  const before = axes();
  if (state.runs.length) readAddress();
  if (name !== viewName || before !== axes()) { // the tools of a view show what the axes were when it was opened
    if (view) view.close?.();
    viewName = name;
    const main = byId("main");
    main.replaceChildren();
    view = VIEWS[name].open(main, state);
    for (const link of byId("tabs").children) link.toggleAttribute("aria-current", link.hash === `#${name}`);
  }
  drawRuns();
  changed();
}

let waiting = false;
/** After a change of the selection: let the open view fetch and draw again, at most once per frame. */
function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; if (state.runs.length) writeAddress(); view?.update?.(); });
}

function drawTabs() {
  byId("tabs").replaceChildren(
    ...Object.entries(VIEWS).map(([name, { title }]) => el("a", { href: `#${name}` }, title)),
  );
}

// ------------------------------------------------------------------------------------------------------------- runs

const STATES = { training: "It is training now.", done: "It reached the limit that it was given.", stopped: "It was ended before its limit. The same command continues it.", crashed: "It ended by an error, or its process was killed. The same command continues it." };
const LEVELS = { FAIL: "The doctor found what prevents learning", WARN: "The doctor found what may harm", OK: "The doctor found nothing wrong" };

/** How far it is, by the limit that will end it. */
function progressOf(run) {
  const steps = `${short(run.env_steps)}${run.target ? ` of ${short(run.target)} steps` : " steps"}`;
  if (run.limit !== "train.minutes") return [steps, run.seconds > 0 && duration(run.seconds)];
  return [`${duration(run.seconds)} of ${duration(60 * run.minutes)}`, steps];
}

function silence(run) {
  const age = Date.now() / 1000 - run.modified;
  return run.state === "training" && run.modified && age > 600 ? `no news for ${duration(age)}` : "";
}

function runItem(run) {
  const box = el("input", { type: "checkbox", checked: state.chosen.has(run.id), on: { change: () => choose(run.id, box.checked) } });
  box.setAttribute("aria-label", `Show ${run.name}`);
  const score = run.evaluation ?? run.return, [far, more] = progressOf(run), percent = `${Math.floor(100 * run.share)} %`;
  const doctor = run.doctor && el("button", { type: "button", className: `pill level-${run.doctor.level}`, title: `${LEVELS[run.doctor.level]} (at update ${run.doctor.updates.toLocaleString("en")}). Show it.`, on: { click: () => { state.chosen.add(run.id); state.focus = run.id; writeAddress(); location.hash = location.hash.replace(/^#\w+/, "#insight"); } } }, `doctor: ${run.doctor.level}`);
  return el("li", { className: `run ${run.hidden ? "is-hidden" : ""}`, data: { run: run.id, state: run.state }, style: { "border-left-color": state.colour(run.id) } },
    el("div", { className: "row" }, el("label", { className: "name" }, box, el("span", { className: "grow" }, run.name)),
      el("button", { type: "button", className: "quiet", title: "Note, tags, hide, delete", ariaLabel: `Edit ${run.name}`, on: { click: () => edit(run, () => loadRuns()) } }, "⋯")),
    el("div", { className: "pills" }, el("span", { className: `pill state ${run.state}`, title: [STATES[run.state], run.reason].filter(Boolean).join("\n") }, run.state), doctor, ...run.tags.map((tag) => el("span", { className: "pill tag" }, tag))),
    el("div", { className: "facts" },
      el("span", {}, run.task || run.trouble || "?"), run.seed !== null && el("span", {}, `seed ${run.seed}`),
      score !== null && score !== undefined && el("span", { title: run.evaluation !== null ? "mean return of the last evaluation" : "mean return of the last 20 training episodes" }, "return ", el("b", {}, short(score)), run.evaluation !== null ? " (evaluation)" : " (training)"),
      el("a", { href: `/play?run=${run.id}`, title: "Play inside this agent's dream" }, "play ▸")),
    run.state !== "done" && run.reason && el("div", { className: "small dim clip", title: run.reason }, run.reason), silence(run) && el("div", { className: "small" }, silence(run)),
    run.note && el("div", { className: "small note-line", title: run.note }, run.note),
    el("progress", { value: run.share, max: 1, ariaLabel: percent }),
    el("div", { className: "facts far" }, el("span", {}, el("b", {}, percent), ` ${far}`), more && el("span", {}, more)));
}

const words = (run) => [run.name, run.task, run.state, run.note, ...run.tags, run.doctor?.level].join(" ").toLowerCase();

function drawRuns() {
  const wanted = byId("filter").value.trim().toLowerCase(), hidden = state.runs.filter((run) => run.hidden).length;
  const listed = state.runs.filter((run) => state.unhide || !run.hidden), shown = listed.filter((run) => words(run).includes(wanted));
  byId("run-count").textContent = listed.length === shown.length ? `${shown.length}` : `${shown.length} of ${listed.length}`;
  byId("unhide-box").hidden = !hidden;
  byId("unhide-count").textContent = `show ${hidden} hidden`;
  byId("runs").replaceChildren(...(shown.length ? shown.map(runItem) : [el("li", { className: "note" }, listed.length ? "no run matches the filter" : "no runs here yet: they appear as soon as one begins")]));
}

function choose(id, on) {
  if (on) state.chosen.add(id); else state.chosen.delete(id);
  if (on) state.focus = id;
  changed();
}

/** At first: those of the address; without one the running ones, and the six newest. */
function chooseFirst(runs) {
  if (readAddress()) return;
  const wanted = runs.filter((run) => !run.hidden).sort((a, b) => b.live - a.live || b.modified - a.modified).filter((run, i) => run.live || i < 6);
  for (const run of wanted.slice(0, 12)) state.chosen.add(run.id);
}

async function loadRuns() {
  const { runs, roots, units } = await ask("/api/runs"), first = !state.runs.length;
  const fresh = runs.filter((run) => !state.runs.some((old) => old.id === run.id));
  state.runs = runs; state.units = units;
  if (first) chooseFirst(runs);
  else for (const run of fresh) if (run.live && !run.hidden) state.chosen.add(run.id);
  for (const id of [...state.chosen]) if (!runs.some((run) => run.id === id && (!run.hidden || first || state.unhide))) state.chosen.delete(id);
  document.title = runs.length === 1 ? `${runs[0].name} · Reverie` : "Reverie";
  byId("runs-box").title = roots.join("\n");
  drawRuns();
  changed();
}

function takeSummaries(summaries) {
  for (const summary of summaries) {
    const run = state.runs.find((old) => old.id === summary.id);
    if (run) Object.assign(run, summary);
  }
  drawRuns();
}

// ------------------------------------------------------------------------------------------------------------- live

let reload = 0;
function follow() {
  const output = byId("link"), source = new EventSource("/api/events");
  source.addEventListener("hello", () => {
    if (output.dataset.lost) loadRuns().then(() => view?.again?.()).catch(() => {}); // lines were missed meanwhile
    delete output.dataset.lost;
    output.textContent = "live"; output.className = "pill on";
  });
  source.addEventListener("error", () => { output.dataset.lost = "1"; output.textContent = "not connected"; output.className = "pill"; });
  source.addEventListener("lost", () => loadRuns().then(() => view?.again?.()).catch(() => {}));
  source.addEventListener("runs", () => loadRuns().catch(() => {}));
  source.addEventListener("summaries", (event) => { takeSummaries(JSON.parse(event.data).runs); view?.tick?.(); });
  source.addEventListener("lines", (event) => {
    const news = JSON.parse(event.data);
    if (news.again) { clearTimeout(reload); reload = setTimeout(() => loadRuns().catch(() => {}), 200); } // the run may log other metrics now
    view?.lines?.(news);
  });
}

startTheme(byId("theme"));
drawTabs();
addEventListener("hashchange", openView);
byId("filter").addEventListener("input", drawRuns);
byId("unhide").addEventListener("change", () => { state.unhide = byId("unhide").checked; drawRuns(); });
if (matchMedia("(max-width: 860px)").matches) byId("runs-box").open = false;
loadRuns().catch((error) => byId("main").replaceChildren(el("div", { className: "note" }, error.message)))
  .finally(() => { openView(); follow(); });
