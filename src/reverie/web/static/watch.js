// The dashboard: selected runs, the open view, and live updates.
import { ask, byId, colourOf, duration, el, short, startTheme } from "./common.js";
import { VIEWS } from "./panels.js";

const saved = (key, otherwise) => { try { return JSON.parse(localStorage.getItem(`reverie-${key}`)) ?? otherwise; } catch { return otherwise; } };
const save = (key, value) => { try { localStorage.setItem(`reverie-${key}`, JSON.stringify(value)); } catch { /* a private window */ } };

/** State that all views share. */
const state = {
  runs: [], chosen: new Set(), focus: null,
  axis: saved("axis", "env_steps"), smooth: saved("smooth", 0.6), log: saved("log", false),
  colour: colourOf,
  picked() { return this.runs.filter((run) => this.chosen.has(run.id)); },
  focused() { return this.runs.find((run) => run.id === this.focus) || this.picked()[0] || null; },
  set(key, value) { this[key] = value; save(key, value); changed(); },
  refocus(id) { this.focus = id; drawRuns(); changed(); },
};

let view = null, viewName = "";

// ------------------------------------------------------------------------------------------------------------ views

function openView() {
  const name = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "curves";
  if (name === viewName) return;
  if (view) view.close?.();
  viewName = name;
  const main = byId("main");
  main.replaceChildren();
  view = VIEWS[name].open(main, state);
  for (const link of byId("tabs").children) link.toggleAttribute("aria-current", link.hash === `#${name}`);
  changed();
}

let waiting = false;
/** After a change of the selection: let the open view fetch and draw again, at most once per frame. */
function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; view?.update?.(); });
}

function drawTabs() {
  byId("tabs").replaceChildren(
    ...Object.entries(VIEWS).map(([name, { title }]) => el("a", { href: `#${name}` }, title)),
  );
}

// ------------------------------------------------------------------------------------------------------------- runs

function runItem(run) {
  const box = el("input", { type: "checkbox", checked: state.chosen.has(run.id), on: { change: () => choose(run.id, box.checked) } });
  box.setAttribute("aria-label", `Show ${run.name}`);
  const score = run.evaluation ?? run.return;
  const done = run.target ? Math.min(1, run.env_steps / run.target) : 0;
  return el("li", { className: "run", data: { run: run.id }, style: { "border-left-color": state.colour(run.id) } },
    el("label", { className: "name" }, box, el("span", { className: "grow" }, run.name), run.live && el("span", { className: "pill live" }, "training")),
    el("div", { className: "facts" },
      el("span", {}, run.task || run.trouble || "?"), run.seed !== null && el("span", {}, `seed ${run.seed}`),
      score !== null && score !== undefined && el("span", {}, el("b", {}, short(score)), run.evaluation !== null ? " eval" : " return"),
      el("span", {}, el("b", {}, short(run.env_steps)), run.target ? ` of ${short(run.target)} steps` : " steps"),
      run.seconds > 0 && el("span", {}, duration(run.seconds)),
      el("a", { href: `/play?run=${run.id}`, title: "Play inside this agent's dream" }, "play ▸")),
    el("progress", { value: done, max: 1, title: `${Math.round(100 * done)} %` }));
}

function drawRuns() {
  const wanted = byId("filter").value.trim().toLowerCase();
  const shown = state.runs.filter((run) => `${run.name} ${run.task}`.toLowerCase().includes(wanted));
  byId("run-count").textContent = state.runs.length === shown.length ? `${shown.length}` : `${shown.length} of ${state.runs.length}`;
  byId("runs").replaceChildren(...(shown.length ? shown.map(runItem) : [el("li", { className: "note" }, state.runs.length ? "no run matches the filter" : "no runs here yet: they appear as soon as one begins")]));
}

function choose(id, on) {
  if (on) state.chosen.add(id); else state.chosen.delete(id);
  if (on) state.focus = id;
  changed();
}

async function loadRuns() {
  const { runs, roots } = await ask("/api/runs");
  const fresh = runs.filter((run) => !state.runs.some((old) => old.id === run.id));
  if (!state.runs.length) { // at first: running ones, and the six newest
    const wanted = [...runs].sort((a, b) => b.live - a.live || b.modified - a.modified).filter((run, i) => run.live || i < 6);
    for (const run of wanted.slice(0, 12)) state.chosen.add(run.id);
  } else for (const run of fresh) if (run.live) state.chosen.add(run.id);
  state.runs = runs;
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
if (matchMedia("(max-width: 860px)").matches) byId("runs-box").open = false;
loadRuns().catch((error) => byId("main").replaceChildren(el("div", { className: "note" }, error.message)))
  .finally(() => { openView(); follow(); });
