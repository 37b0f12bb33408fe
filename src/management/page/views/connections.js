// Connections of clients.

import { get, path, remove } from "../api.js";
import { chart, PAST, rates } from "../chart.js";
import { element } from "../dom.js";
import { byteRate, bytes, count, dateTime, duration, lines, plain } from "../format.js";
import { form, text } from "../form.js";
import { confirmed } from "../notice.js";
import { go, link } from "../place.js";
import { session } from "../session.js";
import { facts, list, stateBadge, table } from "../table.js";
import { channelColumns } from "./channels.js";

const FIELDS = [
  "name",
  "user",
  "vhost",
  "state",
  "ssl",
  "protocol",
  "channels",
  "connected_at",
  "user_provided_name",
  "recv_oct_details.rate",
  "send_oct_details.rate",
];

export function connections() {
  return list({
    where: () => (session.vhost ? path("vhosts", session.vhost, "connections") : "connections"),
    fields: FIELDS,
    label: "Connections",
    noun: "connections",
    key: (item) => item.name,
    empty: "No client is connected.",
    columns: [
      {
        title: "Name",
        sort: "name",
        class: "name",
        show: (item) => ({
          text: item.user_provided_name || item.name,
          title: item.name,
          href: link("connections", item.name),
        }),
      },
      { title: "User", sort: "user", show: (item) => plain(item.user) },
      { title: "Virtual host", sort: "vhost", isSecondary: true, show: (item) => plain(item.vhost) },
      {
        title: "State",
        sort: "state",
        show: (item) => ({ badges: [stateBadge(item.state), item.ssl ? ["TLS", "good"] : null].filter(Boolean) }),
      },
      { title: "Channels", sort: "channels", isNumber: true, show: (item) => count(item.channels) },
      {
        title: "From client",
        sort: "recv_oct_details.rate",
        isNumber: true,
        isSecondary: true,
        show: (item) => byteRate(item.recv_oct_details?.rate ?? 0),
      },
      {
        title: "To client",
        sort: "send_oct_details.rate",
        isNumber: true,
        isSecondary: true,
        show: (item) => byteRate(item.send_oct_details?.rate ?? 0),
      },
      {
        title: "Connected",
        sort: "connected_at",
        isNumber: true,
        isSecondary: true,
        show: (item) => dateTime(item.connected_at),
      },
    ],
  });
}

/** One connection. */
export function connection(name) {
  const about = facts();
  const client = facts();
  const octets = chart({
    title: "Octets per second",
    format: byteRate,
    lines: [
      { name: "recv_oct", title: "From client", color: 1 },
      { name: "send_oct", title: "To client", color: 3 },
    ],
  });
  const open = table({
    label: "Channels",
    empty: "No channel is open on it.",
    key: (item) => item.name,
    columns: channelColumns(false),
  });
  const close = form({
    submit: "Close connection",
    isDangerous: true,
    keeps: true,
    fields: { reason: text("Reason", { value: "Closed via the management page", title: "The client is told." }) },
    send: async ({ reason }) => {
      const isSure = await confirmed({
        title: "Close this connection?",
        text: `${name}: its channels end, and what they have not acknowledged goes back to the queues.`,
        action: "Close connection",
      });
      if (!isSure) return "";
      await remove(path("connections", name), { "x-reason": headerText(reason) });
      go("connections");
      return "The connection has been closed.";
    },
  });
  return {
    title: name,
    node: element(
      "div",
      { class: "stack" },
      element(
        "div",
        { class: "pair" },
        element("section", { class: "card" }, element("h2", {}, "Connection"), about.node),
        octets.node,
      ),
      element("section", { class: "card" }, element("h2", {}, "Channels"), open.node),
      element("section", { class: "card" }, element("h2", {}, "What the client says of itself"), client.node),
      element("section", { class: "card" }, element("h2", {}, "Close"), close),
    ),
    async refresh() {
      const where = path("connections", name);
      const [it, channels] = await Promise.all([get(where, PAST), get(`${where}/channels`)]);
      octets.update(Date.now(), { recv_oct: rates(it, "recv_oct"), send_oct: rates(it, "send_oct") });
      open.update(channels);
      about.update([
        ["Name given", it.user_provided_name],
        ["State", { badges: [stateBadge(it.state)] }],
        ["User", it.user],
        ["Virtual host", it.vhost],
        ["Protocol", it.protocol],
        ["From", it.peer_host === undefined ? undefined : `${it.peer_host}:${it.peer_port}`],
        ["To", it.host === undefined ? undefined : `${it.host}:${it.port}`],
        ["Login by", it.auth_mechanism],
        ["TLS", it.ssl ? [it.ssl_protocol, it.ssl_cipher].filter(Boolean).join(", ") || "yes" : "no"],
        ["Certificate", it.peer_cert_subject || undefined],
        [
          "Connected",
          it.connected_at === undefined
            ? undefined
            : `${dateTime(it.connected_at)} (${duration(Date.now() - it.connected_at)} ago)`,
        ],
        ["Heartbeat", it.timeout === undefined ? undefined : `${it.timeout} s`],
        ["Largest frame", it.frame_max === undefined ? undefined : bytes(it.frame_max)],
        ["Most channels", count(it.channel_max)],
        ["Received", it.recv_oct === undefined ? undefined : bytes(it.recv_oct)],
        ["Sent", it.send_oct === undefined ? undefined : bytes(it.send_oct)],
      ]);
      client.update(
        Object.entries(it.client_properties ?? {}).map(([key, value]) => [
          key,
          typeof value === "object" ? lines(value) : plain(value),
        ]),
      );
    },
  };
}

/** A header holds Latin-1 without control characters; a reason says as much with question marks. */
function headerText(words) {
  return words.replace(/[^\x20-\xff]/g, "?");
}
