// Dynamic shovels, which take messages from a queue or an exchange, here or on another broker, to another one.

import { get, path, put, remove } from "../api.js";
import { element } from "../dom.js";
import { choice, folded, form, text, tick, vhostChoice, wholeNumber } from "../form.js";
import { plain } from "../format.js";
import { dangerButton } from "../notice.js";
import { refresh } from "../poll.js";
import { session } from "../session.js";
import { table } from "../table.js";

export function shovels() {
  const rows = table({
    label: "Shovels",
    empty: "No shovel. One takes messages from here to there, on this broker or on another one.",
    key: (item) => `${item.vhost} ${item.name}`,
    columns: [
      { title: "Name", class: "name", show: (item) => item.name },
      { title: "Virtual host", isSecondary: true, show: (item) => plain(item.vhost) },
      { title: "State", show: (item) => ({ badges: [shovelState(item)] }) },
      { title: "From", isSecondary: true, class: "name", show: (item) => end(item, "src") },
      { title: "To", isSecondary: true, class: "name", show: (item) => end(item, "dest") },
      { title: "", class: "action", show: actions },
    ],
  });
  return {
    node: element(
      "div",
      { class: "stack" },
      element("section", { class: "card" }, rows.node),
      session.may("policymaker") ? folded("Add a shovel", addForm()) : null,
    ),
    async refresh() {
      rows.update(await statuses());
    },
  };
}

/** A mark for the state of a shovel, with the reason if it does not run. */
export function shovelState(item) {
  const kinds = { running: "good", starting: "warn", terminated: "bad", blocked: "warn", flow: "warn" };
  return [plain(item.state), kinds[item.state] ?? "", item.reason];
}

/** What the shovels do, and the definitions of those that have not begun. */
async function statuses() {
  const where = session.vhost ? path("shovels", session.vhost) : "shovels";
  const defined = session.vhost ? path("parameters", "shovel", session.vhost) : path("parameters", "shovel");
  const [running, parameters] = await Promise.all([get(where), session.may("policymaker") ? get(defined) : []]);
  const known = new Set(running.map((item) => `${item.vhost} ${item.name}`));
  const waiting = parameters.filter((item) => !known.has(`${item.vhost} ${item.name}`));
  const values = new Map(parameters.map((item) => [`${item.vhost} ${item.name}`, item.value]));
  const all = running.map((item) => ({ ...item, value: values.get(`${item.vhost} ${item.name}`) }));
  return [...all, ...waiting.map((item) => ({ ...item, state: "starting" }))];
}

function end(item, which) {
  const value = { ...item.value, ...item };
  const given = (name) => value[`${which}-${name}`] ?? value[`${which}_${name}`];
  const at = given("queue") ?? given("exchange") ?? given("address") ?? "";
  const uri = given("uri");
  return [at, Array.isArray(uri) ? uri[0] : uri].filter(Boolean).join(" at ");
}

function actions(item) {
  if (!session.may("policymaker")) return { text: "" };
  const drop = dangerButton(
    "Delete",
    { title: "Delete this shovel?", text: `${item.name} stops. What it has moved stays where it is.` },
    async () => {
      await remove(path("parameters", "shovel", item.vhost, item.name));
      refresh();
      return `Shovel ${item.name} has been deleted.`;
    },
  );
  const again = dangerButton("Restart", null, async () => {
    await remove(path("shovels", "vhost", item.vhost, item.name, "restart"));
    refresh();
    return `Shovel ${item.name} starts again.`;
  });
  const node = element("span", { class: "buttons", "data-key": "actions" }, again, drop);
  return { node };
}

function addForm() {
  const ends = [
    ["queue", "queue"],
    ["exchange", "exchange"],
  ];
  const fields = {
    vhost: vhostChoice(session),
    name: text("Name", { required: true }),
    fromUri: text("Source broker", {
      value: "amqp://",
      required: true,
      title: "amqp:// is this broker; else amqp://user:password@host/vhost",
    }),
    fromKind: choice("The source is a", ends),
    from: text("Name of the source", { required: true }),
    fromKey: text("Routing key of the source", { title: "Of an exchange: what to take." }),
    toUri: text("Destination broker", {
      value: "amqp://",
      required: true,
      title: "amqp:// is this broker; else amqp://user:password@host/vhost",
    }),
    toKind: choice("The destination is a", ends),
    to: text("Name of the destination", { required: true }),
    toKey: text("Routing key for the destination", { title: "Of an exchange: left empty, messages keep theirs." }),
    ackMode: choice("Acknowledge", [
      ["on-confirm", "when confirmed"],
      ["on-publish", "when published"],
      ["no-ack", "never: may lose messages"],
    ]),
    after: choice("End", [
      ["never", "never"],
      ["queue-length", "when what is there now has moved"],
    ]),
    prefetch: text("Prefetch", { value: "1000", inputmode: "numeric" }),
    delay: text("Seconds before it tries again", { value: "5", inputmode: "numeric" }),
    headers: tick("Add headers that say which way it came"),
  };
  return form({
    fields,
    submit: "Add shovel",
    send: async (values) => {
      const value = {
        "src-protocol": "amqp091",
        "src-uri": values.fromUri,
        [`src-${values.fromKind}`]: values.from,
        "src-delete-after": values.after,
        "src-prefetch-count": wholeNumber(values.prefetch, "Prefetch"),
        "dest-protocol": "amqp091",
        "dest-uri": values.toUri,
        [`dest-${values.toKind}`]: values.to,
        "dest-add-forward-headers": values.headers,
        "ack-mode": values.ackMode,
        "reconnect-delay": wholeNumber(values.delay, "Seconds before it tries again"),
      };
      if (values.fromKind === "exchange") value["src-exchange-key"] = values.fromKey;
      if (values.toKind === "exchange" && values.toKey) value["dest-exchange-key"] = values.toKey;
      await put(path("parameters", "shovel", values.vhost, values.name), {
        component: "shovel",
        vhost: values.vhost,
        name: values.name,
        value,
      });
      refresh();
      return `Shovel ${values.name} is there.`;
    },
  });
}
