/** Markdown as DOM nodes. What a model wrote is a stranger's: no HTML of it is taken, and no picture is loaded. */

import { copyButton, element } from "./dom.js";
import DOMPurify from "./vendor/dompurify.js";
import { Marked } from "./vendor/marked.js";

const escaped = (text) => text.replace(/[&<>"]/g, (each) => `&#${each.charCodeAt(0)};`);

/** A formula is shown as it is written: its underscores and stars are not emphasis. A group of the pattern is its text. */
const formula = (name, level, start, pattern) => ({
  name, level,
  start: (text) => { const at = text.search(start); return at < 0 ? undefined : at; },
  tokenizer(text) {
    const found = pattern.exec(text);
    return found ? { type: name, raw: found[0], text: found.slice(1).find(Boolean) } : undefined;
  },
  renderer: (token) => (level === "block" ? `<pre class="math">${escaped(token.text.trim())}</pre>`
    : `<span class="math">${escaped(token.text)}</span>`),
});

const marked = new Marked({
  gfm: true,
  breaks: true,
  extensions: [
    formula("formula", "block", /\$\$|\\\[/, /^(?:\$\$([^$]+)\$\$|\\\[([^]+?)\\\])(?=\n|$)/),
    // a dollar before a space or after one is money: as in Pandoc's Markdown
    formula("term", "inline", /\$|\\\(/, /^(?:\$\$([^$]+)\$\$|\\\((.+?)\\\)|\$(?! )([^$\n]*[^$\n ])\$(?!\d))/),
  ],
  renderer: {
    html: ({ text, block }) => (block ? `<p>${escaped(text)}</p>` : escaped(text)),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || "picture")}</a>`,
  },
});

const ALLOWED = {
  ALLOWED_TAGS: "p br hr h1 h2 h3 h4 h5 h6 strong em del code pre blockquote ul ol li a table thead tbody tr th td span input"
    .split(" "),
  ALLOWED_ATTR: ["href", "title", "class", "start", "align", "type", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  // DOMPurify takes every other attribute for an address
  ADD_URI_SAFE_ATTR: ["align", "start", "type", "checked", "disabled"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

/** An answer as it grows. `update` touches only the blocks that have changed since the last one. */
export class Markdown {
  constructor() {
    this.node = element("div", "answer");
    this.source = "";
    this._blocks = [];
  }

  update(source) {
    this.source = source;
    const tokens = marked.lexer(source).filter((token) => token.type !== "space");
    let same = 0;
    while (same < tokens.length && this._blocks[same] === tokens[same].raw) same += 1;
    while (this.node.childElementCount > same) this.node.lastElementChild.remove();
    for (const token of tokens.slice(same)) this.node.append(block(token));
    this._blocks = tokens.map((token) => token.raw);
  }

  /** Updates every block: definitions of links at the end count for the beginning too. */
  complete(source) {
    this._blocks = [];
    this.update(source);
  }
}

function block(token) {
  const made = element("div", "block");
  made.append(DOMPurify.sanitize(marked.parser([token]), ALLOWED));
  for (const link of made.querySelectorAll("a")) {
    // the page that is opened learns nothing of this one
    Object.assign(link, { target: "_blank", rel: "noopener noreferrer", title: link.title || link.href });
  }
  for (const code of made.querySelectorAll("pre > code")) frame(code);
  return made;
}

/** Puts a line above a code block: its language, and a button that copies it. */
function frame(code) {
  const box = element("div", "code");
  const line = element("div", "code-line quiet");
  line.append(element("span", "", /language-(\S+)/.exec(code.className)?.[1] ?? ""), copyButton(() => code.textContent));
  code.parentNode.replaceWith(box);
  const listing = element("pre");
  listing.tabIndex = 0; // scrolls, so that keys must reach it
  listing.append(code);
  box.append(line, listing);
}
