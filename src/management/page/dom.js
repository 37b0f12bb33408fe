// Elements out of code. Whatever comes from the broker ends up in text nodes and attributes without meaning to the
// browser, never in markup: this is the only file that creates elements, and it has no way to parse any.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element: `element("a", {href: "#/", class: "x", onclick: f}, "text", [more, children])`. */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Puts other children into an element. */
export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter(isShown));
  return parent;
}

/** Sets the text of an element, if it is another one: what has not changed keeps its selection. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** An id that no other element has. */
export function uniqueId() {
  return `id-${(lastId += 1)}`;
}

let lastId = 0;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, checked(name, value));
  }
  node.append(...children.flat(Infinity).filter(isShown));
  return node;
}

/** A link leads to a place of this page or to a file that it made, whatever a name says. */
function checked(name, value) {
  if (name === "href" && !/^(#|blob:)/.test(value)) throw new Error(`not a place of this page: ${value}`);
  return value;
}

function isShown(child) {
  return child !== null && child !== undefined && child !== false;
}
