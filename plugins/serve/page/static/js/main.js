// The page. From here: conversation.js (what was said), request.js (what is asked), answer.js (what comes),
// transcript.js (how it looks), store.js (where it is kept), models.js, settings.js, list.js at the sides.

import {newAnswer, receive} from "./answer.js";
import {addTurn, messagesUntil, newConversation, path, show, titleOf} from "./conversation.js";
import {byId, h} from "./dom.js";
import {download, exported, imported} from "./exchange.js";
import {ConversationList} from "./list.js";
import {Chooser, Models, requestName} from "./models.js";
import {Notices} from "./notices.js";
import {Panel} from "./panel.js";
import {makeRequest, SettingError} from "./request.js";
import {apiKey} from "./server.js";
import {lastSettings, SettingsForm} from "./settings.js";
import {Store} from "./store.js";
import {startTheme} from "./theme.js";
import {TokenCard} from "./tokens.js";
import {Transcript} from "./transcript.js";

const LAST_MODELS = "polyllama-models";
const LOOK = 1000; // milliseconds between looks at the memory while answers are written

class Page {
  conversation = null;
  conversations = [];
  running = null; // what ends the answers that are being written
  tokens = false;

  constructor() {
    const others = [byId("main"), byId("bar")];
    this.notices = new Notices();
    this.models = new Models();
    this.store = new Store((id) => this.changedElsewhere(id));
    this.transcript = new Transcript(byId("transcript"), new TokenCard(byId("token-card")), this.actions());
    this.list = new ConversationList(byId("conversations"), {
      open: (id) => this.openKept(id),
      rename: (id, title) => this.rename(id, title),
      remove: (id) => this.remove(id),
    });
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
        this.keep();
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
    byId("export").addEventListener("click", () => this.export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.import(event.target));
    byId("api-key").value = apiKey.value;
    byId("api-key").addEventListener("change", (event) => {
      apiKey.value = event.target.value.trim();
      this.refresh();
    });
  }

  async start() {
    try {
      this.conversations = await this.store.all();
    } catch (error) {
      this.notices.problem(`this browser keeps no conversations: ${error.message}`);
    }
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
    const state = this.models.loaded(first);
    if (state?.writes && !state.chats && !this.conversation.leaf && this.conversation.settings.mode === "chat") {
      this.conversation.settings.mode = "text";
      this.form.show(this.conversation.settings);
      this.notices.remark(`${first.name} has no chat template: it goes on with your text`);
    }
    this.drawModels();
  }

  /** Begin a new conversation, with the settings and models that were last used. */
  begin() {
    if (this.running) return;
    this.open(newConversation(this.conversation?.settings ?? lastSettings(), this.conversation?.models ?? lastModels()));
    this.side.makeRoom();
    byId("message").focus();
  }

  open(conversation) {
    this.conversation = conversation;
    this.tokens = conversation.models.length > 1;
    this.form.show(conversation.settings);
    this.draw();
  }

  openKept(id) {
    if (this.running) return this.notices.remark("An answer is being written; stop it first");
    this.open(this.conversations.find((one) => one.id === id));
    this.side.makeRoom();
    byId("message").focus();
  }

  draw() {
    this.drawModels();
    byId("tokens").setAttribute("aria-pressed", String(this.tokens));
    this.transcript.show(this.conversation, this.tokens);
    this.list.show(this.conversations, this.conversation.id);
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
    byId("memory").replaceChildren(...models.filter((one) => one.name).map((one) => h("span", {}, this.models.describe(one))));
    byId("message").placeholder = settings.mode === "text" ? "A text to go on with" : "Message";
  }

  drawRunning() {
    const running = this.running !== null;
    byId("stop").hidden = !running;
    byId("send").hidden = running;
    keepFocus();
    byId("new").disabled = running;
    for (const control of document.querySelectorAll("#choosers select, #choosers input, #compare")) control.disabled = running;
    this.transcript.busy = running;
  }

  settingsChanged() {
    this.drawModels();
    this.keep();
  }

  modelsChanged() {
    localStorage.setItem(LAST_MODELS, JSON.stringify(this.conversation.models));
    this.drawModels();
    this.keep();
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
    if (!this.conversations.includes(this.conversation)) this.conversations.unshift(this.conversation);
    this.keep();
    this.draw();
    this.notices.say(answers.length > 1 ? "Both models are answering" : `${answers[0].model} is answering`);
    const looking = setInterval(() => this.lookAtMemory(), LOOK);
    await Promise.all(answers.map((answer, place) => receive(answer, asked[place], ending.signal, () => this.came(answer))));
    clearInterval(looking);
    this.running = null;
    this.conversation.changed = Date.now();
    this.keep();
    this.drawRunning();
    this.lookAtMemory();
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
      await this.models.refresh();
    } catch {
      return; // the answers tell what is wrong with the server; the figures stay as they were
    }
    byId("memory").replaceChildren(...this.conversation.models.map((one) => h("span", {}, this.models.describe(one))));
  }

  /** Keep the conversation in the browser, once something was said in it. */
  async keep(conversation = this.conversation) {
    if (!Object.keys(conversation.turns).length) return;
    try {
      await this.store.put(conversation);
    } catch (error) {
      this.notices.problem(`the browser does not keep this conversation: ${error.message}`);
    }
  }

  rename(id, title) {
    const conversation = this.conversations.find((one) => one.id === id);
    conversation.title = title;
    this.keep(conversation);
    this.list.show(this.conversations, this.conversation.id);
    byId("conversations").querySelector("[aria-current]")?.focus();
  }

  async remove(id) {
    if (this.running && id === this.conversation.id) return this.notices.remark("An answer is being written; stop it first");
    const conversation = this.conversations.find((one) => one.id === id);
    await this.store.remove(id);
    this.conversations = this.conversations.filter((one) => one !== conversation);
    if (id === this.conversation.id) this.begin();
    else this.list.show(this.conversations, this.conversation.id);
    this.notices.offer(`Deleted “${titleOf(conversation)}”`, "Undo", () => {
      this.conversations.unshift(conversation);
      this.keep(conversation);
      this.list.show(this.conversations, this.conversation.id);
    });
  }

  export() {
    if (!this.conversations.length) return this.notices.remark("There is no conversation to export");
    const day = new Date().toISOString().slice(0, 10);
    download(`polyllama-conversations-${day}.json`, exported(this.conversations));
  }

  async import(input) {
    try {
      for (const file of input.files) {
        const found = imported(await file.text());
        for (const conversation of found) await this.store.put(conversation);
        this.conversations.unshift(...found);
        this.notices.remark(found.length === 1 ? "1 conversation imported" : `${found.length} conversations imported`);
      }
    } catch (error) {
      this.notices.problem(`nothing was imported: ${error.message}`);
    }
    input.value = "";
    this.list.show(this.conversations, this.conversation.id);
  }

  /** Another tab has kept or removed a conversation. */
  async changedElsewhere(id) {
    if (this.running) return; // what is being written here is kept when it is done
    this.conversations = await this.store.all();
    const same = this.conversations.find((one) => one.id === this.conversation.id);
    if (same && id === same.id) this.open(same);
    else this.list.show(this.conversations, this.conversation.id);
  }
}

function lastModels() {
  try {
    const [first, second] = JSON.parse(localStorage.getItem(LAST_MODELS));
    return [first, second].filter((one) => typeof one?.name === "string" && typeof one.backend === "string");
  } catch {
    return [{name: "", backend: ""}];
  }
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
