// Playing the real environment: keys and buttons send messages over a websocket, each is answered with what is seen now.
import { byId, el, short, startTheme } from "./common.js";
import { controlRows, isSimple, keyList, noteAnswer, session, showMessage, stepOf } from "./session.js";

let info = null, moment = null, running = false, timer = 0, over = false;
let picked = []; // the selected index of each choice, and the values of each group of sliders
const held = []; // codes of the keys that are down, the newest last

const link = session("/api/human", {
  opened: () => say({ do: "start" }), take,
  closed: () => { stop(); return over ? "" : "The connection is closed: reverie record has ended. Whole episodes are written."; },
});
const { say } = link;

function take(answer) {
  if (answer.type === "error") { stop(); showMessage([answer.message, answer.hint].filter(Boolean).join(" ")); return; }
  showMessage("");
  if (answer.type === "started") { info = answer; byId("task").textContent = info.task; drawControls(); }
  moment = answer;
  over = answer.done;
  if (moment.ended) stop();
  draw();
  noteAnswer(answer.step);
}

function draw() {
  const image = byId("image");
  image.hidden = !moment.image;
  if (moment.image) image.src = moment.image;
  byId("reward").textContent = short(moment.reward); byId("score").textContent = short(moment.score); byId("count").textContent = `${moment.step}`;
  byId("step").textContent = over ? "saved: you may close this page" : moment.ended ? "the episode has ended" : moment.step ? `step ${moment.step}` : "a new episode";
  byId("ended").textContent = moment.ended ? (moment.terminal ? "by the task" : "by a time limit") : "";
  byId("kept").textContent = `${moment.kept} of ${moment.episodes} episodes kept`;
  byId("next").disabled = over || !moment.ended; byId("run").disabled = over || moment.ended;
  byId("discard").disabled = byId("finish").disabled = over;
  byId("next").classList.toggle("main", moment.ended && !over); byId("run").classList.toggle("main", !moment.ended);
  const entries = Object.entries(moment.vectors);
  byId("vectors-card").hidden = !entries.length;
  byId("vectors").replaceChildren(...entries.flatMap(([key, values]) => values.slice(0, 24).map((value, i) => el("div", { className: "prob" }, el("span", {}, values.length > 1 ? `${key} ${i}` : key), el("span", {}), el("span", { className: "right" }, short(value))))));
  if (simple()) for (const button of byId("controls").querySelectorAll("button")) button.disabled = over || moment.ended || Boolean(moment.mask && !moment.mask[+button.dataset.k]);
}

// ---------------------------------------------------------------------------------------------------------- controls

const simple = () => isSimple(info.controls);

function drawControls() {
  picked = info.controls.map((control, i) => (control.kind === "choice" ? info.rests[i] ?? 0 : control.names.map(() => 0)));
  byId("controls").replaceChildren(...controlRows(info.controls, {
    choose, slide: (part, k, value) => { picked[part][k] = value; }, step: () => { stop(); act(); }, main: false,
  }));
  markPicked();
  byId("help").replaceChildren(...keyList([["arrows, WASD, 1–9", "act"], ["P", "by the clock"], ["N", "keep, next"], ["X", "discard"]]),
    el("p", { className: "dim" }, "Each key is one step. By the clock, the key that is held acts at every tick; without one, an action that does nothing where the task has it, else the last one. An episode counts when it has ended."));
}

function markPicked() {
  for (const button of byId("controls").querySelectorAll(".choices button")) button.classList.toggle("picked", (!simple() || running) && picked[+button.dataset.part] === +button.dataset.k);
}

function choose(part, k) { picked[part] = k; markPicked(); if (simple() && !running) act(); }

function act() {
  if (!info || over || link.waits() > 2) return; // a held key must not fill the queue
  byId("action").textContent = info.controls.map((control, i) => (control.kind === "choice" ? control.names[picked[i]] : "")).filter(Boolean).join(", ");
  say(stepOf(info.controls, picked));
}

const partOf = (code) => info.controls.findIndex((control) => control.kind === "choice" && code in control.keys);

function tick() {
  const code = held.at(-1), part = code ? partOf(code) : -1;
  info.controls.forEach((control, i) => { if (control.kind === "choice" && info.rests[i] !== null) picked[i] = info.rests[i]; });
  if (part >= 0) picked[part] = info.controls[part].keys[code];
  markPicked();
  if (link.idle()) act();
  timer = setTimeout(tick, 1000 / byId("fps").value);
}
function stop() { running = false; clearTimeout(timer); byId("run").textContent = "▶ by the clock"; if (info) markPicked(); }
function toggle() { if (running) { stop(); return; } if (over || moment.ended) return; running = true; byId("run").textContent = "⏸ pause"; tick(); }

const ACTIONS = { run: toggle, next: () => { if (moment.ended) say({ do: "next" }); }, discard: () => { stop(); say({ do: "discard" }); }, finish: () => { stop(); say({ do: "finish" }); } };
const KEYS = { KeyP: "run", KeyN: "next", KeyX: "discard" };

function down(event) {
  const slider = event.target.type === "range"; // uses the arrow keys itself
  if (!info || over || event.ctrlKey || event.metaKey || event.altKey || (slider && /^(Arrow|Home|End|Page)/.test(event.code))) return;
  const part = partOf(event.code);
  if (part >= 0) {
    event.preventDefault();
    if (!held.includes(event.code)) held.push(event.code);
    if (!running) { picked[part] = info.controls[part].keys[event.code]; markPicked(); act(); }
    return;
  }
  if (event.code === "Enter" && !simple() && event.target.tagName !== "BUTTON") { event.preventDefault(); act(); return; }
  if (KEYS[event.code] && !event.repeat) { event.preventDefault(); ACTIONS[KEYS[event.code]](); }
}

startTheme(byId("theme"));
for (const [id, run] of Object.entries(ACTIONS)) byId(id).addEventListener("click", () => { if (info) run(); byId(id).blur(); });
byId("fps").addEventListener("input", () => { byId("fps-text").textContent = byId("fps").value; });
byId("fps").addEventListener("change", () => byId("fps").blur()); // so that keys go to the environment again
addEventListener("keydown", down);
addEventListener("keyup", (event) => { const at = held.indexOf(event.code); if (at >= 0) held.splice(at, 1); });
addEventListener("blur", () => { held.length = 0; });
link.open();
