// An answer token by token: each can be pointed at or reached with the arrow keys, and then tells its probability.

import {partsOf} from "./diff.js";
import {h} from "./dom.js";
import {percent, spoken, visible} from "./words.js";

const UNSURE = Math.log(0.5);

/** The tokens of one answer as a list box, in which the arrow keys move. */
export class TokenView {
  #tokens = [];
  #current = 0;

  constructor(card, label) {
    this.card = card;
    this.element = h("div", {
      class: "tokens",
      role: "listbox",
      "aria-orientation": "horizontal",
      "aria-label": label,
      onkeydown: (event) => this.#move(event),
      onfocusin: (event) => this.#focused(event.target),
      onfocusout: () => card.leave(),
      onpointerover: (event) => this.#pointed(event.target),
      onpointerleave: () => card.leaveSoon(),
    });
  }

  /** Show what has come of an answer since the last call; its words where the server told no tokens. */
  show(answer) {
    const told = answer.tokens.length > 0;
    const before = this.element.childElementCount;
    // Tokens stay as they are; the last word may still grow.
    const kept = told ? before : Math.max(0, before - 1);
    while (this.element.childElementCount > kept) this.element.lastChild.remove();
    this.#tokens = told ? answer.tokens : partsOf(answer).map((text) => ({text, logprob: null, others: []}));
    this.element.append(...this.#tokens.slice(kept).map((token, place) => made(token, kept + place === this.#current)));
    if (told && answer.finish === "stop") {
      const last = answer.tokens.at(-1).text;
      this.element.lastChild.classList.toggle("end", !answer.text.endsWith(last));
    }
  }

  /** Mark the tokens that the other answer has not. */
  mark(same) {
    [...this.element.children].forEach((element, place) => {
      const differs = same !== null && same[place] === false;
      element.classList.toggle("differs", differs);
      element.setAttribute("aria-label", label(this.#tokens[place], differs));
    });
  }

  #placeOf(element) {
    const token = element.closest(".token");
    return token === null ? -1 : [...this.element.children].indexOf(token);
  }

  #focused(target) {
    const place = this.#placeOf(target);
    if (place < 0) return;
    this.element.children[this.#current]?.setAttribute("tabindex", "-1");
    this.#current = place;
    this.element.children[place].setAttribute("tabindex", "0");
    this.card.show(this.element.children[place], this.#tokens[place]);
  }

  #pointed(target) {
    const place = this.#placeOf(target);
    if (place >= 0) this.card.show(this.element.children[place], this.#tokens[place]);
  }

  #move(event) {
    const last = this.element.children.length - 1;
    const places = {
      ArrowRight: this.#current + 1,
      ArrowDown: this.#current + 1,
      ArrowLeft: this.#current - 1,
      ArrowUp: this.#current - 1,
      Home: 0,
      End: last,
    };
    if (!(event.key in places) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.element.children[Math.min(last, Math.max(0, places[event.key]))]?.focus();
  }
}

function made(token, first) {
  const classes = ["token"];
  if (token.logprob !== null && token.logprob < UNSURE) classes.push("unsure");
  if (token.text.includes("\n")) classes.push("line-end");
  return h(
    "span",
    {class: classes.join(" "), role: "option", tabindex: first ? "0" : "-1", "aria-label": label(token, false)},
    token.text,
  );
}

function label(token, differs) {
  const chance = token.logprob === null ? "" : `, ${percent(Math.exp(token.logprob))}`;
  return `${spoken(token.text)}${chance}${differs ? ", differs" : ""}`;
}

/** The card that tells a token's probability and what else could have come; one for the whole page. */
export class TokenCard {
  #token = null;
  #timer = 0;

  constructor(element) {
    this.element = element;
    element.addEventListener("pointerenter", () => clearTimeout(this.#timer));
    element.addEventListener("pointerleave", () => this.leaveSoon());
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || element.hidden) return;
      event.stopImmediatePropagation(); // this press is used up: it shall not stop an answer too
      this.leave();
    });
    document.addEventListener("scroll", () => this.#follow(), {capture: true, passive: true});
  }

  show(token, about) {
    clearTimeout(this.#timer);
    this.#token?.removeAttribute("aria-describedby");
    this.#token = token;
    token.setAttribute("aria-describedby", this.element.id);
    this.element.replaceChildren(...contents(about));
    this.element.hidden = false;
    this.#place(token);
  }

  leave() {
    clearTimeout(this.#timer);
    this.#token?.removeAttribute("aria-describedby");
    this.#token = null;
    this.element.hidden = true;
  }

  /** Give a pointer the time to reach the card itself. */
  leaveSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.leave(), 150);
  }

  /** Stay with the token while the page scrolls, as it does when the arrow keys lead out of sight. */
  #follow() {
    if (this.#token === null) return;
    const {top, bottom} = this.#token.getBoundingClientRect();
    if (bottom < 0 || top > innerHeight) this.leave();
    else this.#place(this.#token);
  }

  #place(token) {
    // Of a token that goes over the end of a line, the part on the second line is its letters.
    const at = [...token.getClientRects()].at(-1) ?? token.getBoundingClientRect();
    const {offsetWidth: width, offsetHeight: height} = this.element;
    const below = at.bottom + 6;
    const top = below + height > innerHeight ? Math.max(4, at.top - height - 6) : below;
    this.element.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
    this.element.style.top = `${top}px`;
  }
}

function contents({text, logprob, others}) {
  if (logprob === null) return [h("p", {}, "The server told no probability of this token.")];
  const rows = others.some(([other]) => other === text) ? others : [...others, [text, logprob]];
  return [
    h(
      "table",
      {},
      h("caption", {class: "unseen"}, "The likeliest tokens here"),
      rows.map(([other, chance]) => row(other, Math.exp(chance), other === text)),
    ),
  ];
}

function row(text, share, chosen) {
  const bar = h("span", {class: "bar"});
  bar.style.setProperty("--share", share);
  return h(
    "tr",
    {class: chosen ? "taken" : null},
    h("th", {scope: "row"}, h("code", {}, visible(text)), chosen ? h("span", {class: "unseen"}, " (chosen)") : null),
    h("td", {class: "chance"}, percent(share)),
    h("td", {"aria-hidden": "true"}, bar),
  );
}
