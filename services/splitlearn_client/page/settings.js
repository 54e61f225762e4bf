/** The settings sheet. The browser keeps its values, except for the key, which goes with the tab. */

import { $ } from "./dom.js";
import { local, read, session } from "./storage.js";

const KEPT = "splitlearn.settings";
const FIELDS = ["temperature", "max-tokens"];
const CHECKS = ["probabilities", "plain", "keep"];

export const settings = {
  get plain() { return $("plain").checked; },
  get keep() { return $("keep").checked; },
  get probabilities() { return $("probabilities").checked; },
};

/** The API's fields that the settings stand for. */
export function generationFields() {
  const most = $("max-tokens");
  return { temperature: $("temperature").valueAsNumber, max_tokens: most.value === "" ? null : most.valueAsNumber };
}

/** Whether the settings are valid; if not, shows which one is invalid. */
export function holds() {
  if (!$("options").checkValidity()) $("settings").showPopover();
  return $("options").reportValidity();
}

export function watchSettings() {
  restore();
  $("key").value = session.get("api-key") ?? "";
  $("key-field").hidden = !$("key").value;
  $("key").addEventListener("input", () => session.set("api-key", $("key").value));
  $("options").addEventListener("submit", (event) => { event.preventDefault(); $("settings").hidePopover(); });
  $("options").addEventListener("change", () => {
    const values = [...FIELDS.map((id) => [id, $(id).value]), ...CHECKS.map((id) => [id, $(id).checked])];
    local.set(KEPT, JSON.stringify(Object.fromEntries(values)));
  });
}

function restore() {
  const values = read(KEPT) ?? {};
  for (const id of FIELDS) if (typeof values[id] === "string") $(id).value = values[id];
  for (const id of CHECKS) if (typeof values[id] === "boolean") $(id).checked = values[id];
}
