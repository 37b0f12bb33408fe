// Queues: the list.

import { path, put } from "../api.js";
import { element } from "../dom.js";
import { argumentsField, choice, folded, form, text, tick, vhostChoice } from "../form.js";
import { count, duration, lines, rate, rateOf } from "../format.js";
import { link } from "../place.js";
import { refresh } from "../poll.js";
import { session } from "../session.js";
import { list, stateBadge } from "../table.js";

const FIELDS = [
  "name",
  "vhost",
  "type",
  "durable",
  "auto_delete",
  "exclusive",
  "arguments",
  "policy",
  "operator_policy",
  "state",
  "consumers",
  "messages",
  "messages_ready",
  "messages_unacknowledged",
  "oldest_ready_age_ms",
  "message_stats.publish_details.rate",
  "message_stats.deliver_get_details.rate",
];

const TYPES = [
  ["classic", "Classic"],
  ["quorum", "Quorum"],
  ["stream", "Stream"],
];

/** Arguments of a queue with a button: also what policies can say, without the `x-`. */
export const ARGUMENTS = [
  ["x-message-ttl", "number", "Milliseconds until a message expires."],
  ["x-expires", "number", "Milliseconds without use until the queue is deleted."],
  ["x-max-length", "number", "The most messages that may be ready."],
  ["x-max-length-bytes", "number", "The most octets that may be ready."],
  ["x-overflow", "string", "drop-head, reject-publish or reject-publish-dlx"],
  ["x-dead-letter-exchange", "string", "Takes what is rejected, has expired or was too much."],
  ["x-dead-letter-routing-key", "string", "The routing key of dead letters, if not their own."],
  ["x-max-priority", "number", "The highest priority, up to 255."],
  ["x-single-active-consumer", "boolean", "One consumer at a time gets messages."],
];

export function queues() {
  const shown = list({
    where: () => (session.vhost ? path("queues", session.vhost) : "queues"),
    fields: FIELDS,
    label: "Queues",
    noun: "queues",
    key: (item) => JSON.stringify([item.vhost, item.name]),
    empty: "No queue yet. A client declares the ones it needs, or add one below.",
    columns: [
      {
        title: "Name",
        sort: "name",
        class: "name",
        show: (item) => ({ text: item.name, href: link("queues", item.vhost, item.name) }),
      },
      { title: "Virtual host", sort: "vhost", isSecondary: true, show: (item) => item.vhost },
      { title: "Features", isSecondary: true, show: (item) => ({ badges: queueFeatures(item) }) },
      { title: "State", sort: "state", isSecondary: true, show: (item) => ({ badges: [stateBadge(item.state)] }) },
      { title: "Ready", sort: "messages_ready", isNumber: true, show: (item) => count(item.messages_ready) },
      {
        title: "Unacked",
        sort: "messages_unacknowledged",
        isNumber: true,
        show: (item) => count(item.messages_unacknowledged),
      },
      { title: "Total", sort: "messages", isNumber: true, isSecondary: true, show: (item) => count(item.messages) },
      {
        title: "Oldest",
        sort: "oldest_ready_age_ms",
        isNumber: true,
        isSecondary: true,
        show: (item) => duration(item.oldest_ready_age_ms),
      },
      {
        title: "Consumers",
        sort: "consumers",
        isNumber: true,
        isSecondary: true,
        show: (item) => count(item.consumers),
      },
      {
        title: "In",
        sort: "message_stats.publish_details.rate",
        isNumber: true,
        isSecondary: true,
        show: (item) => rate(rateOf(item.message_stats, "publish")),
      },
      {
        title: "Out",
        sort: "message_stats.deliver_get_details.rate",
        isNumber: true,
        isSecondary: true,
        show: (item) => rate(rateOf(item.message_stats, "deliver_get")),
      },
    ],
  });
  return {
    node: element("div", { class: "stack" }, shown.node, folded("Add a queue", addForm())),
    refresh: shown.refresh,
  };
}

function addForm() {
  const fields = {
    vhost: vhostChoice(session),
    name: text("Name", { required: true }),
    type: choice("Type", TYPES),
    isDurable: tick("Durable", true, "Outlives a restart of the broker, and so do its persistent messages."),
    isAutoDelete: tick("Auto-delete", false, "Goes with its last consumer."),
    arguments: argumentsField("Arguments", ARGUMENTS),
  };
  return form({
    fields,
    submit: "Add queue",
    send: async (values) => {
      const type = values.type === "classic" ? {} : { "x-queue-type": values.type };
      await put(path("queues", values.vhost, values.name), {
        durable: values.isDurable,
        auto_delete: values.isAutoDelete,
        arguments: { ...type, ...values.arguments },
      });
      refresh();
      return `Queue ${values.name} is there.`;
    },
  });
}

/** Marks that say what a queue is, where it is not what most are: classic and durable. */
export function queueFeatures(item) {
  return [
    item.type && item.type !== "classic" ? [item.type, "good"] : null,
    item.durable ? null : ["transient", "warn"],
    item.auto_delete ? ["auto-delete"] : null,
    item.exclusive ? ["exclusive"] : null,
    lines(item.arguments) ? ["arguments", "", lines(item.arguments)] : null,
    item.policy || item.operator_policy
      ? ["policy", "", [item.policy, item.operator_policy].filter(Boolean).join(", ")]
      : null,
  ].filter(Boolean);
}
