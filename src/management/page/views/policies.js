// Policies, which give arguments to queues and exchanges by their names, and operator policies, which set limits to
// them.

import { get, path, put, remove } from "../api.js";
import { element } from "../dom.js";
import { argumentsField, choice, folded, form, text, vhostChoice, wholeNumber } from "../form.js";
import { count, lines } from "../format.js";
import { dangerButton } from "../notice.js";
import { refresh } from "../poll.js";
import { session } from "../session.js";
import { table } from "../table.js";

const DEFINITIONS = [
  ["message-ttl", "number", "Milliseconds until a message expires."],
  ["expires", "number", "Milliseconds without use until the queue is deleted."],
  ["max-length", "number", "The most messages that may be ready."],
  ["max-length-bytes", "number", "The most octets that may be ready."],
  ["overflow", "string", "drop-head, reject-publish or reject-publish-dlx"],
  ["dead-letter-exchange", "string", "Takes what is rejected, has expired or was too much."],
  ["dead-letter-routing-key", "string", "The routing key of dead letters, if not their own."],
  ["delivery-limit", "number", "How often a message may be redelivered."],
  ["alternate-exchange", "string", "Of exchanges: takes what no queue takes."],
];

const OPERATOR_DEFINITIONS = DEFINITIONS.filter(([name]) =>
  ["message-ttl", "expires", "max-length", "max-length-bytes", "delivery-limit"].includes(name),
);

const KINDS = {
  policies: {
    title: "Policies",
    one: "policy",
    applies: ["all", "queues", "exchanges"],
    known: DEFINITIONS,
    empty: "No policy.",
    tag: "policymaker",
  },
  "operator-policies": {
    title: "Operator policies",
    one: "operator policy",
    applies: ["queues"],
    known: OPERATOR_DEFINITIONS,
    empty: "No operator policy.",
    tag: "administrator",
  },
};

export function policies() {
  const parts = Object.keys(KINDS).map(part);
  return {
    node: element(
      "div",
      { class: "stack" },
      parts.map((each) => each.nodes),
    ),
    refresh: () => Promise.all(parts.map((each) => each.refresh())),
  };
}

function part(kind) {
  const { title, one, applies, known, empty, tag } = KINDS[kind];
  const mayChange = session.may(tag);
  const fields = {
    vhost: vhostChoice(session),
    name: text("Name", { required: true }),
    pattern: text("Pattern", { required: true, title: "A regular expression for names, such as ^orders\\." }),
    applies: choice("Applies to", applies),
    priority: text("Priority", { value: "0", inputmode: "numeric", title: "The highest one that matches is taken." }),
    definition: argumentsField("Definition", known),
  };
  const save = form({
    fields,
    submit: `Save ${one}`,
    send: async (values) => {
      await put(path(kind, values.vhost, values.name), {
        pattern: values.pattern,
        "apply-to": values.applies,
        priority: wholeNumber(values.priority, "Priority") ?? 0,
        definition: values.definition,
      });
      refresh();
      return `Saved: ${values.name}.`;
    },
  });
  const editor = folded(`Add or change ${one === "policy" ? "a policy" : "an operator policy"}`, save);
  const edit = (item) => {
    fields.vhost.input.value = item.vhost;
    fields.name.input.value = item.name;
    fields.pattern.input.value = item.pattern;
    fields.applies.input.value = item["apply-to"];
    fields.priority.input.value = item.priority;
    fields.definition.set(item.definition);
    editor.open = true;
    fields.pattern.input.focus();
  };
  const rows = table({
    label: title,
    empty,
    key: (item) => JSON.stringify([item.vhost, item.name]),
    columns: [
      { title: "Name", class: "name", show: (item) => item.name },
      { title: "Virtual host", isSecondary: true, show: (item) => item.vhost },
      { title: "Pattern", class: "name", show: (item) => item.pattern },
      { title: "Applies to", isSecondary: true, show: (item) => item["apply-to"] },
      { title: "Definition", class: "name", isSecondary: true, show: (item) => lines(item.definition) },
      { title: "Priority", isNumber: true, isSecondary: true, show: (item) => count(item.priority) },
      ...(mayChange ? [{ title: "", class: "action", show: (item) => actions(kind, item, edit) }] : []),
    ],
  });
  return {
    nodes: [element("section", { class: "card" }, element("h2", {}, title), rows.node), mayChange ? editor : null],
    async refresh() {
      rows.update(await get(session.vhost ? path(kind, session.vhost) : kind));
    },
  };
}

function actions(kind, item, edit) {
  const change = element("button", { type: "button", class: "quiet", onclick: () => edit(item) }, "Edit");
  const drop = dangerButton(
    "Delete",
    { title: "Delete this policy?", text: `${item.name}: what it gave to queues and exchanges is taken away at once.` },
    async () => {
      await remove(path(kind, item.vhost, item.name));
      refresh();
      return `${item.name} has been deleted.`;
    },
  );
  // The buttons know the policy, so a changed one gets new ones.
  return { node: element("span", { class: "buttons", "data-key": JSON.stringify(item) }, change, drop) };
}
