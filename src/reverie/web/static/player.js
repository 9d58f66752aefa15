// A GIF with a pause button: it runs as it is until the button is pressed; then its frames come as one sheet.
import { ask, el } from "./common.js";

/** src: of the GIF; sheet: path of its frames; alt: what it shows. -> an element. */
export function player(src, sheet, alt) {
  const shown = el("img", { src, loading: "lazy", alt }), button = el("button", { type: "button", title: "Pause" }, "❚❚ pause"), label = el("output", { className: "dim small" });
  const bar = el("input", { type: "range", min: 0, max: 0, value: 0, ariaLabel: "Frame", hidden: true }), box = el("div", { className: "player-box" }, shown, el("div", { className: "bar" }, button, bar, label));
  let frames = null, image = null, canvas = null, at = 0, timer = 0, began = performance.now();
  shown.addEventListener("load", () => { began = performance.now(); });

  function draw() {
    const { width, height, columns, ms } = frames;
    canvas.getContext("2d").drawImage(image, at % columns * width, Math.floor(at / columns) * height, width, height, 0, 0, width, height);
    bar.value = at;
    label.textContent = `frame ${at + 1} of ${ms.length}`;
  }
  function run() { draw(); timer = setTimeout(() => { at = (at + 1) % frames.ms.length; if (box.isConnected) run(); }, frames.ms[at]); }
  function pause() { clearTimeout(timer); timer = 0; button.textContent = "▶ play"; button.title = "Play"; }

  /** The frame that the GIF shows now, if it began when it was loaded. */
  function current(ms) {
    let rest = (performance.now() - began) % ms.reduce((a, b) => a + b, 0), i = 0;
    while (i < ms.length - 1 && rest >= ms[i]) rest -= ms[i++];
    return i;
  }
  async function load() {
    const asked = performance.now(), found = await ask(sheet), loaded = new Image();
    began += performance.now() - asked; // the moment of the click counts
    loaded.src = found.image;
    await loaded.decode();
    frames = found; image = loaded; at = current(frames.ms);
    canvas = el("canvas", { width: frames.width, height: frames.height, role: "img", ariaLabel: alt });
    bar.max = frames.ms.length - 1; bar.hidden = false;
    shown.replaceWith(canvas);
  }
  button.addEventListener("click", async () => {
    try {
      if (!frames) { await load(); pause(); draw(); return; }
      if (timer) pause(); else { button.textContent = "❚❚ pause"; button.title = "Pause"; run(); }
    } catch (error) { label.textContent = error.message; }
  });
  bar.addEventListener("input", () => { pause(); at = +bar.value; draw(); });
  return box;
}
