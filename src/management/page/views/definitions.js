// Definitions: everything but messages, as a file that this broker and RabbitMQ read.

import { getBlob, path, postText } from "../api.js";
import { element, replace } from "../dom.js";
import { choice, form } from "../form.js";
import { count } from "../format.js";
import { refresh } from "../poll.js";
import { session } from "../session.js";

const EVERYTHING = "";

export function definitions() {
  const report = element("div", { role: "status" });
  const scope = (label) => choice(label, [[EVERYTHING, "The whole broker"], ...session.vhosts]);
  const download = form({
    fields: { vhost: scope("Of") },
    submit: "Download",
    keeps: true,
    send: async ({ vhost }) => {
      const all = await getBlob(whereIs(vhost));
      saveAs(`definitions${vhost === EVERYTHING ? "" : `-${vhost.replace(/[^\w.-]+/g, "_")}`}.json`, all);
      return "";
    },
  });
  const file = element("input", { type: "file", accept: ".json,application/json", required: true });
  const upload = form({
    fields: {
      file: {
        node: element("label", { class: "field" }, element("span", {}, "File"), file),
        reset: () => (file.value = ""),
      },
      vhost: scope("Into"),
    },
    submit: "Upload",
    send: async ({ vhost }) => {
      replace(report);
      // It is sent as it is: JSON.parse rounds numbers. What it makes of the file is only counted.
      const words = await file.files[0].text();
      const given = parsed(words);
      try {
        await postText(whereIs(vhost), words);
      } catch (problem) {
        const lines = refusals(problem.answer);
        if (lines.length === 0) throw problem;
        replace(report, element("ul", { class: "refusals" }, lines));
        throw new Error(`Nothing was taken over, for ${count(lines.length)} of its lines can't be:`);
      }
      replace(
        report,
        element("p", {}, `Taken over: ${contents(given)}. What was there before and is not in the file has stayed.`),
      );
      refresh();
      return "The definitions have been uploaded.";
    },
  });
  return {
    node: element(
      "div",
      { class: "stack" },
      element(
        "section",
        { class: "card" },
        element("h2", {}, "Download"),
        element(
          "p",
          {},
          "Users, virtual hosts, permissions, policies, exchanges, queues and bindings. Passwords are in it as hashes.",
        ),
        download,
      ),
      element(
        "section",
        { class: "card" },
        element("h2", {}, "Upload"),
        element(
          "p",
          {},
          "Adds what is missing. Users, permissions, policies and parameters of the same name are replaced, passwords and tags included; queues and exchanges that are there stay as they are. If a line is refused, nothing changes. Files of RabbitMQ 3.8 and later are welcome.",
        ),
        upload,
        report,
      ),
    ),
    refresh: async () => {},
  };
}

function whereIs(vhost) {
  return vhost === EVERYTHING ? "definitions" : path("definitions", vhost);
}

function parsed(words) {
  try {
    return JSON.parse(words);
  } catch (error) {
    throw new Error(`This file is not JSON: ${error.message}`);
  }
}

/** "2 users, 14 queues". */
function contents(given) {
  const lists = Object.entries(given).filter(([, items]) => Array.isArray(items) && items.length > 0);
  return lists.map(([name, items]) => `${count(items.length)} ${name.replaceAll("_", " ")}`).join(", ") || "nothing";
}

/** What was refused, line by line, if the broker tells. */
function refusals(answer) {
  return (answer?.refused ?? []).map(({ kind, name, reason }) => element("li", {}, `${kind} ${name}: ${reason}`));
}

function saveAs(name, content) {
  const url = URL.createObjectURL(content);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
