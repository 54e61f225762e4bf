/** The page's controls: what the reader presses, and what they show. */

import { readiness } from "./api.js";
import { Chats, exported, idOf, titleOf } from "./chats.js";
import { Conversation } from "./conversation.js";
import { $, button, download, element, onDemand } from "./dom.js";
import { settings, watchSettings } from "./settings.js";

const chats = new Chats();
watchSettings();
// once this module has run: the first chat is opened while it does
const conversation = new Conversation(chats, () => queueMicrotask(() => { reflect(); listChats(); }));

// ---- controls

function send() {
  const draft = $("draft");
  const question = draft.value;
  if (conversation.send(question)) draft.value = "";
  reflect();
}

/** Updates all controls to the current state. */
function reflect() {
  const draft = $("draft");
  const running = conversation.isRunning;
  $("go").textContent = running ? "Stop" : "Send";
  $("go").classList.toggle("stop", running);
  const isFocused = document.activeElement === $("go");
  $("go").disabled = !running && !draft.value.trim();
  // a disabled button loses the focus to nothing
  if (isFocused && $("go").disabled) draft.focus();
  $("plain-note").hidden = !settings.plain;
  $("system").disabled = settings.plain;
  draft.placeholder = settings.plain ? "Text to continue" : "Ask something";
  draft.style.height = "auto";
  draft.style.height = `${draft.scrollHeight}px`;
  $("empty").hidden = conversation.chat.turns.length > 0;
  for (const each of document.querySelectorAll(".needs-idle")) each.disabled = running;
}

function begin() {
  conversation.begin();
  if ($("chats").matches(":popover-open")) $("chats").hidePopover();
  $("draft").focus();
}

$("go").addEventListener("click", () => (conversation.isRunning ? conversation.stop() : send()));
$("draft").addEventListener("input", reflect);
$("draft").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !$("draft").value && !conversation.isRunning) {
    event.preventDefault();
    conversation.editLast();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector(":popover-open")) conversation.stop();
  const isCommand = event.ctrlKey || event.metaKey;
  // browsers that fill in a form send events without a key
  if (event.key?.toLowerCase() === "o" && event.shiftKey && isCommand) {
    event.preventDefault();
    begin();
  }
  if (event.key === "/" && !isCommand && !event.altKey && !event.target.closest("input, textarea")) {
    event.preventDefault();
    $("draft").focus();
  }
});
$("options").addEventListener("change", reflect);
$("system").addEventListener("change", () => conversation.changeSystem());
$("back").addEventListener("click", () => { $("plain").click(); $("draft").focus(); });
$("new").addEventListener("click", begin);
addEventListener("pagehide", () => conversation.leave());

// ---- the list of chats

function listChats() {
  const all = chats.all();
  $("no-chats").hidden = all.length > 0;
  $("chats-actions").hidden = !all.length;
  const focused = $("list").contains(document.activeElement) ? document.activeElement : null;
  const place = [...$("list").querySelectorAll("button")].indexOf(focused);
  $("list").replaceChildren(...all.map(listed));
  if (!focused) return;
  const same = $("list").querySelector(`[data-chat="${focused.dataset.chat}"].${focused.className}`);
  (same ?? $("list").querySelectorAll("button")[place] ?? $("new")).focus();
}

function listed(chat) {
  const row = element("li", chat.id === conversation.chat.id ? "current" : "");
  const title = titleOf(chat);
  const open = button(title, () => {
    if (chat.id !== conversation.chat.id) conversation.open(chats.find(chat.id));
    if ($("chats").matches(":popover-open")) $("chats").hidePopover();
    $("draft").focus();
  }, "title");
  open.title = title;
  if (chat.id === conversation.chat.id) open.setAttribute("aria-current", "true");
  const remove = button("×", () => {
    if (!confirm(`Delete the chat "${title}"?`)) return;
    if (chat.id === conversation.chat.id) begin();
    chats.remove(chat.id);
    listChats();
  }, "remove");
  remove.setAttribute("aria-label", `Delete the chat ${title}`);
  open.dataset.chat = remove.dataset.chat = chat.id;
  row.append(open, remove);
  return row;
}

$("export").addEventListener("click", () => {
  download("splitlearn-chats.json", "application/json", exported(chats.all()));
});
$("delete-all").addEventListener("click", () => {
  if (!confirm("Delete all chats of this browser?")) return;
  begin();
  chats.removeAll();
  listChats();
});
// another tab has changed one; a key of null stands for all
addEventListener("storage", ({ key }) => {
  const id = idOf(key);
  if (key === null || id === conversation.chat.id) conversation.changedElsewhere();
  if (key === null || id !== null) listChats();
});

// ---- sheets, and the end of the conversation

/** Places a sheet beside its button: below it in the upper half of the window, else above. */
function place(sheet, opener) {
  const box = opener.getBoundingClientRect();
  const below = box.top + box.height / 2 < innerHeight / 2;
  const gap = 8;
  sheet.style.top = below ? `${box.bottom + gap}px` : "auto";
  sheet.style.bottom = below ? "auto" : `${innerHeight - box.top + gap}px`;
  sheet.style.maxHeight = `${(below ? innerHeight - box.bottom : box.top) - 2 * gap}px`;
}

for (const name of ["settings", "privacy", "chats"]) {
  const replace = () => place($(name), $(`open-${name}`));
  $(name).addEventListener("beforetoggle", replace);
  addEventListener("resize", replace);
}

// it is a column then, and no sheet
matchMedia("(min-width: 64rem)").addEventListener("change", ({ matches }) => { if (matches) $("chats").hidePopover(); });

/** Keeps the end of the conversation in view, unless the reader has scrolled up or looks at something. */
function followTheEnd() {
  const page = $("page");
  let atEnd = true;
  let before = 0;
  page.addEventListener("scroll", () => {
    const near = page.scrollHeight - page.scrollTop - page.clientHeight < 60;
    // content that was added since the last scroll also moves the end away
    atEnd = near || (atEnd && page.scrollTop >= before);
    before = page.scrollTop;
  });
  page.addEventListener("unfold", () => { atEnd = false; });
  const growing = new ResizeObserver(() => { if (atEnd) page.scrollTop = page.scrollHeight; });
  growing.observe(page);
  growing.observe($("log"));
}

// ---- readiness

function showStatus({ state, words, details = "", layers, model }) {
  $("status").className = `quiet ${state}`;
  const said = $("status").querySelector("[role=status]");
  if (said.textContent !== words) said.textContent = words; // said aloud only when it changes
  if (model) $("model").textContent = model;
  if (layers) $("layers").textContent = `layers ${layers}`;
  const folded = $("status").querySelector("details");
  // unchanged details stay open
  if ((folded?.lastChild.textContent ?? "") === details) return;
  folded?.remove();
  $("status-words").append(...onDemand(details));
}

async function watch() {
  showStatus(await readiness());
  setTimeout(watch, 3000);
}

followTheEnd();
watch();
