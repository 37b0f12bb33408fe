// Tables. A cell says what it shows, and only what has changed is touched, so that the focus and a selection stay
// where they are while figures move.

import { get } from "./api.js";
import { element, replace } from "./dom.js";
import { count, plain } from "./format.js";
import { ask, current } from "./place.js";

/** Figures that are not worth a look: shown quietly. */
const NOTHING = ["0", "0/s", "0 B/s", "–"];

const PAGE_SIZES = ["25", "50", "100", "500"];
const DEFAULT_PAGE_SIZE = "50";
/** How long typing must pause before the filter is asked for, in milliseconds. */
const TYPING_MS = 300;

/**
 * Rows without paging. `columns` are `{title, show, isNumber, isSecondary}`, where `show(item)` gives a text, or
 * `{text, href, title, badges, node}`; `key(item)` tells items apart.
 */
export function table({ columns, key, empty, label }) {
  const head = element(
    "tr",
    {},
    columns.map((column) => element("th", { scope: "col", class: classes(column) }, column.title)),
  );
  const body = element("tbody");
  const grid = element("table", { "aria-label": label }, element("thead", {}, head), body);
  const nothing = element("p", { class: "empty" }, empty);
  const node = element("div", { class: "table" }, grid, nothing);
  const rows = new Map();
  return {
    node,
    head,
    update(items) {
      grid.hidden = items.length === 0;
      nothing.hidden = items.length > 0;
      body.replaceChildren(...reused(rows, items, key, columns));
    },
    setEmpty: (text) => replace(nothing, text),
  };
}

/**
 * A list that the broker pages, sorts and filters: `where()` is its path, `fields` what is asked of every item
 * (everything, if left out). A column with `sort` can be sorted by. What is chosen is in the page's address.
 */
export function list({
  where,
  query: more = {},
  fields,
  columns,
  key,
  empty,
  label,
  noun,
  sort: initialSort = "name",
}) {
  const rows = table({ columns, key, empty, label });
  const chosen = current().query;
  const state = {
    page: Number(chosen.get("page")) || 1,
    size: PAGE_SIZES.includes(chosen.get("size")) ? chosen.get("size") : DEFAULT_PAGE_SIZE,
    name: chosen.get("name") ?? "",
    isRegex: chosen.get("regex") === "1",
    sort: columns.some((column) => column.sort === chosen.get("sort")) ? chosen.get("sort") : initialSort,
    isReverse: chosen.get("reverse") === "1",
  };
  const summary = element("span", { class: "summary", role: "status" });
  const error = element("p", { class: "error", role: "alert" });
  const search = element("input", {
    type: "search",
    value: state.name,
    placeholder: `Find ${noun} by name`,
    "aria-label": `Find ${noun} by name`,
  });
  const regex = element("input", { type: "checkbox", checked: state.isRegex });
  const size = element(
    "select",
    { "aria-label": "Rows on a page" },
    PAGE_SIZES.map((each) => element("option", { value: each }, `${each} rows`)),
  );
  size.value = state.size;
  const back = element("button", { type: "button", onclick: () => turn({ page: state.page - 1 }) }, "‹ Back");
  const next = element("button", { type: "button", onclick: () => turn({ page: state.page + 1 }) }, "Next ›");
  const where_ = element("span", { class: "pages" });
  let pause;
  search.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(() => turn({ name: search.value, page: 1 }), TYPING_MS);
  });
  regex.addEventListener("change", () => turn({ isRegex: regex.checked, page: 1 }));
  size.addEventListener("change", () => turn({ size: size.value, page: 1 }));
  columns.forEach((column, index) => column.sort && rows.head.children[index].replaceChildren(sorter(column)));
  mark();

  const pager = element("div", { class: "pager" }, back, where_, next);
  const node = element(
    "div",
    { class: "card list" },
    element(
      "div",
      { class: "toolbar" },
      search,
      element("label", { class: "tick" }, regex, element("span", {}, "Regex")),
      summary,
      size,
    ),
    error,
    rows.node,
    pager,
  );
  let asked = 0;
  return { node, refresh };

  async function refresh() {
    const mine = (asked += 1);
    node.setAttribute("aria-busy", "true");
    try {
      const answer = await get(where(), query());
      if (mine !== asked) return;
      replace(error);
      show(Array.isArray(answer) ? paged(answer, state) : answer);
    } catch (problem) {
      if (mine !== asked) return;
      // A wrong regular expression, or a page that is gone: the user can mend it here.
      if (problem.status !== 400) throw problem;
      if (state.page > 1) return turn({ page: 1 });
      replace(error, problem.message);
    } finally {
      if (mine === asked) node.removeAttribute("aria-busy");
    }
  }

  function query() {
    const asks = {
      ...more,
      page: state.page,
      page_size: state.size,
      pagination: true,
      name: state.name,
      use_regex: state.isRegex,
    };
    asks.sort = state.sort;
    asks.sort_reverse = state.isReverse;
    if (fields) asks.columns = fields.join(",");
    return asks;
  }

  function show(answer) {
    if (state.page > Math.max(1, answer.page_count)) return turn({ page: Math.max(1, answer.page_count) });
    rows.setEmpty(state.name ? `No ${noun} with such a name.` : empty);
    rows.update(answer.items);
    const isFiltered = answer.filtered_count !== answer.total_count;
    replace(
      summary,
      isFiltered
        ? `${count(answer.filtered_count)} of ${count(answer.total_count)}`
        : `${count(answer.total_count)} ${noun}`,
    );
    pager.hidden = answer.page_count <= 1;
    back.disabled = state.page <= 1;
    next.disabled = state.page >= answer.page_count;
    replace(where_, `Page ${count(state.page)} of ${count(answer.page_count)}`);
    return undefined;
  }

  function turn(change) {
    Object.assign(state, change);
    mark();
    const asks = new URLSearchParams();
    if (state.page > 1) asks.set("page", state.page);
    if (state.size !== DEFAULT_PAGE_SIZE) asks.set("size", state.size);
    if (state.name) asks.set("name", state.name);
    if (state.isRegex) asks.set("regex", "1");
    if (state.sort !== initialSort) asks.set("sort", state.sort);
    if (state.isReverse) asks.set("reverse", "1");
    ask(asks);
    return refresh().catch((problem) => replace(error, problem.message));
  }

  function sorter(column) {
    const by = () => {
      const isSame = state.sort === column.sort;
      // The largest figures first, names from A on; and the other way at the next press.
      return turn({ sort: column.sort, isReverse: isSame ? !state.isReverse : Boolean(column.isNumber), page: 1 });
    };
    return element("button", { type: "button", class: "sorter", onclick: by }, column.title);
  }

  function mark() {
    columns.forEach((column, index) => {
      const isSorted = column.sort && column.sort === state.sort;
      const cell = rows.head.children[index];
      if (isSorted) cell.setAttribute("aria-sort", state.isReverse ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }
}

/** Names and values, one below the other. */
export function facts() {
  const node = element("dl", { class: "facts" });
  const cells = new Map();
  return {
    node,
    /** `entries` are [name, what a cell shows]; those without a value are left out. */
    update(entries) {
      const shown = entries.filter((entry) => entry && entry[1] !== undefined && entry[1] !== null);
      const nodes = shown.flatMap(([name, value]) => {
        if (!cells.has(name)) cells.set(name, [element("dt", {}, name), element("dd")]);
        const [term, definition] = cells.get(name);
        render(definition, value);
        return [term, definition];
      });
      node.replaceChildren(...nodes);
    },
  };
}

/** A broker that does not page this list gives all of it. */
function paged(all, state) {
  const name = state.name.toLowerCase();
  const pattern = state.isRegex && state.name ? new RegExp(state.name) : null;
  const found = all.filter((item) =>
    pattern ? pattern.test(item.name ?? "") : (item.name ?? "").toLowerCase().includes(name),
  );
  found.sort(
    (left, right) => compared(valueAt(left, state.sort), valueAt(right, state.sort)) * (state.isReverse ? -1 : 1),
  );
  const from = (state.page - 1) * Number(state.size);
  return {
    items: found.slice(from, from + Number(state.size)),
    filtered_count: found.length,
    total_count: all.length,
    page_count: Math.ceil(found.length / Number(state.size)),
  };
}

function valueAt(item, dotted) {
  return dotted.split(".").reduce((value, part) => value?.[part], item);
}

function compared(left, right) {
  if (typeof left === "number" || typeof right === "number") return (left ?? 0) - (right ?? 0);
  return String(left ?? "").localeCompare(String(right ?? ""));
}

function reused(rows, items, key, columns) {
  const seen = new Set();
  const nodes = items.map((item) => {
    const id = key(item);
    seen.add(id);
    if (!rows.has(id))
      rows.set(
        id,
        element(
          "tr",
          {},
          columns.map((column, index) =>
            element(index === 0 ? "th" : "td", { scope: index === 0 ? "row" : null, class: classes(column) }),
          ),
        ),
      );
    const row = rows.get(id);
    columns.forEach((column, index) => render(row.children[index], column.show(item)));
    return row;
  });
  for (const id of rows.keys()) if (!seen.has(id)) rows.delete(id);
  return nodes;
}

/** Shows a value in a cell, unless it is there already. */
function render(cell, value) {
  const shown = typeof value === "object" && value !== null ? value : { text: value };
  const { text = "", href, title, badges = [], node } = shown;
  const sign = JSON.stringify([text, href, title, badges, node?.dataset.key]);
  if (cell.sign === sign) return;
  cell.sign = sign;
  const words = href ? element("a", { href, title: title ?? text }, text) : element("span", { title }, String(text));
  cell.classList.toggle("zero", NOTHING.includes(text));
  replace(cell, text === "" && !href ? null : words, badges.map(badge), node);
}

/** A short mark beside something: [text, kind, title]. */
export function badge([text, kind = "", title]) {
  return element("span", { class: `badge ${kind}`, title }, text);
}

/** A mark for the state of a connection, a channel or a queue. */
export function stateBadge(state) {
  const kinds = { running: "good", blocked: "bad", blocking: "warn", flow: "warn", closing: "warn", closed: "bad" };
  return [plain(state), kinds[state] ?? ""];
}

function classes(column) {
  return (
    [column.isNumber ? "number" : "", column.isSecondary ? "secondary" : "", column.class ?? ""].join(" ").trim() ||
    null
  );
}
