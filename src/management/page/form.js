// Forms: fields with labels, a button that waits for the answer, and the broker's words if it refuses.

import { element, replace, uniqueId } from "./dom.js";
import { tell } from "./notice.js";

/** A line of text. `options` are attributes of the input. */
export function text(label, options = {}) {
  return field(label, element("input", { type: "text", autocomplete: "off", spellcheck: "false", ...options }));
}

/** Text of several lines. */
export function area(label, options = {}) {
  return field(label, element("textarea", { rows: "4", spellcheck: "false", ...options }));
}

/** A choice: `options` are values, or [value, what is shown]. */
export function choice(label, options, { value, hint } = {}) {
  const select = element("select", {}, options.map(option));
  if (value !== undefined) select.value = value;
  return field(label, select, hint);
}

/** A box to tick. */
export function tick(label, isTicked = false, hint = null) {
  const box = element("input", { type: "checkbox", checked: isTicked });
  return {
    node: element(
      "label",
      { class: "tick" },
      box,
      element("span", {}, label, hint ? element("small", {}, hint) : null),
    ),
    get value() {
      return box.checked;
    },
    reset: () => (box.checked = isTicked),
    input: box,
  };
}

/** A choice of virtual host. */
export function vhostChoice(session, label = "Virtual host") {
  return choice(label, session.vhosts, { value: session.defaultVhost });
}

/**
 * A form. `fields` are by name, `send(values)` does the work and gives what to say then. With `keeps` the fields keep
 * what was typed.
 */
export function form({ fields, submit, send, keeps = false, isDangerous = false }) {
  const error = element("p", { class: "error", role: "alert" });
  const button = element("button", { type: "submit", class: isDangerous ? "danger" : "primary" }, submit);
  const shown = Object.values(fields).filter((each) => each.node);
  const node = element(
    "form",
    { class: "fields" },
    shown.map((each) => each.node),
    error,
    element("div", { class: "buttons" }, button),
  );
  node.addEventListener("submit", async (event) => {
    event.preventDefault();
    replace(error);
    button.disabled = true;
    node.setAttribute("aria-busy", "true");
    try {
      const values = Object.fromEntries(Object.entries(fields).map(([name, each]) => [name, each.value]));
      const said = await send(values);
      if (said) tell(said);
      if (!keeps) shown.forEach((each) => each.reset?.());
    } catch (problem) {
      replace(error, problem.message);
    }
    node.removeAttribute("aria-busy");
    button.disabled = false;
  });
  return node;
}

/** Something folded away until it is wanted. */
export function folded(title, ...children) {
  return element(
    "details",
    { class: "card folded" },
    element("summary", {}, title),
    element("div", { class: "folded-body" }, children),
  );
}

/** `known` are [name, kind, hint] of arguments that have a button. Gives an object of those filled in. */
export function argumentsField(label, known = []) {
  const rows = element("div", { class: "arguments" });
  const add = (name = "", kind = "string", value = "") => {
    const row = argumentRow(name, kind, value);
    rows.append(row.node);
    return row;
  };
  const node = element(
    "fieldset",
    { class: "wide" },
    element("legend", {}, label),
    rows,
    element(
      "div",
      { class: "chips" },
      known.map(([name, kind, hint]) =>
        element(
          "button",
          { type: "button", class: "chip", title: hint ?? name, onclick: () => add(name, kind).focus() },
          name,
        ),
      ),
      element("button", { type: "button", class: "chip", onclick: () => add().focus(true) }, "+ other"),
    ),
  );
  return {
    node,
    get value() {
      return Object.fromEntries([...rows.children].map((row) => row.read()).filter(([name]) => name !== ""));
    },
    reset: () => replace(rows),
    set: (values) => {
      replace(rows);
      for (const [name, value] of Object.entries(values))
        add(name, kindOf(value), typeof value === "object" ? JSON.stringify(value) : String(value));
    },
  };
}

/** A whole number from a field, or an error that names it. Empty is `undefined`. */
export function wholeNumber(value, label) {
  if (value.trim() === "") return undefined;
  if (!/^-?\d+$/.test(value.trim())) throw new Error(`${label}: "${value}" is not a whole number.`);
  return Number(value);
}

const KINDS = [
  ["string", "text"],
  ["number", "number"],
  ["boolean", "true/false"],
  ["json", "JSON"],
];

function argumentRow(name, kind, value) {
  const key = element("input", {
    value: name,
    "aria-label": "Name of the argument",
    placeholder: "name",
    autocomplete: "off",
    spellcheck: "false",
  });
  const content = element("input", {
    value,
    "aria-label": "Value of the argument",
    placeholder: "value",
    autocomplete: "off",
    spellcheck: "false",
  });
  const type = element("select", { "aria-label": "Type of the value" }, KINDS.map(option));
  type.value = kind;
  const node = element(
    "div",
    { class: "argument" },
    key,
    content,
    type,
    element(
      "button",
      { type: "button", class: "plain", "aria-label": "Remove this argument", onclick: () => node.remove() },
      "×",
    ),
  );
  node.read = () => [key.value, typed(key.value, content.value, type.value)];
  return { node, focus: (isNew) => (isNew ? key : content).focus() };
}

function typed(name, value, kind) {
  if (name === "" || kind === "string") return value;
  if (kind === "number") {
    if (value.trim() === "" || !Number.isFinite(Number(value))) throw new Error(`${name}: "${value}" is not a number.`);
    return Number(value);
  }
  if (kind === "boolean") {
    if (value !== "true" && value !== "false") throw new Error(`${name}: "${value}" is neither true nor false.`);
    return value === "true";
  }
  try {
    return JSON.parse(value);
  } catch (error) {
    throw new Error(`${name}: this is not JSON: ${error.message}`);
  }
}

function kindOf(value) {
  if (typeof value === "number" || typeof value === "boolean") return typeof value;
  return typeof value === "object" ? "json" : "string";
}

function option(each) {
  const [value, shown] = Array.isArray(each) ? each : [each, each];
  return element("option", { value }, shown);
}

function field(label, input, hint = input.dataset?.hint) {
  const initial = input.value;
  const id = uniqueId();
  const note = input.getAttribute("title");
  if (note) {
    input.removeAttribute("title");
    input.setAttribute("aria-describedby", id);
  }
  return {
    node: element(
      "label",
      { class: input.localName === "textarea" ? "field wide" : "field" },
      element("span", {}, label),
      input,
      note || hint ? element("small", { id }, note || hint) : null,
    ),
    get value() {
      return input.value;
    },
    reset: () => (input.value = initial),
    input,
  };
}
