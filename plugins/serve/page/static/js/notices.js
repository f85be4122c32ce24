// What the page says: problems and offers that stay until they are put away, and words for screen readers.

import {byId, h, iconButton} from "./dom.js";

const SHORT = 6000; // milliseconds that a remark stays

export class Notices {
  #area = byId("notices");
  #status = byId("status");

  /** Say what happens, to screen readers; the page shows it already. */
  say(text) {
    this.#status.textContent = text;
  }

  /** Say something that the page shows in no other way, for a while. */
  remark(text) {
    const notice = this.#notice(text, "remark");
    this.say(text);
    setTimeout(() => notice.remove(), SHORT);
  }

  /** Something did not work. The same problem again is shown once. */
  problem(text) {
    for (const one of this.#area.children) if (one.dataset.text === text) one.remove();
    const notice = this.#notice(text, "problem");
    notice.setAttribute("role", "alert");
  }

  /** Something was done that can be undone. */
  offer(text, what, action) {
    const notice = this.#notice(text, "offer", h("button", {type: "button", onclick: () => {
      notice.remove();
      action();
    }}, what));
    this.say(text);
    setTimeout(() => {
      if (!notice.contains(document.activeElement)) notice.remove();
    }, 2 * SHORT);
  }

  #notice(text, kind, ...more) {
    const notice = h("div", {class: `notice ${kind}`, "data-text": text}, h("span", {}, text), more);
    notice.append(iconButton("close", "Put away", () => notice.remove()));
    this.#area.append(notice);
    return notice;
  }
}
