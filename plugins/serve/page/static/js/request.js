// From a conversation and its settings to a request's path and body. What is not set is not sent: the model's holds.

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"];

/** What stands in a field of the settings cannot be sent. */
export class SettingError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** {path, body} for one model; `messages` as conversation.js gives them. */
export function makeRequest(model, messages, settings) {
  const body = {model, stream: true, stream_options: {include_usage: true}};
  for (const name of NUMBERS) {
    if (settings[name] !== null && settings[name] !== undefined) body[name] = settings[name];
  }
  Object.assign(body, constraint(settings));
  if (settings.mode === "text") {
    body.prompt = messages.map((message) => message.content).join("");
    if (settings.alternatives !== null) body.logprobs = settings.alternatives;
    return {path: "/v1/completions", body};
  }
  const system = settings.system.trim() ? [{role: "system", content: settings.system}] : [];
  body.messages = [...system, ...messages];
  if (settings.alternatives !== null) {
    body.logprobs = true;
    body.top_logprobs = settings.alternatives;
  }
  return {path: "/v1/chat/completions", body};
}

/** The fields that say what form the answer has to have. */
function constraint({form, form_text: text}) {
  switch (form) {
    case "json":
      return {response_format: {type: "json_object"}};
    case "json_schema":
      return {response_format: {type: "json_schema", json_schema: {name: "answer", schema: readSchema(text)}}};
    case "regex":
      return {regex: filled(text, "a regular expression")};
    case "grammar":
      return {grammar: filled(text, "a grammar")};
    case "choices":
      return {choices: filled(text, "the choices, one a line").split("\n").filter((line) => line.trim())};
    default:
      return {};
  }
}

function filled(text, what) {
  if (!text.trim()) throw new SettingError("form_text", `the form of the answer lacks ${what}`);
  return text;
}

function readSchema(text) {
  filled(text, "a JSON schema");
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SettingError("form_text", `the JSON schema is no JSON: ${error.message}`);
  }
}
