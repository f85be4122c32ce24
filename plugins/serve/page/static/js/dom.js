// Elements without markup: what is a string becomes text, whatever stands in it.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Build an element.
 *
 * h("button", {class: "quiet", onclick: stop}, "Stop"). A property that is null, undefined or false is left out,
 * true stands for an attribute without a value, and names that begin with "on" are listeners.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A drawing of icons.svg, for eyes alone: what stands beside it or the button's label says the same in words. */
export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/page/icons.svg#${name}`);
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  drawing.append(use);
  return drawing;
}

/** A button that is a drawing; its label is read out and shown by the browser on hover. */
export function iconButton(name, label, onclick, more = {}) {
  const properties = {type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...more};
  return h("button", properties, icon(name));
}

/** The element of index.html with an id. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no element #${id}`);
  return found;
}

/** Call a function at the next frame, once for however many calls there were until then. */
export function oncePerFrame(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}
