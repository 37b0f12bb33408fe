// One queue: how deep it is and how fast, who consumes it, and what can be done with its messages.

import { ApiError, get, path, post, put, remove } from "../api.js";
import { chart, levels, PAST, rates } from "../chart.js";
import { element, replace } from "../dom.js";
import { choice, folded, form, text, tick, wholeNumber } from "../form.js";
import { bytes, count, dateTime, dateTimeText, duration, exchangeName, lines, plain, rate } from "../format.js";
import { confirmed, dangerButton } from "../notice.js";
import { go, link } from "../place.js";
import { refresh } from "../poll.js";
import { session } from "../session.js";
import { facts, stateBadge, table } from "../table.js";
import { bindingTable, bindToForm } from "./bindings.js";
import { consumerColumns } from "./channels.js";
import { DEPTH_LINES } from "./lines.js";
import { publishForm } from "./publish.js";
import { shovelState } from "./shovels.js";

const LINES = [
  { name: "publish", title: "Publish", color: 1 },
  { name: "deliver", title: "Deliver, acks by hand", color: 3 },
  { name: "deliver_no_ack", title: "Deliver, acks automatic", color: 6 },
  { name: "get", title: "Get, acks by hand", color: 7 },
  { name: "get_no_ack", title: "Get, acks automatic", color: 8 },
  { name: "ack", title: "Acknowledge", color: 4 },
  { name: "redeliver", title: "Redeliver", color: 5 },
];

/** The most octets of a payload that are fetched to be shown. */
const SHOWN_BYTES = 50_000;
const MOST_MESSAGES = 500;

const ACK_MODES = [
  ["ack_requeue_true", "Look: they go back to the queue"],
  ["ack_requeue_false", "Take: they leave the queue"],
  ["reject_requeue_true", "Reject, back to the queue"],
  ["reject_requeue_false", "Reject, to the dead letters"],
];

export function queue(vhost, name) {
  const where = path("queues", vhost, name);
  const about = facts();
  const holds = facts();
  const depths = chart({ title: "Messages in the queue", lines: DEPTH_LINES, format: count });
  const messages = chart({ title: "Messages per second", lines: LINES, format: rate });
  const consumers = table({
    label: "Consumers",
    empty: "Nothing consumes this queue.",
    key: (item) => `${item.channel_details?.name} ${item.consumer_tag}`,
    columns: consumerColumns(false),
  });
  const bindings = bindingTable("Bindings", path("queues", vhost, name, "bindings"), "source");
  const moving = moveSection(vhost, name);
  const purge = dangerButton(
    "Purge",
    {
      title: "Purge this queue?",
      text: `All messages of ${name} that are ready are deleted; those that consumers hold are not.`,
    },
    async () => {
      await remove(path("queues", vhost, name, "contents"));
      refresh();
      return `Queue ${name} has been purged.`;
    },
  );
  const drop = dangerButton(
    "Delete",
    { title: "Delete this queue?", text: `${name}, its messages and its bindings are deleted.` },
    async () => {
      await remove(where);
      go("queues");
      return `Queue ${name} has been deleted.`;
    },
  );
  return {
    title: name,
    actions: element("div", { class: "actions" }, purge, drop),
    node: element(
      "div",
      { class: "stack" },
      element("div", { class: "pair" }, depths.node, messages.node),
      element(
        "div",
        { class: "pair" },
        element("section", { class: "card" }, element("h2", {}, "Holds"), holds.node),
        element("section", { class: "card" }, element("h2", {}, "Queue"), about.node),
      ),
      element("section", { class: "card" }, element("h2", {}, "Consumers"), consumers.node),
      bindings.node,
      bindToForm(vhost, "q", name),
      folded("Publish a message", publishForm(vhost, "", name)),
      folded("Get messages", getSection(vhost, name)),
      moving.node,
    ),
    async refresh() {
      const [it] = await Promise.all([
        get(where, PAST),
        unlessRefused(bindings.refresh()),
        unlessRefused(moving.refresh()),
      ]);
      const now = Date.now();
      depths.update(now, Object.fromEntries(DEPTH_LINES.map((line) => [line.name, levels(it, line.name)])));
      messages.update(now, Object.fromEntries(LINES.map((line) => [line.name, rates(it.message_stats, line.name)])));
      consumers.update(it.consumer_details ?? []);
      holds.update([
        ["Ready", figure(it.messages_ready, it.message_bytes_ready)],
        ["Unacknowledged", figure(it.messages_unacknowledged, it.message_bytes_unacknowledged)],
        ["Persistent", figure(it.messages_persistent, it.message_bytes_persistent)],
        ["In memory", figure(it.messages_ram, it.message_bytes_ram)],
        [
          "Age of the oldest ready",
          it.oldest_ready_age_ms === undefined ? undefined : duration(it.oldest_ready_age_ms),
        ],
        ["Timestamp of the oldest", it.head_message_timestamp ? dateTime(it.head_message_timestamp * 1000) : undefined],
        [
          "Used by consumers",
          it.consumer_utilisation === undefined || !it.consumers
            ? undefined
            : `${Math.round(it.consumer_utilisation * 100)} %`,
        ],
      ]);
      about.update([
        ["Virtual host", it.vhost],
        ["Type", it.type],
        ["State", { badges: [stateBadge(it.state)] }],
        ["Durable", it.durable ? "yes" : "no"],
        ["Auto-delete", it.auto_delete ? "yes" : "no"],
        ["Exclusive", it.exclusive ? "yes" : undefined],
        ["Arguments", lines(it.arguments) || "none"],
        ["Policy", it.policy || "none"],
        ["Operator policy", it.operator_policy || "none"],
        ["What the policies make of it", lines(it.effective_policy_definition) || "none"],
        ["Active consumer", it.single_active_consumer_tag || it.exclusive_consumer_tag || undefined],
        ["Idle since", dateTimeText(it.idle_since)],
      ]);
    },
  };
}

/** What goes with the queue may be forbidden to this user; the queue is shown without it then. */
async function unlessRefused(request) {
  try {
    await request;
  } catch (problem) {
    if (!(problem instanceof ApiError)) throw problem;
  }
}

function figure(messages, octets) {
  if (messages === undefined) return undefined;
  return octets === undefined ? count(messages) : `${count(messages)} (${bytes(octets)})`;
}

function getSection(vhost, name) {
  const found = element("ol", { class: "messages", "aria-live": "polite" });
  const fields = {
    count: text("How many", { value: "1", inputmode: "numeric", required: true }),
    mode: choice("And then", ACK_MODES),
    encoding: choice("Show payloads", [
      ["auto", "as text, if they are"],
      ["base64", "as base64"],
    ]),
  };
  const send = async (values) => {
    const wanted = wholeNumber(values.count, "How many");
    if (!(wanted >= 1 && wanted <= MOST_MESSAGES)) throw new Error(`How many: from 1 to ${MOST_MESSAGES}.`);
    const isLost = values.mode.endsWith("false");
    if (
      isLost &&
      !(await confirmed({
        title: "Take them out of the queue?",
        text: `Up to ${count(wanted)} messages leave ${name}.`,
        action: "Take them",
      }))
    )
      return "";
    const got = await post(path("queues", vhost, name, "get"), {
      count: wanted,
      ackmode: values.mode,
      encoding: values.encoding,
      truncate: SHOWN_BYTES,
    });
    replace(found, got.length ? got.map(messageCard) : element("li", { class: "empty" }, "The queue is empty."));
    refresh();
    return "";
  };
  return element("div", {}, form({ fields, submit: "Get", keeps: true, send }), found);
}

function messageCard(message) {
  const about = facts();
  const { headers, ...properties } = message.properties ?? {};
  about.update([
    ["Exchange", exchangeName(message.exchange)],
    ["Routing key", message.routing_key],
    ["Redelivered", message.redelivered ? "yes" : "no"],
    ["After it", `${count(message.message_count)} more`],
    ...Object.entries(properties).map(([key, value]) => [key.replaceAll("_", " "), plain(value)]),
  ]);
  const heads = facts();
  heads.update(Object.entries(headers ?? {}).map(([key, value]) => [key, plain(value)]));
  const isCut = message.payload_bytes > SHOWN_BYTES;
  return element(
    "li",
    {},
    about.node,
    headers && Object.keys(headers).length ? [element("h3", {}, "Headers"), heads.node] : null,
    element(
      "h3",
      {},
      `Payload, ${bytes(message.payload_bytes)}`,
      message.payload_encoding === "base64" ? " as base64" : "",
      isCut ? `, the first ${bytes(SHOWN_BYTES)}` : "",
    ),
    element("pre", { tabindex: "0", "aria-label": "Payload" }, message.payload === "" ? " " : message.payload),
  );
}

/** Moves all messages elsewhere, by a shovel that ends when they are there. */
function moveSection(vhost, name) {
  if (!session.may("policymaker")) return { node: null, refresh: async () => {} };
  const shovel = `Move from ${name}`.slice(0, 200);
  const running = table({
    label: "Moves",
    empty: "",
    key: (item) => item.name,
    columns: [
      { title: "Move", class: "name", show: (item) => ({ text: item.name, href: link("shovels") }) },
      { title: "State", show: (item) => ({ badges: [shovelState(item)] }) },
      { title: "", class: "action", show: stop },
    ],
  });
  running.node.hidden = true;
  const fields = {
    kind: choice("To", [
      ["queue", "A queue"],
      ["exchange", "An exchange"],
    ]),
    destination: text("Name", { required: true }),
    vhost: choice("In virtual host", session.vhosts, { value: vhost }),
    keepsKey: tick("Wait for confirms", true, "Nothing is lost if the broker stops meanwhile."),
  };
  const send = async (values) => {
    if (values.kind === "queue" && values.destination === name && values.vhost === vhost)
      throw new Error("That is this queue.");
    const target =
      values.kind === "queue" ? { "dest-queue": values.destination } : { "dest-exchange": values.destination };
    await put(path("parameters", "shovel", vhost, shovel), {
      component: "shovel",
      vhost,
      name: shovel,
      value: {
        "src-protocol": "amqp091",
        "src-uri": uri(vhost),
        "src-queue": name,
        "src-delete-after": "queue-length",
        "dest-protocol": "amqp091",
        "dest-uri": uri(values.vhost),
        ...target,
        "ack-mode": values.keepsKey ? "on-confirm" : "on-publish",
        "dest-add-forward-headers": false,
      },
    });
    refresh();
    return `Messages of ${name} move to ${values.destination}.`;
  };
  const form_ = form({ fields, submit: "Move all messages", send });
  return {
    node: folded("Move messages", form_, running.node),
    async refresh() {
      const all = await get(path("shovels", vhost));
      const mine = all.filter((item) => item.name === shovel);
      running.update(mine);
      running.node.hidden = mine.length === 0;
    },
  };
}

function stop(item) {
  const button = dangerButton("Stop", { title: "Stop moving?", text: "What has been moved stays there." }, async () => {
    await remove(path("parameters", "shovel", item.vhost, item.name));
    refresh();
    return "It has been stopped.";
  });
  button.dataset.key = "stop";
  return { node: button };
}

/** The address of a virtual host of this broker, as the user that the broker uses for itself. */
function uri(vhost) {
  return `amqp:///${encodeURIComponent(vhost)}`;
}
