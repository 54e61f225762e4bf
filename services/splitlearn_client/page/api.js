/** The service's API: requests, event streams, and a reader's sentence for each error. */

import { $ } from "./dom.js";

/** An error: `message` is for the reader, `details` for the operator, `code` is the API's. */
export const failure = (message, details = "", code = null) => Object.assign(new Error(message), { details, code });

/** A sentence for the reader for each error code of the API. */
const SENTENCES = {
  trunk_not_ready: "The model is not available at the moment. Try again in a little while.",
  trunk_failed: "The model stopped before the answer was complete.",
  invalid_api_key: "This service needs a valid API key. Enter it in the settings.",
  rate_limit_exceeded: "Your quota is used up for now. Try again in a moment.",
  too_busy: "Too many people are asking right now. Try again in a moment.",
  too_many_connections: "Too many people are asking right now. Try again in a moment.",
  shutting_down: "The service is being restarted. Try again in a little while.",
  context_length_exceeded: "This is too long for the model. Shorten your message, or start a new chat.",
  request_too_large: "This message is too large. Shorten it.",
  no_chat_template: "This model has no chat template. It can still continue plain text.",
  model_not_found: "The service has another model now. Load this page again.",
  broken_numbers: "The model gave invalid numbers. Its operator should check the weights.",
};

let refusedKey = null; // the key, perhaps an empty one, that the service refused
let model = null; // name under which the service knows its model

const givenKey = () => $("key").value.trim();

/** The error in a response's body. For a code without a sentence, the status says whose fault it is. */
function refusal(told, status) {
  const fallback = status < 500 ? "The service did not accept this request." : "Something went wrong in the service.";
  return failure(SENTENCES[told?.code] ?? fallback, told?.message ?? `HTTP status ${status}`, told?.code);
}

async function reach(path, options = {}) {
  const key = givenKey();
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers }).catch(() => {
    throw failure("The service cannot be reached. Is it running?");
  });
  if (response.ok) return response;
  if (response.status === 401) {
    refusedKey = key;
    $("key-field").hidden = false;
  }
  const told = (await response.json().catch(() => null))?.error;
  throw refusal(told, response.status);
}

/** The JSON values of a server-sent event stream. Ends at [DONE], and throws if the stream ends without it. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const lost = failure("The connection was lost before the answer was complete.");
  for (let rest = ""; ;) {
    const { value, done } = await reader.read().catch(() => { throw lost; });
    if (done) throw lost;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

/** The events of a streamed request. Throws a failure, also for an error inside the stream. */
export async function* stream(path, fields, signal) {
  const body = JSON.stringify({ model: await learnModel(signal), ...fields });
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body, signal };
  for await (const event of events(await reach(path, options))) {
    if (event.error) throw refusal(event.error, 500);
    yield event;
  }
}

async function learnModel(signal) {
  model ??= (await (await reach("v1/models", { signal })).json()).data[0].id;
  return model;
}

/** Whether the service is ready: `{state, words, details, layers, model}`; never throws. */
export async function readiness() {
  try {
    const response = await fetch("ready", { cache: "no-store", signal: AbortSignal.timeout(2500) });
    const body = await response.json();
    // the same key would be refused again
    if (givenKey() === refusedKey) throw refusal({ code: "invalid_api_key" }, 401);
    const name = await learnModel();
    if (!response.ok) {
      return { state: "waiting", words: "The model is not available yet.", details: body.reason, model: name };
    }
    return { state: "ready", words: `ready · layers ${body.layers} on the trunk`, layers: body.layers, model: name };
  } catch (error) {
    model = null; // whatever answers next may serve another one
    if (error.code === "invalid_api_key") return { state: "waiting", words: error.message };
    return { state: "lost", words: "The service does not answer. Is it running?" };
  }
}
