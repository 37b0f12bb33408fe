// Virtual hosts.

import { get, path, put, remove } from "../api.js";
import { chart, levels, PAST, rates } from "../chart.js";
import { element } from "../dom.js";
import { choice, folded, form, text } from "../form.js";
import { count, rate, rateOf } from "../format.js";
import { dangerButton } from "../notice.js";
import { go, link } from "../place.js";
import { refresh } from "../poll.js";
import { session } from "../session.js";
import { facts, list } from "../table.js";
import { limitSection } from "./limits.js";
import { DEPTH_LINES, MESSAGE_LINES } from "./lines.js";
import { permissionSections } from "./permissions.js";

const LIMITS = [
  ["max-connections", "Connections"],
  ["max-queues", "Queues"],
];

const TYPES = [
  ["", "Not set"],
  ["classic", "Classic"],
  ["quorum", "Quorum"],
  ["stream", "Stream"],
];

export function vhosts() {
  const shown = list({
    where: () => "vhosts",
    label: "Virtual hosts",
    noun: "virtual hosts",
    key: (item) => item.name,
    empty: "No virtual host that you may see.",
    columns: [
      {
        title: "Name",
        sort: "name",
        class: "name",
        show: (item) => ({ text: item.name, href: link("vhosts", item.name) }),
      },
      { title: "Description", isSecondary: true, class: "name", show: (item) => item.description ?? "" },
      { title: "Tags", isSecondary: true, show: (item) => ({ badges: (item.tags ?? []).map((tag) => [tag]) }) },
      { title: "Ready", sort: "messages_ready", isNumber: true, show: (item) => count(item.messages_ready ?? 0) },
      {
        title: "Unacked",
        sort: "messages_unacknowledged",
        isNumber: true,
        show: (item) => count(item.messages_unacknowledged ?? 0),
      },
      {
        title: "Publish",
        isNumber: true,
        isSecondary: true,
        show: (item) => rate(rateOf(item.message_stats, "publish")),
      },
      {
        title: "Deliver",
        isNumber: true,
        isSecondary: true,
        show: (item) => rate(rateOf(item.message_stats, "deliver_get")),
      },
    ],
  });
  const add = () =>
    folded("Add a virtual host", vhostForm({ name: text("Name", { required: true }) }, "Add virtual host", {}));
  return {
    node: element("div", { class: "stack" }, shown.node, session.may("administrator") ? add() : null),
    refresh: shown.refresh,
  };
}

/** One virtual host. */
export function vhost(name) {
  const isAdministrator = session.may("administrator");
  const about = facts();
  const messages = chart({ title: "Messages per second", lines: MESSAGE_LINES, format: rate });
  const depths = chart({ title: "Messages in queues", lines: DEPTH_LINES, format: count });
  const permissions = isAdministrator ? permissionSections({ vhost: name }) : null;
  const limits = limitSection("vhost-limits", name, LIMITS);
  const change = element("div");
  let known = null;
  const drop = dangerButton(
    "Delete",
    {
      title: "Delete this virtual host?",
      text: "Its connections are closed, and its exchanges, queues and messages are deleted.",
      type: name,
    },
    async () => {
      await remove(path("vhosts", name));
      session.forget(name);
      go("vhosts");
      return `Virtual host ${name} has been deleted.`;
    },
  );
  return {
    title: name,
    actions: isAdministrator ? element("div", { class: "actions" }, drop) : null,
    node: element(
      "div",
      { class: "stack" },
      element("section", { class: "card" }, element("h2", {}, "Virtual host"), about.node),
      element("div", { class: "pair" }, messages.node, depths.node),
      permissions?.nodes,
      change,
      limits.node,
    ),
    async refresh() {
      const [it] = await Promise.all([get(path("vhosts", name), PAST), permissions?.refresh(), limits.refresh()]);
      const now = Date.now();
      messages.update(
        now,
        Object.fromEntries(MESSAGE_LINES.map((line) => [line.name, rates(it.message_stats, line.name)])),
      );
      depths.update(now, Object.fromEntries(DEPTH_LINES.map((line) => [line.name, levels(it, line.name)])));
      const type = setType(it);
      about.update([
        ["Description", it.description || "none"],
        ["Tags", it.tags?.length ? { badges: it.tags.map((tag) => [tag]) } : "none"],
        ["Type of new queues", type || "classic"],
        ["Tracing", it.tracing ? "on" : "off"],
      ]);
      const now_ = JSON.stringify([it.description, it.tags, type]);
      if (isAdministrator && known !== now_)
        change.replaceChildren(
          folded("Change this virtual host", vhostForm({}, "Change virtual host", { ...it, name, type })),
        );
      known = now_;
    },
  };
}

function vhostForm(first, submit, it) {
  return form({
    fields: {
      ...first,
      description: text("Description", { value: it.description ?? "" }),
      tags: text("Tags", { value: (it.tags ?? []).join(", "), title: "Separated by commas." }),
      type: choice("Type of new queues", TYPES, { value: it.type ?? "" }),
    },
    submit,
    send: async (values) => {
      const name = values.name ?? it.name;
      const type = values.type ? { default_queue_type: values.type } : {};
      await put(path("vhosts", name), { description: values.description, tags: values.tags, ...type });
      session.remember(name);
      refresh();
      return `Virtual host ${name} has been saved.`;
    },
  });
}

function setType(it) {
  return it.default_queue_type === "undefined" ? "" : (it.default_queue_type ?? "");
}
