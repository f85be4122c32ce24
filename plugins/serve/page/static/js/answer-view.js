// One answer on the page: as text or as tokens, with how fast it came or what went wrong.

import {speed} from "./answer.js";
import {h, icon} from "./dom.js";
import {fromMarkdown} from "./markdown.js";
import {TokenView} from "./tokens.js";
import {count, duration} from "./words.js";

const FINISHES = {stop: null, length: "token limit reached", tool_calls: "called a tool"};
const OFTEN = 80; // milliseconds between drawings of markdown, which is read anew each time

/** The element of an answer, which follows it. */
export class AnswerView {
  #drawn = 0;
  #timer = 0;

  constructor(answer, {card, actions, tokens, plain}) {
    this.answer = answer;
    this.plain = plain;
    this.tokens = tokens ? new TokenView(card, `Answer of ${answer.model}, token by token`) : null;
    this.actions = actions;
    this.text = this.tokens?.element ?? h("div", {class: plain ? "text plain" : "text"});
    this.foot = h("p", {class: "foot"});
    this.element = h("section", {class: "answer"}, h("h3", {}, answer.model), this.text, this.foot);
    this.draw();
  }

  /** Show what has come, soon: several changes become one drawing. */
  update() {
    clearTimeout(this.#timer);
    const wait = Math.max(0, this.#drawn + OFTEN - performance.now());
    if (this.ended || wait === 0) this.draw();
    else this.#timer = setTimeout(() => this.draw(), wait);
  }

  get ended() {
    return !["waiting", "running"].includes(this.answer.state);
  }

  draw() {
    const {answer} = this;
    this.#drawn = performance.now();
    if (this.tokens) this.tokens.show(answer);
    else if (this.plain) this.text.textContent = answer.text;
    else this.text.replaceChildren(fromMarkdown(answer.text));
    this.text.hidden = !answer.text && !answer.tokens.length;
    this.element.classList.toggle("running", !this.ended);
    this.foot.replaceChildren(...this.#said());
  }

  #said() {
    const {answer} = this;
    if (answer.state === "waiting") return [h("span", {class: "waiting"}, "waiting for the first token …")];
    const found = [];
    if (answer.state === "failed") found.push(this.#problem());
    const words = statistics(answer);
    if (answer.state === "stopped") words.unshift("stopped");
    if (FINISHES[answer.finish] !== null && answer.finish) words.push(FINISHES[answer.finish] ?? answer.finish);
    if (words.length) found.push(h("span", {class: "statistics"}, words.join(" · ")));
    return found;
  }

  #problem() {
    const {answer, actions} = this;
    const more = [];
    if (answer.status === 401) {
      more.push(h("button", {type: "button", onclick: actions.enterKey}, "Enter the API key"));
    } else if (!this.plain && /chat template/.test(answer.error)) {
      more.push(h("button", {type: "button", onclick: actions.goOnAsText}, "Have it go on with the text instead"));
    }
    const words = h("span", {}, h("b", {}, "This did not work: "), answer.error);
    return h("span", {class: "problem"}, icon("alert"), words, more);
  }
}

function statistics(answer) {
  const number = answer.usage?.completion_tokens ?? answer.tokens.length;
  const words = [];
  if (number) words.push(count(number, "token"));
  const rate = speed(answer);
  if (rate !== null) words.push(`${rate < 10 ? rate.toFixed(1) : Math.round(rate)} tokens/s`);
  if (answer.first_seconds !== null) words.push(`first after ${duration(answer.first_seconds)}`);
  return words;
}
