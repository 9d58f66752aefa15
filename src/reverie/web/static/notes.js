// The dialog of one run: its note and tags, hiding it, and deleting it after a question.
import { ask, el, short } from "./common.js";

/** Open it; `done()` is called after a change. */
export function edit(run, done) {
  const note = el("textarea", { rows: 4, maxLength: 2000, value: run.note, placeholder: "what was tried, what came of it" });
  const tags = el("input", { type: "text", value: run.tags.join(", "), placeholder: "baseline, paper" }), failed = el("p", { className: "failed", hidden: true });
  const box = el("dialog", { className: "edit", ariaLabel: `Note and tags of ${run.name}` }), close = () => { box.close(); box.remove(); };
  const say = (error) => { failed.textContent = error.message; failed.hidden = false; };
  const act = async (path, values) => {
    try { const answer = await ask(`/api/runs/${run.id}/${path}`, "POST", { name: run.name, ...values }); await done(); return answer; } catch (error) { say(error); return null; }
  };
  const button = (text, click, className = "") => el("button", { type: "button", className, on: { click } }, text);
  const keep = async () => { if (await act("notes", { note: note.value, tags: tags.value.split(",").map((tag) => tag.trim()).filter(Boolean) })) close(); };
  const hide = async () => { if (await act("notes", { hidden: !run.hidden })) close(); };
  const really = el("div", { className: "really", hidden: true },
    el("p", {}, el("b", {}, `Delete ${run.name} from the disk?`), ` Its ${short(run.env_steps)} steps of logs, checkpoints, replay and videos are removed; nothing brings them back. Files that are not Reverie's stay.`),
    el("div", { className: "bar" }, button("delete for good", remove, "danger"), button("keep it", () => { really.hidden = true; })));
  async function remove() {
    const answer = await act("delete", {});
    if (!answer) return;
    if (!answer.left.length) close();
    else box.replaceChildren(el("p", {}, `${run.name} is deleted. What is not Reverie's is still there: ${answer.left.slice(0, 8).join(", ")}.`), button("close", close));
  }
  box.append(el("h2", {}, run.name), el("label", {}, "note", note), el("label", {}, "tags, with commas between", tags), failed,
    el("div", { className: "bar" }, button("save", keep, "main"), button("cancel", close), el("span", { className: "grow" }), button(run.hidden ? "show again" : "hide", hide), button("delete …", () => { really.hidden = false; }, "danger")), really);
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}
