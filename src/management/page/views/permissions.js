// What users may do in virtual hosts: shown for one user or for one virtual host.

import { get, path, put, remove } from "../api.js";
import { element } from "../dom.js";
import { choice, folded, form, text } from "../form.js";
import { exchangeName } from "../format.js";
import { dangerButton } from "../notice.js";
import { link } from "../place.js";
import { refresh } from "../poll.js";
import { session } from "../session.js";
import { table } from "../table.js";

/** Permissions of `of.user`, or in `of.vhost`; with tables and forms. */
export function permissionSections(of) {
  const base = of.user === undefined ? path("vhosts", of.vhost) : path("users", of.user);
  const other =
    of.user === undefined
      ? { title: "User", class: "name", show: (item) => ({ text: item.user, href: link("users", item.user) }) }
      : {
          title: "Virtual host",
          class: "name",
          show: (item) => ({ text: item.vhost, href: link("vhosts", item.vhost) }),
        };
  const plainRows = table({
    label: "Permissions",
    empty: of.user === undefined ? "No user may use this virtual host." : "This user may use no virtual host.",
    key: (item) => JSON.stringify([item.user, item.vhost]),
    columns: [
      other,
      { title: "Configure", show: (item) => item.configure },
      { title: "Write", show: (item) => item.write },
      { title: "Read", show: (item) => item.read },
      {
        title: "",
        class: "action",
        show: (item) => drop("permissions", item, "All permissions there are taken away, from open connections too."),
      },
    ],
  });
  const topicRows = table({
    label: "Topic permissions",
    empty: "None: routing keys are not looked at.",
    key: (item) => JSON.stringify([item.user, item.vhost, item.exchange]),
    columns: [
      other,
      { title: "Exchange", class: "name", show: (item) => exchangeName(item.exchange) },
      { title: "Write", show: (item) => item.write },
      { title: "Read", show: (item) => item.read },
      {
        title: "",
        class: "action",
        show: (item) => drop("topic-permissions", item, "Routing keys are not looked at any longer."),
      },
    ],
  });
  return {
    nodes: [
      element("section", { class: "card" }, element("h2", {}, "Permissions"), plainRows.node),
      folded("Set permissions", plainForm(of)),
      element("section", { class: "card" }, element("h2", {}, "Topic permissions"), topicRows.node),
      folded("Set topic permissions", topicForm(of)),
    ],
    async refresh() {
      const [plain, topics] = await Promise.all([get(`${base}/permissions`), get(`${base}/topic-permissions`)]);
      plainRows.update(plain);
      topicRows.update(topics);
    },
  };
}

/** The field for what is not given: the user, or the virtual host. */
function otherField(of) {
  return of.user === undefined
    ? { user: text("User", { required: true }) }
    : { vhost: choice("Virtual host", session.vhosts, { value: session.defaultVhost }) };
}

function plainForm(of) {
  const pattern = (title, hint) => text(title, { value: ".*", title: hint });
  return form({
    fields: {
      ...otherField(of),
      configure: pattern("Configure", "Names of what may be declared and deleted: a regular expression."),
      write: pattern("Write", "Where may be published to."),
      read: pattern("Read", "What may be consumed."),
    },
    submit: "Set permissions",
    send: async (values) => {
      const { user, vhost, configure, write, read } = { ...of, ...values };
      await put(path("permissions", vhost, user), { configure, write, read });
      refresh();
      return "The permissions have been set.";
    },
  });
}

function topicForm(of) {
  return form({
    fields: {
      ...otherField(of),
      exchange: text("Exchange", { value: "amq.topic", required: true }),
      write: text("Write", { value: ".*", title: "Routing keys that may be published with." }),
      read: text("Read", { value: ".*", title: "Routing keys that may be bound with." }),
    },
    submit: "Set topic permissions",
    send: async (values) => {
      const { user, vhost, exchange, write, read } = { ...of, ...values };
      await put(path("topic-permissions", vhost, user), { exchange, write, read });
      refresh();
      return "The topic permissions have been set.";
    },
  });
}

function drop(kind, item, text_) {
  const button = dangerButton("Clear", { title: "Clear these permissions?", text: text_ }, async () => {
    const where = path(kind, item.vhost, item.user);
    await remove(item.exchange === undefined ? where : `${where}/${path(item.exchange)}`);
    refresh();
    return "They have been cleared.";
  });
  button.dataset.key = "clear";
  return { node: button };
}
