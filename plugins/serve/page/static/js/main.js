// The page. From here: conversation.js (what was said), request.js (what is asked), answer.js (what comes),
// transcript.js (how it looks), library.js (what is kept); models.js and settings.js (what is asked, and how).

import {newAnswer, receive} from "./answer.js";
import {addTurn, messagesUntil, newConversation, show, titleOf} from "./conversation.js";
import {byId, h} from "./dom.js";
import {Library} from "./library.js";
import {Chooser, Models, requestName} from "./models.js";
import {Notices} from "./notices.js";
import {Panel} from "./panel.js";
import {makeRequest, SettingError} from "./request.js";
import {apiKey} from "./server.js";
import {lastSettings, SettingsForm} from "./settings.js";
import {startTheme} from "./theme.js";
import {TokenCard} from "./tokens.js";
import {Transcript} from "./transcript.js";

const LAST_MODELS = "polyllama-models";
const LOOK = 1000; // milliseconds between looks at the memory while answers are written

class Page {
  conversation = null;
  running = null; // what ends the answers that are being written
  tokens = false;

  constructor() {
    const others = [byId("main"), byId("bar")];
    this.notices = new Notices();
    this.models = new Models();
    this.library = new Library(this, this.notices);
    this.transcript = new Transcript(byId("transcript"), new TokenCard(byId("token-card")), this.actions());
    this.form = new SettingsForm(() => this.settingsChanged());
    this.choosers = ["Model", "Second model"].map((what) => new Chooser(what, this.models, () => this.modelsChanged()));
    byId("choosers").append(...this.choosers.map((chooser) => chooser.element));
    this.side = new Panel({panel: byId("side"), button: byId("open-side"), others, open: innerWidth > 1100});
    this.settings = new Panel({panel: byId("settings"), button: byId("open-settings"), others, open: false});
    startTheme(byId("theme"));
    this.listen();
  }

  /** What turns can have done. */
  actions() {
    return {
      edit: (turn, text) => this.ask(turn.parent, text),
      retry: (turn) => this.ask(turn.parent, turn.user),
      show: (turn) => {
        show(this.conversation, turn);
        this.library.keep(this.conversation);
        this.draw();
      },
      enterKey: () => this.settings.open(byId("api-key")),
      goOnAsText: (turn) => {
        this.conversation.settings.mode = "text";
        this.form.show(this.conversation.settings);
        this.ask(turn.parent, turn.user);
      },
      announce: (text) => this.notices.say(text),
      problem: (text) => this.notices.problem(text),
    };
  }

  listen() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    byId("message").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    byId("stop").addEventListener("click", () => this.stop());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
    });
    byId("new").addEventListener("click", () => this.begin());
    byId("compare").addEventListener("click", () => this.toggleSecond());
    byId("tokens").addEventListener("click", () => this.showTokens(!this.tokens));
    byId("api-key").value = apiKey.value;
    byId("api-key").addEventListener("change", (event) => {
      apiKey.value = event.target.value.trim();
      this.refresh();
    });
  }

  async start() {
    await this.library.load();
    this.begin();
    await this.refresh();
    if (!this.settings.panel.contains(document.activeElement)) byId("message").focus();
  }

  /** Ask the server about its models again. */
  async refresh() {
    try {
      await this.models.refresh();
    } catch (error) {
      if (error.status === 401) this.settings.open(byId("api-key"));
      this.notices.problem(error.message);
      return;
    }
    const [first] = this.conversation.models;
    if (!first.name || (!this.conversation.leaf && !this.models.names.includes(first.name))) {
      Object.assign(first, {name: this.models.names[0] ?? "", backend: ""});
    }
    if (this.models.goesOnOnly(first) && !this.conversation.leaf && this.conversation.settings.mode === "chat") {
      this.conversation.settings.mode = "text";
      this.form.show(this.conversation.settings);
    }
    this.drawModels();
  }

  /** Begin a new conversation, with the settings and models that were last used. */
  begin() {
    if (this.running) return;
    const {settings, models} = this.conversation ?? {settings: lastSettings(), models: lastModels()};
    this.open(newConversation(settings, models));
    this.enter();
  }

  /** Go to where one writes. */
  enter() {
    this.side.makeRoom();
    byId("message").focus();
  }

  /** Show a conversation, and write into it from now on. */
  open(conversation) {
    const same = conversation.id === this.conversation?.id;
    this.conversation = conversation;
    if (!conversation.models.length) conversation.models = lastModels();
    this.tokens = same ? this.tokens : conversation.models.length > 1;
    this.form.show(conversation.settings);
    this.draw();
  }

  draw() {
    this.drawModels();
    byId("tokens").setAttribute("aria-pressed", String(this.tokens));
    this.transcript.show(this.conversation, this.tokens);
    this.library.draw();
    byId("welcome").hidden = this.conversation.leaf !== null;
    keepFocus();
    document.title = this.conversation.leaf ? `${titleOf(this.conversation)} – polyllama` : "polyllama";
    this.drawRunning();
    scrollToEnd();
  }

  drawModels() {
    const {models, settings} = this.conversation;
    const two = models.length > 1;
    byId("compare").setAttribute("aria-pressed", String(two));
    this.choosers.forEach((chooser, place) => {
      chooser.element.hidden = place >= models.length;
      if (place < models.length) chooser.show(models[place]);
    });
    this.drawMemory();
    const text = settings.mode === "text";
    byId("message").placeholder = text ? "A text to go on with" : "Message";
    byId("text-hint").hidden = !text;
    byId("text-hint").textContent = `${requestName(models[0])} goes on with your text instead of answering it. `
      + (this.models.goesOnOnly(models[0]) ? "It has no chat template." : "The settings say so.");
  }

  drawRunning() {
    const running = this.running !== null;
    byId("stop").hidden = !running;
    byId("send").hidden = running;
    keepFocus();
    byId("new").disabled = running;
    const choosing = document.querySelectorAll("#choosers :is(select, input), #compare");
    for (const control of choosing) control.disabled = running;
    this.transcript.busy = running;
  }

  settingsChanged() {
    this.drawModels();
    this.library.keep(this.conversation);
  }

  modelsChanged() {
    localStorage.setItem(LAST_MODELS, JSON.stringify(this.conversation.models));
    this.drawModels();
    this.library.keep(this.conversation);
  }

  toggleSecond() {
    const {models} = this.conversation;
    if (models.length > 1) models.pop();
    else models.push(secondOf(models[0], this.models));
    this.modelsChanged();
    this.showTokens(models.length > 1);
  }

  showTokens(tokens) {
    this.tokens = tokens;
    byId("tokens").setAttribute("aria-pressed", String(tokens));
    this.transcript.show(this.conversation, tokens);
    this.drawRunning();
  }

  send() {
    const field = byId("message");
    if (this.running || !field.value.trim()) return;
    if (this.ask(this.conversation.leaf, field.value)) field.value = "";
  }

  /** Ask every model of the conversation, after a turn; says whether it could be asked. */
  ask(parent, text) {
    const {conversation} = this;
    const wrong = this.form.wrong();
    if (wrong) {
      this.settings.open(wrong.control);
      this.notices.problem(wrong.message);
      return false;
    }
    const before = conversation.leaf;
    const turn = addTurn(conversation, parent, text);
    try {
      turn.answers = conversation.models.map((model) => newAnswer(requestName(model)));
      const asked = turn.answers.map((answer, column) =>
        makeRequest(answer.model, messagesUntil(conversation, turn, column), conversation.settings));
      this.run(turn.answers, asked);
      return true;
    } catch (error) {
      if (!(error instanceof SettingError)) throw error;
      delete conversation.turns[turn.id];
      conversation.leaf = before;
      this.settings.open(this.form.form.elements[error.field]);
      this.notices.problem(error.message);
      return false;
    }
  }

  async run(answers, asked) {
    const ending = new AbortController();
    this.running = ending;
    this.library.keep(this.conversation);
    this.draw();
    this.notices.say(answers.length > 1 ? "Both models are answering" : `${answers[0].model} is answering`);
    const looking = setInterval(() => this.lookAtMemory(), LOOK);
    const coming = answers.map((answer, place) =>
      receive(answer, asked[place], ending.signal, () => this.came(answer)));
    await Promise.all(coming);
    clearInterval(looking);
    this.running = null;
    this.conversation.changed = Date.now();
    this.library.keep(this.conversation);
    this.drawRunning();
    await this.lookAtMemory();
    this.notices.say(answers.map(spokenAnswer).join(" "));
  }

  came(answer) {
    const atEnd = isAtEnd();
    this.transcript.update(answer);
    if (atEnd) scrollToEnd();
  }

  stop() {
    this.running?.abort();
  }

  async lookAtMemory() {
    try {
      await this.models.look();
    } catch {
      return; // the answers tell what is wrong with the server; the figures stay as they were
    }
    this.drawMemory();
  }

  drawMemory() {
    const known = this.conversation.models.filter((model) => model.name);
    byId("memory").replaceChildren(...known.map((model) => h("span", {}, this.models.describe(model))));
  }
}

function lastModels() {
  try {
    const kept = JSON.parse(localStorage.getItem(LAST_MODELS));
    if (kept.length && kept.every(({name, backend}) => typeof name === "string" && typeof backend === "string")) {
      return kept.slice(0, 2);
    }
  } catch {
    // nothing was kept, or an older page kept it otherwise
  }
  return [{name: "", backend: ""}];
}

/** What to compare with at first: another model, else the same on another backend. */
function secondOf(first, models) {
  const other = models.names.find((name) => name !== first.name);
  if (other) return {name: other, backend: ""};
  const here = models.loaded(first)?.backend ?? first.backend;
  const backend = models.backends.find(({name, usable}) => usable && name !== here)?.name ?? "";
  return {name: first.name, backend};
}

function spokenAnswer(answer) {
  if (answer.state === "failed") return `${answer.model} could not answer: ${answer.error}.`;
  return `${answer.model}${answer.state === "stopped" ? ", stopped" : ""}: ${answer.text}`;
}

/** Where the element that one was at is gone, go to the message; not by touch, where that opens a keyboard. */
function keepFocus() {
  const {activeElement} = document;
  const lost = activeElement === document.body || activeElement?.offsetParent === null;
  if (lost && matchMedia("(pointer: fine)").matches) byId("message").focus();
}

function isAtEnd() {
  const {scrollHeight, scrollTop, clientHeight} = byId("scroll");
  return scrollHeight - scrollTop - clientHeight < 60;
}

function scrollToEnd() {
  byId("scroll").scrollTop = byId("scroll").scrollHeight;
}

new Page().start();
