/** The chat on screen: its turns, and the one request in flight. */

import { stream } from "./api.js";
import { Chats, messagesOf } from "./chats.js";
import { $ } from "./dom.js";
import { generationFields, holds, settings } from "./settings.js";
import { TurnView } from "./turn.js";

const TOP_LOGPROBS = 5;

/** Shows one chat of `chats` and asks for answers; calls `changed` after each change that others show. */
export class Conversation {
  constructor(chats, changed) {
    this._chats = chats;
    this._changed = changed;
    this._running = null; // the AbortController of the one request in flight
    this._acts = { again: (view) => this._again(view), edit: (view, question) => this._edit(view, question) };
    this.open(Chats.begin(""));
  }

  get isRunning() {
    return this._running !== null;
  }

  stop() {
    this._running?.abort();
  }

  /** Shows another chat; an answer that is coming to this one is stopped. */
  open(chat) {
    this.leave();
    this.chat = chat;
    $("system").value = chat.system;
    $("announcement").textContent = "";
    for (const row of document.querySelectorAll(".turn")) row.remove();
    this._views = [];
    for (const turn of chat.turns) this._show(turn);
    $("page").scrollTop = $("page").scrollHeight;
    this._changed();
  }

  /** Stops an answer that is coming, and saves what has come. */
  leave() {
    if (!this.isRunning) return;
    this.stop();
    this._running = null;
    this._views.at(-1).end(null, true);
    this._save();
  }

  /** Takes over the system prompt from the settings. */
  changeSystem() {
    this.chat.system = $("system").value;
    if (this.chat.turns.length) this._save();
  }

  /** Another tab has changed or deleted the chat. */
  changedElsewhere() {
    if (this.isRunning) return;
    const found = this._chats.find(this.chat.id);
    if (found) this.open(found);
    else this.begin();
  }

  /** Begins a chat with the same system prompt. */
  begin() {
    this.open(Chats.begin($("system").value));
  }

  /** Asks a question; returns whether it could. */
  send(question) {
    if (this.isRunning || !question.trim() || !holds()) return false;
    const turn = { question, answer: "", reasoning: "", plain: settings.plain, numbers: [], measured: null };
    this.chat.turns.push(turn);
    this._ask(this._show(turn));
    return true;
  }

  editLast() {
    this._views.at(-1)?.edit();
  }

  _save() {
    $("unsaved").hidden = this._chats.save(this.chat, settings.keep);
  }

  _show(turn) {
    const view = new TurnView(turn, this._acts);
    this._views.push(view);
    $("empty").hidden = true;
    $("log").append(view.node);
    return view;
  }

  _edit(view, question) {
    if (this.isRunning || !holds()) return;
    const last = this._last(view);
    last.turn.question = question;
    this._again(last);
  }

  _again(view) {
    if (this.isRunning || !holds()) return;
    const last = this._last(view);
    last.turn.plain = settings.plain;
    $("draft").focus();
    this._ask(last);
  }

  /** The view as the last of its chat. If others follow it, a new chat begins that ends with it: nothing is lost. */
  _last(view) {
    const at = this._views.indexOf(view);
    if (at === this._views.length - 1) return view;
    const turns = structuredClone(this.chat.turns.slice(0, at + 1));
    this.open({ ...Chats.begin(this.chat.system), turns });
    return this._views.at(-1);
  }

  async _ask(view) {
    const control = this._running = new AbortController();
    this.chat.system = $("system").value;
    view.begin();
    this._save();
    this._changed();
    view.node.scrollIntoView({ block: "end" });
    let ended = [];
    try {
      const [path, fields] = this._request(view.turn);
      for await (const event of stream(path, fields, control.signal)) view.take(event);
    } catch (error) {
      ended = control.signal.aborted ? [null, true] : [error];
    }
    if (this._running !== control) return; // another chat is on screen
    this._running = null;
    view.end(...ended);
    $("announcement").textContent = view.announcement;
    this._save();
    this._changed();
  }

  _request(turn) {
    const shared = { stream: true, stream_options: { include_usage: true }, ...generationFields() };
    if (turn.plain) {
      return ["v1/completions", { ...shared, prompt: turn.question, ...(settings.probabilities && { logprobs: TOP_LOGPROBS }) }];
    }
    const past = messagesOf(this.chat, this.chat.turns.slice(0, this.chat.turns.indexOf(turn)));
    const messages = [...past, { role: "user", content: turn.question }];
    const probabilities = settings.probabilities && { logprobs: true, top_logprobs: TOP_LOGPROBS };
    return ["v1/chat/completions", { ...shared, messages, ...probabilities }];
  }
}
