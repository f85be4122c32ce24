// One answer as it comes: text, tokens with their probabilities, and how fast.

import {eventData} from "./events.js";
import {postJson, readError, ServerError} from "./server.js";

/** An answer that has not begun. */
export function newAnswer(model) {
  return {
    model,
    text: "",
    tokens: [], // {text, logprob, others: [[text, logprob], ...]}
    state: "waiting", // then "running", and at the end "done", "stopped" or "failed"
    finish: null, // why it ended, in OpenAI's words
    error: null,
    status: null, // of HTTP, where it failed
    usage: null,
    first_seconds: null, // from sending to the first token
    seconds: null, // from the first token to the last
  };
}

/** Have an answer written; `changed` is called whenever there is more of it. It never throws: an answer can fail. */
export async function receive(answer, {path, body}, signal, changed) {
  const begun = performance.now();
  const decoder = new TokenTexts();
  let first = null;
  try {
    const response = await postJson(path, body, signal);
    for await (const data of eventData(response)) {
      if (data === "[DONE]") break;
      if (!take(answer, JSON.parse(data), decoder)) continue;
      const now = performance.now();
      first ??= now;
      answer.first_seconds ??= (now - begun) / 1000;
      answer.seconds = (now - first) / 1000;
      answer.state = "running";
      changed();
    }
    if (answer.finish === null) throw new ServerError("the answer broke off: the connection to the server was lost");
    answer.state = "done";
  } catch (error) {
    if (error.name === "AbortError") {
      answer.state = "stopped";
    } else {
      answer.state = "failed";
      answer.error = error.message;
      answer.status = error.status ?? null;
    }
  }
  changed();
}

/** Take an event in; says whether it brought text or tokens. */
function take(answer, chunk, decoder) {
  if (chunk.error) throw new ServerError(readError(chunk).message ?? "the server failed");
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  const text = choice.delta ? choice.delta.content ?? "" : choice.text ?? "";
  const tokens = choice.delta ? chatTokens(choice.logprobs, decoder) : textTokens(choice.logprobs);
  answer.text += text;
  answer.tokens.push(...tokens);
  return Boolean(text || tokens.length);
}

function chatTokens(logprobs, decoder) {
  return (logprobs?.content ?? []).map((entry) => ({
    text: decoder.next(entry),
    logprob: entry.logprob,
    others: entry.top_logprobs.map((other) => [other.token, other.logprob]),
  }));
}

function textTokens(logprobs) {
  return (logprobs?.tokens ?? []).map((text, place) => ({
    text,
    logprob: logprobs.token_logprobs[place],
    others: Object.entries(logprobs.top_logprobs?.[place] ?? {}).sort((one, other) => other[1] - one[1]),
  }));
}

/** Tokens as text where a character's bytes are spread over several: the last of them shows the character. */
class TokenTexts {
  #decoder = new TextDecoder();

  next({token, bytes}) {
    return bytes ? this.#decoder.decode(new Uint8Array(bytes), {stream: true}) : token;
  }
}

/** Tokens per second after the first; null where that says nothing. */
export function speed(answer) {
  const number = answer.usage?.completion_tokens ?? answer.tokens.length;
  return number > 1 && answer.seconds > 0 ? (number - 1) / answer.seconds : null;
}
