/** One question and its answer on screen. */

import { $, button, copyButton, element, onDemand } from "./dom.js";
import { Markdown } from "./markdown.js";
import { Clock, finalWords } from "./numbers.js";
import { picture } from "./picture.js";
import { probabilitiesView, tokensOf } from "./probabilities.js";

// milliseconds; a fast answer is rendered several tokens at a time, and rendering takes a small part of the time
const RENDER_EVERY = 50;
const RENDER_SHARE = 10;

// characters; nobody wants to be interrupted for longer than that
const LONG = 500;

/** The view of a turn. It changes the turn as the answer comes; `acts` has `again(view)` and `edit(view, question)`. */
export class TurnView {
  constructor(turn, acts) {
    this.turn = turn;
    this._acts = acts;
    this._tokens = [];
    this.node = element("article", "turn");
    this._question = element("div", "question");
    this._markdown = new Markdown();
    this._numbers = element("p", "numbers quiet");
    this._tools = element("div", "tools");
    this._reasoning = element("details", "reasoning");
    this._reasoned = element("p");
    this._reasoning.append(element("summary", "quiet", "Reasoning"), this._reasoned);
    this.node.append(this._question, element("span", "unseen", "Answer:"), this._reasoning, this._markdown.node,
      this._numbers, this._tools);
    this._showQuestion();
    this._showWhole();
  }

  // ---- while an answer comes

  /** Removes the old answer, and waits for a new one. */
  begin() {
    const { answer, reasoning, measured, numbers } = this.turn;
    this._before = { question: this._shownQuestion, said: { answer, reasoning, measured, numbers }, tokens: this._tokens };
    Object.assign(this.turn, { answer: "", reasoning: "", measured: null, numbers: [] });
    this._tokens = [];
    this._clock = new Clock();
    this.node.querySelector(".failed")?.remove();
    this._showQuestion();
    this._showWhole();
    this.node.classList.add("streaming");
    this._showNumbers(["waiting for the first token"]);
    this._tools.replaceChildren();
  }

  /** Takes one event of the stream. */
  take(event) {
    const choice = event.choices[0];
    if (!choice) return;
    this._clock.tick();
    this.turn.answer += choice.delta?.content ?? choice.text ?? "";
    this.turn.reasoning += choice.delta?.reasoning_content ?? "";
    this._tokens.push(...tokensOf(choice));
    this.turn.measured = event.splitlearn ?? null;
    this._showNumbers(choice.finish_reason ? finalWords(event.splitlearn, choice.finish_reason) : this._clock.words);
    this._rendering ??= setTimeout(() => this._showText(), Math.max(RENDER_EVERY, RENDER_SHARE * this._markdown.cost));
  }

  /** The answer is over: whole, stopped by the reader, or failed. */
  end(error = null, stopped = false) {
    clearTimeout(this._rendering);
    this.node.classList.remove("streaming");
    if (stopped || error) this._endEarly(stopped);
    this._showWhole();
    if (error) this._fail(error);
  }

  /** Brings the answer back that there was to this question, if nothing of the new one came. */
  _endEarly(stopped) {
    const { question, said, tokens } = this._before;
    if (!this._clock.pieces && question === this.turn.question && (said.answer || said.reasoning)) {
      Object.assign(this.turn, said);
      this._tokens = tokens;
    } else this._showNumbers([...this._clock.words, ...(stopped ? ["stopped"] : [])]);
  }

  // ---- the parts

  _showWhole() {
    this._showText();
    this._showNumbers(this.turn.numbers);
    this._showTools();
  }

  _showText() {
    this._rendering = undefined;
    const { answer, reasoning, plain } = this.turn;
    if (!answer) this._markdown.clear();
    else if (plain) this._markdown.showPlain(answer);
    else this._markdown.update(answer);
    this._reasoning.hidden = !reasoning;
    this._reasoned.textContent = reasoning;
  }

  /** Numbers in a line that breaks only between them. */
  _showNumbers(words) {
    this.turn.numbers = words;
    this._numbers.textContent = words.map((each) => each.replaceAll(" ", "\u00a0")).join(" · ");
  }

  _showQuestion() {
    this._shownQuestion = this.turn.question;
    const asked = element("p", "asked", this.turn.question);
    asked.dir = "auto";
    asked.prepend(element("span", "unseen", "You: "));
    const tools = element("div", "tools");
    tools.append(button("Edit", () => this.edit(), "needs-idle"), copyButton(() => this.turn.question));
    this._question.replaceChildren(asked, tools);
  }

  _showTools() {
    this.node.querySelectorAll(":scope > :is(.picture, .probabilities)").forEach((each) => each.remove());
    const { answer, measured } = this.turn;
    this._tools.replaceChildren(
      ...(answer ? [copyButton(() => this.turn.answer)] : []),
      button("Ask again", () => this._acts.again(this), "needs-idle"),
      ...(measured ? [this._unfolding("Where the time went", () => picture(measured))] : []),
      ...(this._tokens.length ? [this._unfolding("Probabilities", () => probabilitiesView(this._tokens))] : []),
    );
  }

  /** A button that shows something below the answer, and hides it again. */
  _unfolding(label, make) {
    let shown = null;
    const made = button(label, () => {
      if (shown) shown.remove();
      shown = shown ? null : make();
      if (shown) this.node.append(shown);
      made.setAttribute("aria-expanded", String(shown !== null));
      // the page stays where its reader is
      made.dispatchEvent(new Event("unfold", { bubbles: true }));
    });
    made.setAttribute("aria-expanded", "false");
    return made;
  }

  /** Lets the reader change the question, in its place. */
  edit() {
    const open = this._question.querySelector("textarea");
    if (open) { open.focus(); return; }
    const field = element("textarea");
    field.value = this.turn.question;
    field.setAttribute("aria-label", "Your question");
    field.rows = Math.min(12, this.turn.question.split("\n").length + 1);
    const leave = () => { this._showQuestion(); $("draft").focus(); };
    const send = () => { if (field.value.trim()) this._acts.edit(this, field.value); };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") { event.stopPropagation(); leave(); }
      if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); send(); }
    });
    const tools = element("div", "tools");
    tools.append(button("Send", send, "needs-idle"), button("Cancel", leave));
    this._question.replaceChildren(field, tools);
    field.focus();
  }

  _fail(error) {
    const templateless = error.code === "no_chat_template";
    const row = element("div", "error failed");
    row.setAttribute("role", "alert");
    const words = element("div", "words");
    words.append(element("p", "", error.message), ...onDemand(templateless ? "" : error.details));
    const retry = button(templateless ? "Continue as plain text" : "Try again", () => {
      $("plain").checked ||= templateless;
      this._acts.again(this);
    }, "needs-idle");
    row.append(words, retry);
    this.node.append(row);
  }

  /** What a screen reader says of a complete answer. */
  get announcement() {
    const text = this._markdown.node.textContent.trim();
    return text.length > LONG ? "The answer is complete." : text;
  }
}
