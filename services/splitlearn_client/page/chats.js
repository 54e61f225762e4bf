/**
 * The chats of this browser, each under a key of its own in localStorage.
 *
 * A chat is `{version, id, changed, system, turns}`; a turn is `{question, answer, reasoning, plain, numbers, measured}`.
 * What another page of this origin has put there, or another version of this one, is left alone.
 */

const PREFIX = "splitlearn.chat.";
const VERSION = 1;

const isText = (value) => typeof value === "string";
const isTurn = (turn) => isText(turn?.question) && isText(turn.answer) && isText(turn.reasoning);
const isChat = (chat) => chat?.version === VERSION && isText(chat.id) && isText(chat.system)
  && Number.isFinite(chat.changed) && Array.isArray(chat.turns) && chat.turns.every(isTurn);

export class Chats {
  constructor() {
    this._loose = new Map(); // chats that are not kept in the browser, by id
  }

  /** A chat without turns, which the list does not have yet. */
  static begin(system) {
    // crypto.randomUUID is missing in pages over plain HTTP
    const id = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return { version: VERSION, id, changed: Date.now(), system, turns: [] };
  }

  /** All chats, latest first. */
  all() {
    const kept = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)).map((key) => read(key));
    const chats = [...kept.filter(isChat), ...this._loose.values()];
    return chats.sort((one, other) => other.changed - one.changed);
  }

  find(id) {
    const kept = read(PREFIX + id);
    return isChat(kept) ? kept : this._loose.get(id);
  }

  /** Saves a chat, in the browser if `keep`. Returns whether there was room; if not, this tab alone has it. */
  save(chat, keep) {
    chat.changed = Date.now();
    if (keep) {
      try {
        localStorage.setItem(PREFIX + chat.id, JSON.stringify(chat));
        this._loose.delete(chat.id);
        return true;
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
      }
    }
    // an older version would come back when the page is loaded again
    localStorage.removeItem(PREFIX + chat.id);
    this._loose.set(chat.id, chat);
    return !keep;
  }

  remove(id) {
    localStorage.removeItem(PREFIX + id);
    this._loose.delete(id);
  }

  removeAll() {
    for (const chat of this.all()) this.remove(chat.id);
  }
}

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

/** What the list calls a chat: the beginning of its first question. */
export function titleOf(chat) {
  const [line] = (chat.turns[0]?.question ?? "").trim().split("\n");
  return line.length > 60 ? `${line.slice(0, 59)}…` : line || "Empty chat";
}

/** The chats as a file: for each its messages in the API's form, and its turns with their measurements. */
export function exported(chats) {
  const all = chats.map((chat) => ({ title: titleOf(chat), messages: messagesOf(chat, chat.turns), ...chat }));
  return JSON.stringify({ format: "splitlearn.chats", version: VERSION, chats: all }, null, 2);
}

/** Messages in the API's form. Leaves out questions without an answer: chat templates expect the roles to alternate. */
export function messagesOf(chat, turns) {
  const messages = chat.system.trim() ? [{ role: "system", content: chat.system }] : [];
  for (const turn of turns.filter((past) => past.answer && !past.plain)) {
    messages.push({ role: "user", content: turn.question }, { role: "assistant", content: turn.answer });
  }
  return messages;
}
