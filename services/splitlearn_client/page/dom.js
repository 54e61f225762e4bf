/** Small helpers for the document. */

export const $ = (id) => document.getElementById(id);

/** A new element with a class and a text. */
export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** A new button that runs `act` when it is pressed. */
export function button(text, act, className = "") {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

/** Folded details; nothing if there are none. */
export function onDemand(details) {
  if (!details) return [];
  const folded = element("details", "quiet");
  folded.append(element("summary", "", "Details"), element("p", "", details));
  return [folded];
}

/** A button that copies the text that `read` returns, and says so for a moment. */
export function copyButton(read, label = "Copy") {
  const made = button(label, async () => {
    made.textContent = (await copy(read())) ? "Copied" : "Not allowed";
    setTimeout(() => { made.textContent = label; }, 1500);
  });
  return made;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // browsers have no clipboard for pages over plain HTTP, unless they come from this machine
    const field = element("textarea", "unseen");
    field.value = text;
    const focused = document.activeElement;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return copied;
  }
}

/** Has the browser save a text as a file. */
export function download(name, type, text) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  // the browser has the content by the next turn of its event loop
  setTimeout(() => URL.revokeObjectURL(link.href));
}
