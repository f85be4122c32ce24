// The turns of a conversation on the page.

import {AnswerView} from "./answer-view.js";
import {path, versions} from "./conversation.js";
import {compare, partsOf} from "./diff.js";
import {h, icon, iconButton} from "./dom.js";
import {percent} from "./words.js";

/** All turns of the conversation that is open. */
export class Transcript {
  #turns = [];

  /**
   * `actions`: what turns can have done: edit(turn, text), retry(turn), show(turn), enterKey(), goOnAsText(turn),
   * announce(text).
   */
  constructor(element, card, actions) {
    Object.assign(this, {element, card, actions});
  }

  /** Show a conversation; with `tokens` its answers token by token. */
  show(conversation, tokens) {
    this.#turns = path(conversation).map((turn) => {
      const how = {card: this.card, tokens, plain: turn.settings.mode === "text"};
      return new TurnView(turn, versions(conversation, turn), how, this.actions);
    });
    this.element.replaceChildren(...this.#turns.map((view) => view.element));
  }

  /** Show what has come of an answer. */
  update(answer) {
    for (const turn of this.#turns) turn.update(answer);
  }

  /** Allow or forbid what changes turns, while an answer is written. */
  set busy(busy) {
    this.element.classList.toggle("busy", busy);
    for (const button of this.element.querySelectorAll(".tools button")) button.disabled = busy;
  }
}

class TurnView {
  constructor(turn, versions, how, actions) {
    Object.assign(this, {turn, actions});
    const own = {...actions, goOnAsText: () => actions.goOnAsText(turn)};
    this.answers = turn.answers.map((answer) => new AnswerView(answer, {...how, actions: own}));
    this.said = h("div", {class: how.plain ? "said plain" : "said"}, turn.user);
    this.difference = h("p", {class: "difference", hidden: true});
    this.element = h(
      "article",
      {class: this.answers.length > 1 ? "turn compared" : "turn"},
      h("h2", {class: "unseen"}, how.plain ? "Your text" : "You"),
      this.said,
      h("div", {class: "answers"}, this.answers.map((view) => view.element)),
      this.difference,
      this.#tools(versions),
    );
    this.#compare();
  }

  update(answer) {
    const view = this.answers.find((one) => one.answer === answer);
    if (!view) return;
    view.update();
    if (view.ended) this.#compare();
  }

  /** Mark where two answers differ, once both are there. */
  #compare() {
    const [left, right] = this.answers;
    if (!right || ![left, right].every((view) => view.ended && view.answer.text)) return;
    const parts = [left, right].map((view) => partsOf(view.answer));
    const {same, first} = compare(...parts);
    [left, right].forEach((view, place) => view.tokens?.mark(same[place]));
    this.difference.hidden = false;
    const words = h("span", {}, inWords(parts, same, first, left));
    this.difference.replaceChildren(icon(first === null ? "same" : "differs"), words);
  }

  #tools(versions) {
    const {turn, actions} = this;
    const here = versions.findIndex((other) => other.id === turn.id);
    const turning = versions.length > 1 && [
      iconButton("back", "The version before", () => actions.show(versions[here - 1]), {disabled: here === 0}),
      h("span", {class: "place"}, h("span", {class: "unseen"}, "Version "), `${here + 1} of ${versions.length}`),
      iconButton("forward", "The version after", () => actions.show(versions[here + 1]), {
        disabled: here === versions.length - 1,
      }),
    ];
    return h(
      "div",
      {class: "tools"},
      turning,
      iconButton("edit", "Edit what you said", () => this.#edit()),
      iconButton("retry", "Ask again", () => actions.retry(turn)),
      iconButton("copy", "Copy the answer", () => this.#copy()),
    );
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.turn.answers.map((answer) => answer.text).join("\n\n---\n\n"));
      this.actions.announce("Copied");
    } catch {
      this.actions.problem("the browser does not let this page copy");
    }
  }

  #edit() {
    const rows = Math.min(12, this.turn.user.split("\n").length + 1);
    const text = h("textarea", {"aria-label": "What you said", rows});
    text.value = this.turn.user;
    const back = () => {
      form.replaceWith(this.said);
      this.element.querySelector(".tools button[aria-label^=Edit]").focus();
    };
    const form = h(
      "form",
      {
        class: "edit",
        onsubmit: (event) => {
          event.preventDefault();
          if (text.value.trim()) this.actions.edit(this.turn, text.value);
        },
        onkeydown: (event) => {
          if (event.key === "Escape") back();
          else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            form.requestSubmit();
          }
        },
      },
      text,
      h("button", {type: "submit", class: "primary"}, "Send"),
      h("button", {type: "button", onclick: back}, "Cancel"),
    );
    this.said.replaceWith(form);
    text.focus();
  }
}

function inWords(parts, same, first, view) {
  if (first === null) return "Both answers are the same.";
  const noun = view.answer.tokens.length ? "token" : "word";
  const shared = same[0].filter(Boolean).length + same[1].filter(Boolean).length;
  const share = percent(shared / (parts[0].length + parts[1].length));
  return `The answers part at ${noun} ${first + 1}; ${share} of their ${noun}s are the same.`;
}
