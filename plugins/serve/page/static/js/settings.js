// How answers are asked for: the form at the side, and the same as plain data.

import {byId} from "./dom.js";

/** What a new conversation begins with; null is what is not sent. */
export const DEFAULTS = {
  mode: "chat", // or "text": one text that the model goes on with
  system: "",
  temperature: null,
  top_p: null,
  top_k: null,
  min_p: null,
  seed: null,
  max_tokens: 1024,
  form: "free", // "json", "json_schema", "regex", "grammar", "choices"
  form_text: "",
  alternatives: 5, // how many of the likeliest tokens are told; null for no probabilities
};

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "alternatives"];
const WORDS = {mode: ["chat", "text"], form: ["free", "json", "json_schema", "regex", "grammar", "choices"]};
const FORM_HINTS = {
  json_schema: ["JSON schema", '{"type": "object", "properties": {"name": {"type": "string"}}}'],
  regex: ["Regular expression", "[0-9]{4}-[0-9]{2}-[0-9]{2}"],
  grammar: ["Grammar", "start: \"yes\" | \"no\""],
  choices: ["Choices, one a line", "yes\nno"],
};
const LAST = "polyllama-settings";

/** Settings from data that may come from a file or an older page: what is no value of its field is the default. */
export function readSettings(given) {
  const found = {...DEFAULTS};
  for (const name of NUMBERS) {
    if (given[name] === null || Number.isFinite(given[name])) found[name] = given[name];
  }
  for (const [name, known] of Object.entries(WORDS)) {
    if (known.includes(given[name])) found[name] = given[name];
  }
  for (const name of ["system", "form_text"]) {
    if (typeof given[name] === "string") found[name] = given[name];
  }
  return found;
}

/** The settings that were last used in this browser. */
export function lastSettings() {
  try {
    return readSettings(JSON.parse(localStorage.getItem(LAST)) ?? DEFAULTS);
  } catch {
    return {...DEFAULTS};
  }
}

/** The form. It writes into the conversation's settings as they are typed. */
export class SettingsForm {
  constructor(changed) {
    this.form = byId("settings-form");
    this.form.addEventListener("input", () => {
      this.#read();
      this.#fit();
      localStorage.setItem(LAST, JSON.stringify(this.settings));
      changed();
    });
    this.form.addEventListener("submit", (event) => event.preventDefault());
  }

  /** Show settings, and write into them from now on. */
  show(settings) {
    this.settings = settings;
    for (const [name, value] of Object.entries(settings)) {
      const control = this.form.elements[name];
      control.value = value === null ? (name === "alternatives" ? "off" : "") : String(value);
    }
    this.#fit();
  }

  /** The first field whose content cannot be sent, with why; null where all are good. */
  wrong() {
    for (const control of this.form.elements) {
      if (control.willValidate && !control.checkValidity()) {
        return {control, message: `${control.labels[0].textContent.trim()}: ${control.validationMessage}`};
      }
    }
    return null;
  }

  #read() {
    for (const name of Object.keys(DEFAULTS)) {
      const {value} = this.form.elements[name];
      if (!NUMBERS.includes(name)) this.settings[name] = value;
      else this.settings[name] = value === "" || value === "off" ? null : Number(value);
    }
  }

  /** Show the fields that mean something with what is chosen. */
  #fit() {
    byId("system-field").hidden = this.settings.mode === "text";
    const hint = FORM_HINTS[this.settings.form];
    byId("form-text-field").hidden = !hint;
    if (!hint) return;
    byId("form-text-label").textContent = hint[0];
    this.form.elements.form_text.placeholder = hint[1];
  }
}
