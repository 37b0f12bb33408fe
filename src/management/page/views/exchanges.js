// Exchanges.

import { exchangePath, get, path, put, remove } from "../api.js";
import { chart, PAST, rates } from "../chart.js";
import { element } from "../dom.js";
import { argumentsField, choice, folded, form, text, tick, vhostChoice } from "../form.js";
import { exchangeName, lines, rate, rateOf } from "../format.js";
import { dangerButton } from "../notice.js";
import { go, link } from "../place.js";
import { refresh } from "../poll.js";
import { session } from "../session.js";
import { facts, list } from "../table.js";
import { bindFromForm, bindingTable, bindToForm } from "./bindings.js";
import { publishForm } from "./publish.js";

const TYPES = ["direct", "fanout", "topic", "headers", "x-consistent-hash", "x-delayed-message"];

const ARGUMENTS = [
  ["alternate-exchange", "string", "Takes what no queue takes."],
  ["x-delayed-type", "string", "What a delayed exchange routes like: direct, fanout, topic or headers."],
];

export function exchanges() {
  const shown = list({
    where: () => (session.vhost ? path("exchanges", session.vhost) : "exchanges"),
    label: "Exchanges",
    noun: "exchanges",
    key: (item) => JSON.stringify([item.vhost, item.name]),
    empty: "No exchange.",
    columns: [
      {
        title: "Name",
        sort: "name",
        class: "name",
        show: (item) => ({ text: exchangeName(item.name), href: link("exchanges", item.vhost, item.name) }),
      },
      { title: "Virtual host", sort: "vhost", isSecondary: true, show: (item) => item.vhost },
      { title: "Type", sort: "type", show: (item) => item.type },
      { title: "Features", isSecondary: true, show: (item) => ({ badges: features(item) }) },
      {
        title: "In",
        sort: "message_stats.publish_in_details.rate",
        isNumber: true,
        show: (item) => rate(rateOf(item.message_stats, "publish_in")),
      },
      {
        title: "Out",
        sort: "message_stats.publish_out_details.rate",
        isNumber: true,
        show: (item) => rate(rateOf(item.message_stats, "publish_out")),
      },
    ],
  });
  const fields = {
    vhost: vhostChoice(session),
    name: text("Name", { required: true }),
    type: choice("Type", TYPES),
    isDurable: tick("Durable", true, "Outlives a restart of the broker."),
    isAutoDelete: tick("Auto-delete", false, "Goes with its last binding."),
    isInternal: tick("Internal", false, "Takes messages from other exchanges only."),
    arguments: argumentsField("Arguments", ARGUMENTS),
  };
  const add = form({
    fields,
    submit: "Add exchange",
    send: async (values) => {
      await put(path("exchanges", values.vhost, values.name), {
        type: values.type,
        durable: values.isDurable,
        auto_delete: values.isAutoDelete,
        internal: values.isInternal,
        arguments: values.arguments,
      });
      refresh();
      return `Exchange ${values.name} is there.`;
    },
  });
  return {
    node: element("div", { class: "stack" }, shown.node, folded("Add an exchange", add)),
    refresh: shown.refresh,
  };
}

/** One exchange. */
export function exchange(vhost, name = "") {
  const about = facts();
  const isDefault = name === "";
  const messages = chart({
    title: "Messages per second",
    format: rate,
    lines: [
      { name: "publish_in", title: "In", color: 1 },
      { name: "publish_out", title: "Out", color: 3 },
    ],
  });
  const from = bindingTable("Bindings from it", exchangePath(vhost, name, "bindings", "source"), "destination");
  const to = bindingTable("Bindings to it", exchangePath(vhost, name, "bindings", "destination"), "source");
  const isOurs = isDefault || name.startsWith("amq.");
  const drop = dangerButton(
    "Delete",
    {
      title: "Delete this exchange?",
      text: `${name} and its bindings: messages published to it are refused from then on.`,
    },
    async () => {
      await remove(exchangePath(vhost, name));
      go("exchanges");
      return `Exchange ${name} has been deleted.`;
    },
  );
  return {
    title: exchangeName(name),
    actions: isOurs ? null : element("div", { class: "actions" }, drop),
    node: element(
      "div",
      { class: "stack" },
      element(
        "div",
        { class: "pair" },
        element("section", { class: "card" }, element("h2", {}, "Exchange"), about.node),
        messages.node,
      ),
      isDefault
        ? element("p", { class: "quiet" }, "Every queue is bound to the default exchange by its name.")
        : [from.node, to.node, bindFromForm(vhost, name), bindToForm(vhost, "e", name)],
      folded("Publish a message", publishForm(vhost, name)),
    ),
    async refresh() {
      const asks = [get(exchangePath(vhost, name), PAST)];
      if (!isDefault) asks.push(from.refresh(), to.refresh());
      const [it] = await Promise.all(asks);
      messages.update(Date.now(), {
        publish_in: rates(it.message_stats, "publish_in"),
        publish_out: rates(it.message_stats, "publish_out"),
      });
      about.update([
        ["Virtual host", it.vhost],
        ["Type", it.type],
        ["Durable", it.durable ? "yes" : "no"],
        ["Auto-delete", it.auto_delete ? "yes" : "no"],
        ["Internal", it.internal ? "yes" : "no"],
        ["Arguments", lines(it.arguments) || "none"],
        ["Policy", it.policy || "none"],
      ]);
    },
  };
}

function features(item) {
  return [
    item.durable ? null : ["transient", "warn"],
    item.auto_delete ? ["auto-delete"] : null,
    item.internal ? ["internal"] : null,
    Object.keys(item.arguments ?? {}).length ? ["arguments", "", lines(item.arguments)] : null,
    item.policy ? ["policy", "", item.policy] : null,
  ].filter(Boolean);
}
