// The server that this page came from: requests, the key, and errors in words.

const KEY = "polyllama-api-key";

/** What the server, or the way to it, answers instead of a result. */
export class ServerError extends Error {
  constructor(message, {status = 0, param = null} = {}) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

/** The API key. It stays in this tab and is forgotten with it. */
export const apiKey = {
  get value() {
    return sessionStorage.getItem(KEY) ?? "";
  },
  set value(key) {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  },
};

/** Ask for a path; gives the response once it is a good one. */
async function ask(path, options = {}) {
  const headers = {...options.headers};
  if (apiKey.value) headers.authorization = `Bearer ${apiKey.value}`;
  let response;
  try {
    response = await fetch(path, {...options, headers});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof TypeError && /header/i.test(error.message)) {
      throw new ServerError("the API key holds a letter that no key can have", {status: 401});
    }
    throw new ServerError("the server cannot be reached: is it still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The JSON at a path. */
export async function getJson(path) {
  return (await ask(path)).json();
}

/** Post JSON; gives the response, whose body may come piece by piece. */
export function postJson(path, body, signal) {
  return ask(path, {
    method: "POST",
    headers: {"content-type": "application/json"},
    body: JSON.stringify(body),
    signal,
  });
}

async function refusal(response) {
  const {status} = response;
  let found = null;
  try {
    found = await response.json();
  } catch {
    // not JSON: a proxy between here and the server answered
  }
  const {message, param} = readError(found);
  const wait = response.headers.get("retry-after");
  const again = wait ? `; try again in ${wait} s` : "";
  return new ServerError((message ?? `the server answered with status ${status}`) + again, {status, param});
}

/** An error's message in either form: {"error": "..."} or {"error": {"message": "..."}}. */
export function readError(found) {
  const error = found?.error;
  if (typeof error === "string") return {message: error, param: null};
  return {message: error?.message ?? null, param: error?.param ?? null};
}
