/**
 * The chats of this browser, each under a key of its own in localStorage.
 *
 * A chat is `{version, id, changed, system, turns}`; a turn is `{question, answer, reasoning, plain, numbers, measured}`.
 * What another page of this origin has put there, or another version of this one, is left alone.
 */

import { isMeasured } from "./numbers.js";
import { local, read } from "./storage.js";

const PREFIX = "splitlearn.chat.";
const VERSION = 1;

const isText = (value) => typeof value === "string";
const isTurn = (turn) => isText(turn?.question) && isText(turn.answer) && isText(turn.reasoning)
  && typeof turn.plain === "boolean" && Array.isArray(turn.numbers) && turn.numbers.every(isText)
  && (turn.measured === null || isMeasured(turn.measured));
const isChat = (chat) => chat?.version === VERSION && isText(chat.id) && isText(chat.system)
  && Number.isFinite(chat.changed) && Array.isArray(chat.turns) && chat.turns.every(isTurn);

/** The id of the chat under a key of the storage; null if it is another key. */
export const idOf = (key) => (key?.startsWith(PREFIX) ? key.slice(PREFIX.length) : null);

export class Chats {
  constructor() {
    this._inTab = new Map(); // chats, or newer versions of them, that the browser does not keep; by id
    this._unkept = new Set(); // ids of those that it shall not keep
  }

  /** A chat without turns, which the list does not have yet. */
  static begin(system) {
    // crypto.randomUUID is missing in pages over plain HTTP
    const id = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return { version: VERSION, id, changed: Date.now(), system, turns: [] };
  }

  /** All chats, latest first. */
  all() {
    const ids = new Set([...local.keys().map(idOf).filter(Boolean), ...this._inTab.keys()]);
    const chats = [...ids].map((id) => this.find(id)).filter(Boolean);
    return chats.sort((one, other) => other.changed - one.changed);
  }

  find(id) {
    return this._inTab.get(id) ?? this._kept(id);
  }

  /**
   * Saves a chat; a new one in the browser if `keep`. Returns whether it is where it belongs: if the browser has no room,
   * this tab has the chat, and the browser what it had before.
   */
  save(chat, keep) {
    chat.changed = Date.now();
    if (!keep && !this._kept(chat.id) && !this._inTab.has(chat.id)) this._unkept.add(chat.id);
    const isKept = !this._unkept.has(chat.id) && local.set(PREFIX + chat.id, JSON.stringify(chat));
    if (isKept) this._inTab.delete(chat.id);
    else this._inTab.set(chat.id, chat);
    return isKept || this._unkept.has(chat.id);
  }

  remove(id) {
    local.remove(PREFIX + id);
    this._inTab.delete(id);
  }

  removeAll() {
    for (const chat of this.all()) this.remove(chat.id);
  }

  _kept(id) {
    const kept = read(PREFIX + id);
    return isChat(kept) && kept.id === id ? kept : undefined;
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
