/** Measurements as words. */

export const tokens = (count) => (count === 1 ? "1 token" : `${count} tokens`);
export const speed = (perSecond) => `${perSecond.toFixed(perSecond < 100 ? 1 : 0)} tokens/s`;
export const bytes = (count) => (count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`);
export const time = (seconds) => (seconds < 1 ? `${(seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0)} ms`
  : `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`);

const MEASURED = ["completion_tokens", "time_to_first_token_seconds", "tokens_per_second", "wire_bytes_sent",
  "wire_bytes_received", "replays"];
/** The parts of an answer's time, in the order in which a token passes them; the service's words, and their meaning. */
export const PARTS = [
  ["bottom", "first layers, on the client service"],
  ["wire", "between client service and trunk"],
  ["queue", "waiting at the trunk"],
  ["trunk", "middle layers, on the workers"],
  ["top", "last layers and head, on the client service"],
  ["sampling", "choosing the token, on the client service"],
];

/** Whether a value of unknown origin is the service's object of measurements. */
export function isMeasured(value) {
  return MEASURED.every((name) => Number.isFinite(value?.[name])) && Array.isArray(value.failovers)
    && PARTS.every(([name]) => Number.isFinite(value.seconds?.[name]));
}

/** The page's own numbers while an answer comes. */
export class Clock {
  constructor() {
    this.pieces = 0;
    this.first = 0;
    this.last = 0;
  }

  tick() {
    this.pieces += 1;
    this.last = performance.now();
    this.first ||= this.last;
  }

  get words() {
    if (!this.pieces) return [];
    const seconds = (this.last - this.first) / 1000;
    return [...(seconds > 0 ? [speed((this.pieces - 1) / seconds)] : []), tokens(this.pieces)];
  }
}

/** The service's numbers of a complete answer. */
export function finalWords(measured, finishReason) {
  const { tokens_per_second: perSecond, wire_bytes_sent: sent, wire_bytes_received: received } = measured;
  return [
    ...(perSecond > 0 ? [speed(perSecond)] : []),
    `first token ${measured.time_to_first_token_seconds.toFixed(2)} s`,
    `${bytes(sent)} sent, ${bytes(received)} received`,
    tokens(measured.completion_tokens),
    ...(finishReason === "length" ? ["cut at the limit"] : []),
  ];
}
