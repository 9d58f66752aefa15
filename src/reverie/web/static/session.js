// Shared by the pages that are played: messages over a websocket, one at a time, and the controls of an action.
import { byId, el } from "./common.js";

/**
 * A websocket that sends one message and waits for its answer before the next. opened(), take(answer), and closed() -> the
 * sentence to show, "" for none. -> {say(message), clear(): forget what waits, waits() -> how many, idle(): is nothing under way?, open()}
 */
export function session(path, { opened, take, closed }) {
  let socket = null, waiting = false, queue = [];
  function send() {
    if (waiting || !queue.length || !socket || socket.readyState !== WebSocket.OPEN) return;
    waiting = true;
    socket.send(JSON.stringify(queue.shift()));
  }
  return {
    say(message) { queue.push(message); send(); },
    clear() { queue = []; },
    waits: () => queue.length,
    idle: () => !queue.length && !waiting,
    open() {
      socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`);
      socket.addEventListener("open", opened);
      socket.addEventListener("message", (event) => {
        waiting = false;
        take(JSON.parse(event.data));
        send();
      });
      socket.addEventListener("close", () => { const text = closed(); if (text && byId("message").hidden) showMessage(text); });
    },
  };
}

export function showMessage(text) { byId("message").textContent = text; byId("message").hidden = !text; }

/** For tests: which step is shown, and how many answers came. */
export function noteAnswer(step) {
  document.body.dataset.step = step;
  document.body.dataset.answers = +(document.body.dataset.answers || 0) + 1;
}

// ---------------------------------------------------------------------------------------------------------- controls

const KEY_NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "space", Enter: "enter" };
const shown = (code) => KEY_NAMES[code] || code.replace(/^(Digit|Key)/, "");

/** Is the whole action one choice? Then a key or a button is a step. */
export const isSimple = (controls) => controls.length === 1 && controls[0].kind === "choice";

/** Buttons and sliders of an action. choose(part, k), slide(part, k, value), step(): of the button below several parts. */
export function controlRows(controls, { choose, slide, step, main }) {
  const rows = controls.map((control, part) => {
    if (control.kind === "choice") {
      const keys = (k) => Object.entries(control.keys).filter(([, index]) => index === k).map(([code]) => code).sort((a, b) => a.startsWith("Key") - b.startsWith("Key") || a.startsWith("Digit") - b.startsWith("Digit"));
      return el("div", { className: "choices" }, ...control.names.map((name, k) => el("button", { type: "button", data: { part, k }, on: { click: () => choose(part, k) } }, name, ...keys(k).slice(0, 1).map((code) => el("kbd", {}, shown(code))))));
    }
    return el("div", { className: "stack" }, ...control.names.map((name, k) => {
      const output = el("output", {}, "0.00"), slider = el("input", { type: "range", min: -1, max: 1, step: 0.05, value: 0, data: { part, k }, on: { input: () => { slide(part, k, +slider.value); output.textContent = (+slider.value).toFixed(2); } } });
      slider.setAttribute("aria-label", name);
      return el("div", { className: "slider" }, el("span", {}, name), slider, output);
    }));
  });
  return isSimple(controls) ? rows : [...rows, el("div", { className: "bar" }, el("button", { type: "button", className: main ? "main" : "", id: "go", on: { click: step } }, "step with this action", el("kbd", {}, "enter")))];
}

/** The message of a step from what is selected: the index of each choice, and the values of all sliders. */
export const stepOf = (controls, picked) => ({ do: "step", choices: picked.filter((_, i) => controls[i].kind === "choice"), numbers: picked.filter((_, i) => controls[i].kind === "numbers").flat() });

/** The list of keys. [[key, what it does], ...] */
export const keyList = (keys) => [el("h3", {}, "Keys"), el("div", { className: "keys" }, ...keys.map(([key, what]) => el("span", {}, el("kbd", {}, key), what)))];
