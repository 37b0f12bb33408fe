// Channels of connections.

import { get, path } from "../api.js";
import { chart, PAST, rates } from "../chart.js";
import { element } from "../dom.js";
import { count, dateTimeText, lines, plain, rate, rateOf } from "../format.js";
import { link } from "../place.js";
import { session } from "../session.js";
import { facts, list, stateBadge, table } from "../table.js";
import { MESSAGE_LINES } from "./lines.js";

const FIELDS = [
  "name",
  "number",
  "user",
  "vhost",
  "state",
  "confirm",
  "transactional",
  "prefetch_count",
  "global_prefetch_count",
  "consumer_count",
  "messages_unacknowledged",
  "messages_unconfirmed",
  "message_stats",
];

export function channels() {
  return list({
    where: () => (session.vhost ? path("vhosts", session.vhost, "channels") : "channels"),
    fields: FIELDS,
    label: "Channels",
    noun: "channels",
    key: (item) => item.name,
    empty: "No channel is open.",
    columns: channelColumns(true),
  });
}

/** The columns of a list of channels; `isWhole` for one of all connections. */
export function channelColumns(isWhole) {
  const columns = [
    {
      title: "Channel",
      sort: "name",
      class: "name",
      show: (item) => ({ text: item.name, href: link("channels", item.name) }),
    },
    { title: "User", sort: "user", isSecondary: true, show: (item) => plain(item.user) },
    { title: "Virtual host", sort: "vhost", isSecondary: true, show: (item) => plain(item.vhost) },
    {
      title: "State",
      sort: "state",
      isSecondary: true,
      show: (item) => ({ badges: [stateBadge(item.state), ...modes(item)] }),
    },
    {
      title: "Consumers",
      sort: "consumer_count",
      isNumber: true,
      isSecondary: true,
      show: (item) => count(item.consumer_count ?? 0),
    },
    { title: "Prefetch", sort: "prefetch_count", isNumber: true, isSecondary: true, show: prefetch },
    {
      title: "Unacked",
      sort: "messages_unacknowledged",
      isNumber: true,
      show: (item) => count(item.messages_unacknowledged ?? 0),
    },
    {
      title: "Unconfirmed",
      sort: "messages_unconfirmed",
      isNumber: true,
      isSecondary: true,
      show: (item) => count(item.messages_unconfirmed ?? 0),
    },
    {
      title: "Publish",
      sort: "message_stats.publish_details.rate",
      isNumber: true,
      show: (item) => rate(rateOf(item.message_stats, "publish")),
    },
    {
      title: "Deliver",
      sort: "message_stats.deliver_get_details.rate",
      isNumber: true,
      show: (item) => rate(rateOf(item.message_stats, "deliver_get")),
    },
    {
      title: "Ack",
      sort: "message_stats.ack_details.rate",
      isNumber: true,
      isSecondary: true,
      show: (item) => rate(rateOf(item.message_stats, "ack")),
    },
  ];
  return isWhole ? columns : columns.filter((column) => column.sort !== "user" && column.sort !== "vhost");
}

/** One channel. */
export function channel(name) {
  const about = facts();
  const messages = chart({ title: "Messages per second", lines: MESSAGE_LINES, format: rate });
  const consumers = table({
    label: "Consumers",
    empty: "Nothing is consumed on it.",
    key: (item) => `${item.queue?.vhost} ${item.queue?.name} ${item.consumer_tag}`,
    columns: consumerColumns(true),
  });
  return {
    title: name,
    node: element(
      "div",
      { class: "stack" },
      element(
        "div",
        { class: "pair" },
        element("section", { class: "card" }, element("h2", {}, "Channel"), about.node),
        messages.node,
      ),
      element("section", { class: "card" }, element("h2", {}, "Consumers"), consumers.node),
    ),
    async refresh() {
      const it = await get(path("channels", name), PAST);
      messages.update(
        Date.now(),
        Object.fromEntries(MESSAGE_LINES.map((line) => [line.name, rates(it.message_stats, line.name)])),
      );
      consumers.update(it.consumer_details ?? []);
      const on = it.connection_details?.name;
      about.update([
        ["Connection", on ? { text: on, href: link("connections", on) } : undefined],
        ["Number", plain(it.number)],
        ["State", { badges: [stateBadge(it.state), ...modes(it)] }],
        ["User", it.user],
        ["Virtual host", it.vhost],
        ["Prefetch of a consumer", prefetch(it)],
        ["Prefetch of the channel", it.global_prefetch_count ? count(it.global_prefetch_count) : "no limit"],
        ["Unacknowledged", count(it.messages_unacknowledged ?? 0)],
        ["Unconfirmed", count(it.messages_unconfirmed ?? 0)],
        ["Uncommitted messages", it.transactional ? count(it.messages_uncommitted ?? 0) : undefined],
        ["Uncommitted acknowledgements", it.transactional ? count(it.acks_uncommitted ?? 0) : undefined],
        ["Idle since", dateTimeText(it.idle_since)],
      ]);
    },
  };
}

/** The columns of a list of consumers, of a channel or else of a queue. */
export function consumerColumns(isOfChannel) {
  return [
    { title: "Tag", class: "name", show: (item) => item.consumer_tag },
    isOfChannel
      ? {
          title: "Queue",
          class: "name",
          show: (item) =>
            item.queue ? { text: item.queue.name, href: link("queues", item.queue.vhost, item.queue.name) } : "",
        }
      : {
          title: "Channel",
          class: "name",
          show: (item) =>
            item.channel_details?.name
              ? { text: item.channel_details.name, href: link("channels", item.channel_details.name) }
              : "",
        },
    { title: "Acks", show: (item) => (item.ack_required ? "by hand" : "automatic") },
    { title: "Prefetch", isNumber: true, show: prefetch },
    {
      title: "State",
      isSecondary: true,
      show: (item) => ({
        badges: [
          item.activity_status
            ? [item.activity_status.replaceAll("_", " "), item.active === false ? "" : "good"]
            : null,
          item.exclusive ? ["exclusive"] : null,
        ].filter(Boolean),
      }),
    },
    { title: "Arguments", isSecondary: true, class: "name", show: (item) => lines(item.arguments) },
  ];
}

function prefetch(item) {
  return item.prefetch_count ? count(item.prefetch_count) : "no limit";
}

function modes(item) {
  return [item.confirm ? ["confirms"] : null, item.transactional ? ["transactions"] : null].filter(Boolean);
}
