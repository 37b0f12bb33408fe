// The whole broker at a glance.

import { get } from "../api.js";
import { chart, levels, PAST, rates } from "../chart.js";
import { element, replace, setText } from "../dom.js";
import { byteRate, bytes, count, duration, plain, rate } from "../format.js";
import { session } from "../session.js";
import { facts, table } from "../table.js";
import { DEPTH_LINES, MESSAGE_LINES } from "./lines.js";

const TOTALS = [
  ["connections", "Connections"],
  ["channels", "Channels"],
  ["consumers", "Consumers"],
  ["exchanges", "Exchanges"],
  ["queues", "Queues"],
];

const CHURN = [
  ["connection_created", "Connections opened"],
  ["connection_closed", "Connections closed"],
  ["channel_created", "Channels opened"],
  ["channel_closed", "Channels closed"],
  ["queue_declared", "Queues declared"],
  ["queue_created", "Queues created"],
  ["queue_deleted", "Queues deleted"],
];

export function overview() {
  const totals = tiles();
  const messages = chart({ title: "Messages per second", lines: MESSAGE_LINES, format: rate });
  const depths = chart({ title: "Messages in queues", lines: DEPTH_LINES, format: count });
  const churn = facts();
  const nodes = element("div");
  const listeners = table({
    label: "Listeners",
    empty: "No listener.",
    key: (item) => `${item.protocol} ${item.ip_address} ${item.port}`,
    columns: [
      { title: "Protocol", show: (item) => item.protocol },
      { title: "Address", show: (item) => item.ip_address },
      { title: "Port", isNumber: true, show: (item) => String(item.port) },
    ],
  });
  const seesAll = session.may("monitoring");
  const version = element("p", { class: "quiet" });
  const node = element(
    "div",
    { class: "stack" },
    totals.node,
    element("div", { class: "pair" }, messages.node, depths.node),
    seesAll ? nodes : null,
    element(
      "div",
      { class: "pair" },
      element("section", { class: "card" }, element("h2", {}, "Coming and going"), churn.node),
      seesAll ? element("section", { class: "card" }, element("h2", {}, "Listeners"), listeners.node) : null,
    ),
    version,
  );
  const byName = new Map();

  return {
    node,
    async refresh() {
      const [all, each] = await Promise.all([get("overview", PAST), seesAll ? get("nodes") : []]);
      const now = Date.now();
      const stats = all.message_stats;
      messages.update(now, Object.fromEntries(MESSAGE_LINES.map(({ name }) => [name, rates(stats, name)])));
      depths.update(now, Object.fromEntries(DEPTH_LINES.map(({ name }) => [name, levels(all.queue_totals, name)])));
      totals.update(all);
      churn.update(CHURN.map(([name, title]) => [title, churned(all.churn_rates, name)]));
      listeners.update(all.listeners ?? []);
      replace(
        nodes,
        each.map((one) => nodeCard(one, byName)),
      );
      setText(version, versions(all));
    },
  };
}

function tiles() {
  const figures = new Map();
  const tile = (name, title, href) => {
    const figure = element("strong", {}, "–");
    figures.set(name, figure);
    return element("li", {}, element(href ? "a" : "div", { class: "tile", href }, element("span", {}, title), figure));
  };
  const node = element(
    "ul",
    { class: "tiles", "aria-label": "Totals" },
    tile("messages_ready", "Ready"),
    tile("messages_unacknowledged", "Unacknowledged"),
    TOTALS.map(([name, title]) => tile(name, title, name === "consumers" ? null : `#/${name}`)),
  );
  return {
    node,
    update(all) {
      for (const [name, figure] of figures)
        setText(figure, count(all.object_totals?.[name] ?? all.queue_totals?.[name] ?? 0));
    },
  };
}

function churned(churn, name) {
  if (churn?.[name] === undefined) return undefined;
  return `${count(churn[name])} (${rate(churn[`${name}_details`]?.rate ?? 0)})`;
}

/** A node of the broker: what it uses of what it has. Its parts are kept from one refresh to the next. */
function nodeCard(one, byName) {
  if (!byName.has(one.name)) byName.set(one.name, newNodeCard(one.name));
  const card = byName.get(one.name);
  card.update(one);
  return card.node;
}

function newNodeCard(name) {
  const alarms = element("div", { class: "alarms", role: "status" });
  const gauges = {
    memory: gauge("Memory"),
    disk: gauge("Free disk space"),
    files: gauge("File descriptors"),
    sockets: gauge("Sockets"),
  };
  const details = facts();
  const node = element(
    "section",
    { class: "card" },
    element("h2", {}, "Node ", element("span", { class: "name" }, name)),
    alarms,
    element(
      "div",
      { class: "gauges" },
      Object.values(gauges).map((each) => each.node),
    ),
    details.node,
  );
  return {
    node,
    update(one) {
      const said = [
        one.running === false ? "This node is not running." : null,
        one.mem_alarm ? "Memory alarm: publishers wait until messages have been consumed." : null,
        one.disk_free_alarm ? "Disk alarm: publishers wait until there is free disk space." : null,
      ].filter(Boolean);
      if (alarms.textContent !== said.join(""))
        replace(
          alarms,
          said.map((text) => element("p", { class: "alarm" }, text)),
        );
      gauges.memory.update(one.mem_used, one.mem_limit, bytes, `of ${bytes(one.mem_limit)} before publishers wait`);
      gauges.disk.update(
        one.disk_free,
        null,
        bytes,
        `publishers wait below ${bytes(one.disk_free_limit)}`,
        one.disk_free_alarm,
      );
      gauges.files.update(one.fd_used, one.fd_total, count, `of ${count(one.fd_total)}`);
      gauges.sockets.update(one.sockets_used, one.sockets_total, count, `of ${count(one.sockets_total)}`);
      details.update([
        ["Uptime", duration(one.uptime)],
        ["Processors", one.processors === undefined ? undefined : count(one.processors)],
        ["Process", one.os_pid === undefined ? undefined : String(one.os_pid)],
        ["Data", one.db_dir],
        ["Configuration", one.config_files?.join(", ") || undefined],
        ["Log", one.log_files?.join(", ") || undefined],
        ["Written to disk", one.io_write_bytes_details ? byteRate(one.io_write_bytes_details.rate) : undefined],
      ]);
    },
  };
}

/** A figure with a bar that shows how much of the limit it is. */
function gauge(title) {
  const figure = element("strong", {}, "–");
  const note = element("small");
  const bar = element("meter", { min: 0, max: 1, high: 0.9, optimum: 0, value: 0, "aria-label": title });
  const node = element("div", { class: "gauge" }, element("span", {}, title), figure, bar, note);
  return {
    node,
    update(value, limit, format, text, isBad = false) {
      node.hidden = value === undefined;
      setText(figure, typeof value === "number" ? format(value) : plain(value));
      setText(note, text);
      const hasLimit = typeof limit === "number" && limit > 0;
      bar.hidden = !hasLimit;
      bar.value = hasLimit ? value / limit : 0;
      figure.classList.toggle("bad-text", isBad || (hasLimit && value > limit));
    },
  };
}

function versions(all) {
  const own = all.leveret_version ? `Leveret ${all.leveret_version}` : null;
  const says = `${all.product_name ?? "RabbitMQ"} ${all.product_version ?? all.rabbitmq_version}`;
  return [all.cluster_name, own ? `${own}, which answers clients as ${says}` : says].filter(Boolean).join(" · ");
}
