// Users of the broker.

import { get, path, put, remove } from "../api.js";
import { element } from "../dom.js";
import { choice, folded, form, text, tick } from "../form.js";
import { dangerButton } from "../notice.js";
import { go, link } from "../place.js";
import { refresh } from "../poll.js";
import { facts, list } from "../table.js";
import { limitSection } from "./limits.js";
import { permissionSections } from "./permissions.js";

const TAGS = [
  ["administrator", "Does everything."],
  ["monitoring", "Sees everything."],
  ["policymaker", "Manages policies and shovels."],
  ["management", "Uses this page for what the user may use."],
];

const LIMITS = [
  ["max-connections", "Connections"],
  ["max-channels", "Channels"],
];

export function users() {
  const shown = list({
    where: () => "users",
    label: "Users",
    noun: "users",
    key: (item) => item.name,
    empty: "No user.",
    columns: [
      {
        title: "Name",
        sort: "name",
        class: "name",
        show: (item) => ({ text: item.name, href: link("users", item.name) }),
      },
      { title: "Tags", show: (item) => ({ badges: tagsOf(item).map((tag) => [tag]) }) },
      { title: "Password", isSecondary: true, show: (item) => (item.password_hash ? "yes" : "none") },
    ],
  });
  const fields = { name: text("Name", { required: true }), ...secretFields(true), ...tagFields([]) };
  const add = form({
    fields,
    submit: "Add user",
    send: async (values) => {
      await put(path("users", values.name), { ...secret(values), tags: chosenTags(values) });
      refresh();
      return `User ${values.name} is there. Permissions are given apart.`;
    },
  });
  return { node: element("div", { class: "stack" }, shown.node, folded("Add a user", add)), refresh: shown.refresh };
}

/** One user. */
export function user(name) {
  const about = facts();
  const permissions = permissionSections({ user: name });
  const limits = limitSection("user-limits", name, LIMITS);
  let known = null;
  const change = element("div");
  const drop = dangerButton(
    "Delete",
    { title: "Delete this user?", text: `${name} can no longer log in, and loses all permissions.` },
    async () => {
      await remove(path("users", name));
      go("users");
      return `User ${name} has been deleted.`;
    },
  );
  return {
    title: name,
    actions: element("div", { class: "actions" }, drop),
    node: element(
      "div",
      { class: "stack" },
      element("section", { class: "card" }, element("h2", {}, "User"), about.node),
      permissions.nodes,
      change,
      limits.node,
    ),
    async refresh() {
      const [it] = await Promise.all([get(path("users", name)), permissions.refresh(), limits.refresh()]);
      const tags = tagsOf(it);
      about.update([
        ["Tags", tags.length ? { badges: tags.map((tag) => [tag]) } : "none: may not use this page"],
        ["Password", it.password_hash ? "yes" : "none: can't log in with one"],
        ["Hash", it.hashing_algorithm],
      ]);
      // The form shows the tags as they are, and is built anew only when these have been changed.
      if (known !== tags.join()) change.replaceChildren(folded("Change password and tags", changeForm(name, tags)));
      known = tags.join();
    },
  };
}

function changeForm(name, tags) {
  return form({
    fields: { ...secretFields(false), ...tagFields(tags) },
    submit: "Change user",
    send: async (values) => {
      const known = await get(path("users", name));
      const kept = { password_hash: known.password_hash, hashing_algorithm: known.hashing_algorithm };
      await put(path("users", name), { ...(values.how === "keep" ? kept : secret(values)), tags: chosenTags(values) });
      refresh();
      return `User ${name} has been changed.`;
    },
  });
}

function secretFields(isNew) {
  const ways = [
    ["password", isNew ? "Password" : "New password"],
    ["hash", "Hash of a password"],
    ["none", "None: no login by password"],
  ];
  const secretText = text("Password", { type: "password", autocomplete: "new-password" });
  const how = choice("Login with", isNew ? ways : [["keep", "Password as it is"], ...ways]);
  const show = () => (secretText.node.hidden = how.value === "none" || how.value === "keep");
  how.input.addEventListener("change", show);
  show();
  return { how, secret: secretText };
}

function secret({ how, secret: given }) {
  if (how === "none") return { password_hash: "" };
  if (given === "") throw new Error("The password is empty.");
  return how === "hash" ? { password_hash: given } : { password: given };
}

function tagFields(tags) {
  const others = tags.filter((tag) => !TAGS.some(([known]) => known === tag));
  return {
    ...Object.fromEntries(TAGS.map(([tag, hint]) => [`tag ${tag}`, tick(tag, tags.includes(tag), hint)])),
    others: text("Other tags", { value: others.join(", "), title: "Separated by commas." }),
  };
}

function chosenTags(values) {
  const others = values.others
    .split(",")
    .map((tag) => tag.trim())
    .filter(Boolean);
  return [...TAGS.map(([tag]) => tag).filter((tag) => values[`tag ${tag}`]), ...others].join(",");
}

function tagsOf(item) {
  return typeof item.tags === "string" ? item.tags.split(",").filter(Boolean) : (item.tags ?? []);
}
