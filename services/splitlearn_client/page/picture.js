/** A picture of one answer: where its time went, and what crossed the wire. */

import { element } from "./dom.js";
import { PARTS, bytes, time } from "./numbers.js";

const SHOWN = [...PARTS, ["other", "everything else in the client service"]];

/** The picture for the service's measurements. */
export function picture(measured) {
  const { wire_bytes_sent: sent, wire_bytes_received: received, replays, failovers } = measured;
  const figure = element("figure", "picture");
  const known = Object.values(measured.seconds).reduce((sum, each) => sum + each, 0);
  // a long prompt's pieces are on the wire and in several parts at a time, so that the parts may be more than the whole
  const seconds = { ...measured.seconds, other: Math.max(0, elapsed(measured) - known) };
  const total = known + seconds.other;
  figure.append(way(seconds, sent, received), bar(seconds, total), legend(seconds, total));
  const events = [
    ...(replays ? [`All rows were sent again ${replays === 1 ? "once" : `${replays} times`}.`] : []),
    ...failovers.map((each) => `A worker was replaced (${each.reason}), in ${time(each.resumption_seconds)}.`),
  ];
  const said = `${time(elapsed(measured))} from the question to the last token. ${bytes(sent)} of hidden states went to the trunk and ${bytes(received)} came back; no text, no token ids.`;
  figure.append(element("figcaption", "quiet", [said, ...events].join(" ")));
  return figure;
}

/** The time from the request to its last token, in seconds. */
function elapsed({ time_to_first_token_seconds: first, tokens_per_second: perSecond, completion_tokens: count }) {
  return first + (perSecond > 0 ? (count - 1) / perSecond : 0);
}

/** The way of every token, with the time at each stop and the bytes between them. */
function way(seconds, sent, received) {
  const path = element("ol", "path measured");
  const stop = (name, took, className = "") => {
    const made = element("li", className);
    made.append(element("strong", "", name), element("span", "quiet", time(took)));
    path.append(made);
  };
  const arrow = (label) => path.append(element("li", "arrow quiet", label));
  stop("bottom", seconds.bottom);
  arrow(bytes(sent));
  stop("trunk", seconds.trunk, "away");
  arrow(bytes(received));
  stop("top", seconds.top);
  return path;
}

function bar(seconds, total) {
  const made = element("div", "bar");
  // the legend says the same in words
  made.setAttribute("aria-hidden", "true");
  for (const [name] of SHOWN) {
    const part = element("div", `part ${name}`);
    part.style.flexGrow = String(total ? seconds[name] / total : 0);
    made.append(part);
  }
  return made;
}

function legend(seconds, total) {
  const list = element("ul", "legend");
  for (const [name, meaning] of SHOWN) {
    const share = total ? (100 * seconds[name]) / total : 0;
    const line = element("li");
    line.title = meaning;
    line.append(element("span", `swatch ${name}`), element("span", "", name), element("span", "quiet numbers",
      `${time(seconds[name])} · ${share < 1 && share > 0 ? "<1" : share.toFixed(0)} %`));
    list.append(line);
  }
  return list;
}
