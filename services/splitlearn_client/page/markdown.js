/** Markdown as DOM nodes. What a model wrote is a stranger's: no HTML of it is taken, and no picture is loaded. */

import { copyButton, element } from "./dom.js";
import DOMPurify from "./vendor/dompurify.js";
import { Marked } from "./vendor/marked.js";

// milliseconds; a text that takes longer is shown as it is
const TOO_SLOW = 1000;

const escaped = (text) => text.replace(/[&<>"]/g, (each) => `&#${each.charCodeAt(0)};`);

/**
 * A formula is shown as it is written: its underscores and stars are not emphasis.
 *
 * Lengths are bounded, and `start` finds whole formulas: marked reads on behind each start, so that thousands of dollars
 * would take quadratic time.
 */
function formula(name, level, core, before, html) {
  const here = new RegExp(`^(?:${core})`);
  const ahead = new RegExp(`${before}(?:${core})`);
  return {
    name, level,
    start(text) {
      const at = text.search(ahead);
      return at < 0 ? undefined : at;
    },
    tokenizer(text) {
      const found = here.exec(text);
      return found ? { type: name, raw: found[0], text: found[1] ?? found[2] ?? found[0] } : undefined;
    },
    renderer: (token) => html(escaped(token.text)),
  };
}

const BLOCK = String.raw`\$\$([^$]{1,4000})\$\$(?=\n|$)|\\\[([^]{1,4000}?)\\\](?=\n|$)`;
// a dollar beside a space or a word is money or a variable: as in Pandoc's Markdown, and stricter
const TERM = String.raw`\$\$[^$]{1,1000}\$\$|\\\(.{1,1000}?\\\)|\$(?![ $])[^$\n]{0,500}(?<! )\$(?!\w)`;

const marked = new Marked({
  gfm: true,
  breaks: true,
  extensions: [
    formula("formula", "block", BLOCK, "(?<=\n)", (text) => `<pre class="math">${text.trim()}</pre>`),
    formula("term", "inline", TERM, "", (text) => `<span class="math">${text}</span>`),
  ],
  tokenizer: {
    // what stands between tags of HTML is text as well
    inlineText() {
      this.lexer.state.inRawBlock = false;
      return false;
    },
  },
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
  ADD_URI_SAFE_ATTR: ["align", "class", "start", "title", "type", "checked", "disabled"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const VALUES = { class: /^(?:math|language-\S+)$/, type: /^checkbox$/ };

DOMPurify.addHook("uponSanitizeAttribute", (_, attribute) => {
  const values = VALUES[attribute.attrName];
  if (values && !values.test(attribute.attrValue)) attribute.keepAttr = false;
});
DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "INPUT" && node.type !== "checkbox") node.remove();
});

/** An answer as it grows. `update` touches only the blocks that have changed since the last one. */
export class Markdown {
  constructor() {
    this.node = element("div", "answer");
    this.clear();
  }

  clear() {
    this.cost = 0; // milliseconds of the last update
    this._blocks = [];
    this._isPlain = false;
    this.node.replaceChildren();
    this.node.classList.remove("plain");
  }

  update(source) {
    if (this._isPlain) {
      this.node.firstChild.data = source;
      return;
    }
    const began = performance.now();
    try {
      this._render(source);
    } catch (error) {
      // the text is nested thousands of times
      if (!(error instanceof RangeError)) throw error;
      this.showPlain(source);
    }
    this.cost = performance.now() - began;
    if (this.cost > TOO_SLOW) this.showPlain(source);
  }

  /** Shows the text as it is, from here on. */
  showPlain(source) {
    this._isPlain = true;
    this.node.classList.add("plain");
    this.node.replaceChildren(source);
  }

  _render(source) {
    const tokens = marked.lexer(source);
    // a link may be defined behind the blocks that use it
    if (Object.keys(tokens.links).length) this._blocks = [];
    const blocks = tokens.filter((token) => token.type !== "space");
    let same = 0;
    while (same < blocks.length && this._blocks[same] === blocks[same].raw) same += 1;
    const made = blocks.slice(same).map(block);
    while (this.node.childElementCount > same) this.node.lastElementChild.remove();
    this.node.append(...made);
    this._blocks = blocks.map((token) => token.raw);
  }
}

function block(token) {
  const made = element("div", "block");
  made.dir = "auto";
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
  listing.dir = "ltr";
  listing.tabIndex = 0; // scrolls, so that keys must reach it
  listing.append(code);
  box.append(line, listing);
}
