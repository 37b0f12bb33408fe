// Bindings from and to an exchange, or to a queue.

import { get, path, post, remove } from "../api.js";
import { element, replace } from "../dom.js";
import { argumentsField, choice, folded, form, text } from "../form.js";
import { count, exchangeName, lines } from "../format.js";
import { dangerButton } from "../notice.js";
import { link } from "../place.js";
import { refresh } from "../poll.js";
import { table } from "../table.js";

/** An exchange can have a great many; the page does not show more of them. */
const SHOWN = 500;

const HEADERS_HINTS = [["x-match", "string", "all, any, all-with-x or any-with-x"]];

/**
 * Bindings found at `where`. `end` is what is shown of each: its `source` or its `destination`.
 */
export function bindingTable(title, where, end) {
  const rows = table({
    label: title,
    empty: end === "source" ? "Nothing is bound to it." : "It is bound to nothing.",
    key: (item) => JSON.stringify([item.source, item.destination_type, item.destination, item.properties_key]),
    columns: [
      end === "source"
        ? { title: "From exchange", class: "name", show: source }
        : { title: "To", class: "name", show: destination },
      { title: "Routing key", class: "name", show: (item) => item.routing_key },
      { title: "Arguments", class: "name", isSecondary: true, show: (item) => lines(item.arguments) },
      { title: "", class: "action", show: unbind },
    ],
  });
  const rest = element("p", { class: "quiet" });
  return {
    node: element("section", { class: "card" }, element("h2", {}, title), rows.node, rest),
    async refresh() {
      const all = await get(where);
      rows.update(all.slice(0, SHOWN));
      replace(rest, all.length > SHOWN ? `The first ${count(SHOWN)} of ${count(all.length)}.` : null);
    },
  };
}

/** Adds a binding from this exchange. */
export function bindFromForm(vhost, exchange) {
  const fields = {
    kind: choice("To", [
      ["q", "Queue"],
      ["e", "Exchange"],
    ]),
    destination: text("Name", { required: true }),
    key: text("Routing key"),
    arguments: argumentsField("Arguments", HEADERS_HINTS),
  };
  return folded(
    "Bind something to this exchange",
    form({ fields, submit: "Bind", send: (values) => bind(vhost, exchange, values.kind, values.destination, values) }),
  );
}

/** Adds a binding to this queue, or to this exchange. */
export function bindToForm(vhost, kind, name) {
  const fields = {
    source: text("From exchange", { required: true }),
    key: text("Routing key"),
    arguments: argumentsField("Arguments", HEADERS_HINTS),
  };
  const title = kind === "q" ? "Bind this queue to an exchange" : "Bind this exchange to another one";
  return folded(
    title,
    form({ fields, submit: "Bind", send: (values) => bind(vhost, values.source, kind, name, values) }),
  );
}

async function bind(vhost, source, kind, destination, { key, arguments: given }) {
  await post(path("bindings", vhost, "e", source, kind, destination), { routing_key: key, arguments: given });
  refresh();
  return "Bound.";
}

function unbind(item) {
  if (item.source === "") return { text: "" };
  const kind = item.destination_type === "queue" ? "q" : "e";
  const button = dangerButton(
    "Unbind",
    {
      title: "Unbind?",
      text: `Messages with routing key "${item.routing_key}" no longer go from ${item.source} to ${item.destination}.`,
    },
    async () => {
      await remove(path("bindings", item.vhost, "e", item.source, kind, item.destination, item.properties_key));
      refresh();
      return "Unbound.";
    },
  );
  button.dataset.key = "unbind";
  return { node: button };
}

function source(item) {
  return { text: exchangeName(item.source), href: link("exchanges", item.vhost, item.source) };
}

function destination(item) {
  const isQueue = item.destination_type === "queue";
  return {
    text: exchangeName(item.destination),
    href: link(isQueue ? "queues" : "exchanges", item.vhost, item.destination),
    badges: isQueue ? [] : [["exchange"]],
  };
}
