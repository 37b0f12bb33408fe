// Limits of a user or of a virtual host.

import { get, path, put, remove } from "../api.js";
import { element, setText } from "../dom.js";
import { choice, form, text, wholeNumber } from "../form.js";
import { count } from "../format.js";
import { dangerButton } from "../notice.js";
import { refresh } from "../poll.js";
import { session } from "../session.js";

/** `kind` is "vhost-limits" or "user-limits", of `name`; `limits` are [name, title] of those there are. */
export function limitSection(kind, name, limits) {
  const mayChange = session.may("administrator");
  const rows = limits.map(([limit, title]) => {
    const value = element("span", {}, "–");
    const clear = dangerButton("Lift", null, async () => {
      await remove(path(kind, name, limit));
      refresh();
      return "The limit has been lifted.";
    });
    const node = element("li", {}, element("span", {}, title), value, mayChange ? clear : null);
    return {
      node,
      update: (set) => {
        setText(value, set === undefined ? "no limit" : count(set));
        clear.hidden = set === undefined;
      },
    };
  });
  const fields = { limit: choice("Limit", limits), value: text("At most", { inputmode: "numeric", required: true }) };
  const set = form({
    fields,
    submit: "Set limit",
    send: async (values) => {
      await put(path(kind, name, values.limit), { value: wholeNumber(values.value, "At most") });
      refresh();
      return "The limit has been set.";
    },
  });
  return {
    node: element(
      "section",
      { class: "card" },
      element("h2", {}, "Limits"),
      element(
        "ul",
        { class: "limits" },
        rows.map((row) => row.node),
      ),
      mayChange ? set : null,
    ),
    async refresh() {
      const [found] = await get(path(kind, name));
      limits.forEach(([limit], index) => rows[index].update(found?.value?.[limit]));
    },
  };
}
