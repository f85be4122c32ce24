// Markdown as elements. A model's text is a stranger's: whatever it holds, nothing in it runs and nothing is fetched.

import {Marked} from "../vendor/marked/marked.esm.js";
import DOMPurify from "../vendor/dompurify/purify.es.mjs";

const ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"};

function escaped(text) {
  return text.replace(/[&<>"]/g, (sign) => ESCAPES[sign]);
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    // HTML in an answer is shown as it was written: whoever asks for HTML wants to read it.
    html({text}) {
      return escaped(text);
    },
    // A picture would tell its server that this answer is being read. It becomes a link, which waits for a click.
    image({href, text}) {
      return `<a href="${escaped(href)}">${escaped(text || href)}</a>`;
    },
  },
});

const ALLOWED = {
  ALLOWED_TAGS: (
    "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i li ol p pre strong sub sup table tbody td th thead tr ul"
  ).split(" "),
  ALLOWED_ATTR: ["href", "title", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["start", "align"], // others are held to the line above
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/** A text in markdown as a fragment of the document. */
export function fromMarkdown(text) {
  const fragment = DOMPurify.sanitize(marked.parse(text), ALLOWED);
  // Headings inside an answer stand below the answer's own (h3), for those who go from heading to heading.
  for (const heading of fragment.querySelectorAll("h1, h2, h3")) {
    const lower = document.createElement("h4");
    lower.className = `was-${heading.tagName.toLowerCase()}`;
    lower.append(...heading.childNodes);
    heading.replaceWith(lower);
  }
  // What is wider than the page scrolls by itself, by keyboard too.
  for (const wide of fragment.querySelectorAll("pre, table")) {
    const frame = document.createElement("div");
    frame.className = "wide";
    frame.tabIndex = 0;
    frame.setAttribute("role", "group");
    frame.setAttribute("aria-label", wide.tagName === "PRE" ? "Code" : "Table");
    wide.replaceWith(frame);
    frame.append(wide);
  }
  return fragment;
}
