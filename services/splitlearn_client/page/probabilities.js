/** An answer token by token: how likely each was, and what else was. */

import { element } from "./dom.js";

/** The tokens of one event of a stream, from the log-probabilities of a chat or of a completion. */
export function tokensOf(choice) {
  const told = choice.logprobs;
  if (!told) return [];
  if (told.content) {
    return told.content.map((each) => ({
      text: each.token, p: Math.exp(each.logprob),
      others: each.top_logprobs.map((other) => [other.token, Math.exp(other.logprob)]),
    }));
  }
  return told.tokens.map((text, at) => ({
    text, p: Math.exp(told.token_logprobs[at]),
    others: Object.entries(told.top_logprobs?.[at] ?? {}).map(([other, logprob]) => [other, Math.exp(logprob)]),
  }));
}

const percent = (p) => (p >= 0.9995 ? "100 %" : p < 0.001 ? "<0.1 %" : `${(100 * p).toFixed(1)} %`);
// blanks are tokens too, and must be seen
const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

/** The tokens in a row, darker where the model was in doubt; the chosen one's rivals are below. */
export function probabilitiesView(tokens) {
  const view = element("div", "probabilities");
  const row = element("div", "tokens");
  const rivals = element("div", "rivals");
  rivals.setAttribute("aria-live", "polite");
  row.tabIndex = 0;
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", "Tokens; the arrow keys go from one to the next");
  const marks = tokens.map((token) => {
    const mark = element("span", "token", token.text);
    mark.style.setProperty("--doubt", `${Math.round(100 * (1 - token.p))}%`);
    mark.addEventListener("pointerenter", () => choose(mark));
    mark.addEventListener("click", () => choose(mark));
    return mark;
  });
  const choose = (mark) => {
    row.querySelector(".chosen")?.classList.remove("chosen");
    mark.classList.add("chosen");
    rivals.replaceChildren(...rivalsOf(tokens[marks.indexOf(mark)]));
  };
  row.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = marks.findIndex((mark) => mark.classList.contains("chosen"));
    const next = marks[Math.min(Math.max(at + step, 0), marks.length - 1)];
    choose(next);
    next.scrollIntoView({ block: "nearest" });
  });
  row.append(...marks);
  view.append(row, rivals);
  if (marks.length) choose(marks[0]);
  return view;
}

function rivalsOf({ text, p, others }) {
  const head = element("p");
  head.append(element("code", "", visible(text)), ` was ${percent(p)} likely.`);
  const list = element("ul");
  for (const [other, probability] of others) {
    const line = element("li", other === text ? "taken" : "");
    const fill = element("span", "fill");
    fill.style.width = `${100 * probability}%`;
    line.append(element("code", "", visible(other)), fill, element("span", "quiet numbers", percent(probability)));
    list.append(line);
  }
  return [head, list];
}
