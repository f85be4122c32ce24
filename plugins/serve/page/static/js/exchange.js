// Conversations as a JSON file, out and in. A file may come from anywhere, so every value in it is checked.

import {newAnswer} from "./answer.js";
import {newId} from "./conversation.js";
import {readSettings} from "./settings.js";

const FORMAT = "polyllama-conversations";
const VERSION = 1;

/** The text of a file that holds these conversations. */
export function exported(conversations) {
  return JSON.stringify({format: FORMAT, version: VERSION, conversations}, null, 1);
}

/** Hand a text to the browser as a file to save. */
export function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The conversations of a file, each under an id of its own, so that nothing kept is overwritten. */
export function imported(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch (error) {
    throw new Error(`the file is no JSON: ${error.message}`);
  }
  if (found?.format !== FORMAT || !Array.isArray(found.conversations)) {
    throw new Error("the file holds no conversations of this page");
  }
  if (found.version !== VERSION) throw new Error(`the file is of version ${found.version}, this page reads ${VERSION}`);
  return found.conversations.map(readConversation);
}

function readConversation(given, place) {
  const where = `conversation ${place + 1}`;
  const turns = {};
  let number = 0;
  const known = new Map([[null, null]]);
  for (const turn of Object.values(record(given?.turns, `${where}: turns`))) {
    number += 1;
    // A turn names one before it: so there are no circles, whatever the file says.
    if (!known.has(turn?.parent)) throw new Error(`${where}, turn ${number}: it follows no turn before it`);
    const id = String(number);
    known.set(string(turn.id, `${where}, turn ${number}: id`), id);
    turns[id] = {
      id,
      parent: known.get(turn.parent),
      user: string(turn.user, `${where}, turn ${number}: user`),
      settings: settings(turn.settings, `${where}, turn ${number}: settings`),
      answers: list(turn.answers, `${where}, turn ${number}: answers`).map((answer) => readAnswer(answer, where)),
    };
  }
  const leaf = known.get(given.leaf ?? null);
  if (leaf === undefined || (leaf === null && number)) throw new Error(`${where}: leaf names no turn`);
  const models = list(given.models, `${where}: models`).slice(0, 2);
  return {
    id: newId(),
    title: string(given.title, `${where}: title`),
    created: time(given.created),
    changed: time(given.changed),
    settings: settings(given.settings, `${where}: settings`),
    models: models.map((model) => ({name: string(model?.name, where), backend: string(model?.backend, where)})),
    turns,
    leaf,
  };
}

function readAnswer(given, where) {
  const answer = newAnswer(string(given?.model, `${where}: model`));
  answer.text = string(given.text, `${where}: text`);
  answer.tokens = list(given.tokens, `${where}: tokens`).map((token) => readToken(token, where));
  answer.state = ["done", "failed"].includes(given.state) ? given.state : "stopped";
  for (const name of ["finish", "error"]) answer[name] = typeof given[name] === "string" ? given[name] : null;
  for (const name of ["status", "first_seconds", "seconds"]) answer[name] = finite(given[name]);
  const tokens = finite(given.usage?.completion_tokens);
  answer.usage = tokens === null ? null : {prompt_tokens: finite(given.usage.prompt_tokens), completion_tokens: tokens};
  return answer;
}

function readToken(given, where) {
  const others = list(given?.others, `${where}: others`).map((other) => {
    const [text, logprob] = list(other, where);
    return [string(text, where), finite(logprob)];
  });
  return {text: string(given.text, `${where}: token`), logprob: finite(given.logprob), others};
}

function settings(value, what) {
  return readSettings(record(value, what));
}

function record(value, what) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error(`${what} is no object`);
  return value;
}

function list(value, what) {
  if (!Array.isArray(value)) throw new Error(`${what} is no list`);
  return value;
}

function string(value, what) {
  if (typeof value !== "string") throw new Error(`${what} is no text`);
  return value;
}

function finite(value) {
  return Number.isFinite(value) ? value : null;
}

function time(value) {
  return finite(value) ?? Date.now();
}
