// Numbers as people read them.

const PART = "part of a letter"; // a token that holds some of a letter's bytes, and not the last of them
const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

/** 2312704 -> "2.3 MB". */
export function size(bytes) {
  let unit = 0;
  let value = bytes;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

/** 0.0123 -> "12 ms", 1.5 -> "1.5 s". */
export function duration(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

/** 1, "token" -> "1 token"; 2 -> "2 tokens". */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** 0.4321 -> "43 %"; what is neither none nor all is never shown as 0 or 100. */
export function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  if (value < 100 && value > 99.9) return "> 99.9 %";
  return `${value < 10 || value > 99 ? +value.toFixed(1) : Math.round(value)} %`;
}

/** A token as one can see it: spaces and ends of lines by their signs. */
export function visible(token) {
  return token.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || PART;
}

/** A token as a screen reader can say it. */
export function spoken(token) {
  if (token === "") return PART;
  if (token === "\n") return "end of line";
  if (token.trim() === "") return count(token.length, "space");
  return token.trim();
}
