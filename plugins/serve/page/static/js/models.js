// Which models are served, on which backends, and what those that are loaded take.

import {h} from "./dom.js";
import {getJson} from "./server.js";
import {size} from "./words.js";

const OTHER = "\u0000other"; // no model's name

/** A model's name in a request: "tiny", or "tiny@torch". */
export function requestName({name, backend}) {
  return backend ? `${name}@${backend}` : name;
}

/** What the server tells of its models. */
export class Models {
  names = [];
  backends = [];
  #loaded = new Map(); // by name, as /v1/models has it
  #kinds = new Map(); // by name, as /page/server.json has it

  /** Ask for everything again. */
  async refresh() {
    const [server] = await Promise.all([getJson("/page/server.json"), this.look()]);
    this.backends = server.backends;
    this.#kinds = new Map(server.loaded.map((one) => [one.name, one]));
  }

  /** Ask again what is loaded and how big it is. */
  async look() {
    const {data} = await getJson("/v1/models");
    this.names = data.map((model) => model.id);
    this.#loaded = new Map(data.flatMap((model) => model.loaded ?? []).map((state) => [state.name, state]));
  }

  /** What is known of a loaded model; undefined of one that is not loaded. */
  loaded(model) {
    return this.#loaded.get(requestName(model));
  }

  /** Whether a model is known to have no chat template, so that it can only go on with a text. */
  goesOnOnly(model) {
    const kind = this.#kinds.get(requestName(model));
    return Boolean(kind?.writes) && !kind.chats;
  }

  /** Where a model is and what it takes, in words. */
  describe(model) {
    const name = requestName(model);
    const state = this.loaded(model);
    if (!state) return `${name}: loaded when it is first asked`;
    const where = state.device === state.backend ? state.backend : `${state.backend} on ${state.device}`;
    const cache = state.cache_bytes ? ` + ${size(state.cache_bytes)} of cache` : "";
    return `${name}: ${where}, ${state.dtype}, ${size(state.bytes)}${cache}`;
  }
}

/** Two lists to choose a model and its backend from. */
export class Chooser {
  constructor(what, models, changed) {
    this.models = models;
    this.changed = changed;
    this.name = h("select", {"aria-label": what, onchange: () => this.#chosen()});
    this.other = h("input", {"aria-label": `${what}: its name`, hidden: true, placeholder: "name of a model",
      spellcheck: "false", autocapitalize: "off", onchange: () => this.#named()});
    this.backend = h("select", {"aria-label": `Backend of the ${what.toLowerCase()}`, onchange: () => this.#chosen()});
    this.element = h("span", {class: "chooser"}, this.name, this.other, this.backend);
  }

  /** Show a choice, {name, backend}, which is written into. */
  show(model) {
    this.model = model;
    const names = this.models.names.includes(model.name) ? this.models.names : [...this.models.names, model.name];
    const options = names.filter(Boolean).map((name) => h("option", {value: name}, name));
    this.name.replaceChildren(...options, h("option", {value: OTHER}, "another name …"));
    this.name.value = model.name;
    this.other.hidden = true;
    this.backend.replaceChildren(
      h("option", {value: ""}, "default backend"),
      ...this.models.backends.map(({name, usable}) =>
        h("option", {value: name, disabled: !usable}, usable ? name : `${name} (cannot run here)`)),
    );
    if (model.backend && !this.models.backends.some(({name}) => name === model.backend)) {
      this.backend.append(h("option", {value: model.backend}, model.backend));
    }
    this.backend.value = model.backend;
  }

  #chosen() {
    this.other.hidden = this.name.value !== OTHER;
    if (!this.other.hidden) {
      this.other.focus();
      return;
    }
    this.model.name = this.name.value;
    this.model.backend = this.backend.value;
    this.changed();
  }

  #named() {
    const [name, ...rest] = this.other.value.trim().split("@");
    if (!name) return;
    Object.assign(this.model, {name, backend: rest.join("@")});
    this.show(this.model);
    this.changed();
  }
}
