// Places within the page: what is behind the `#` of its address.

/** The link to a place: `link("queues", "/", "orders")`. */
export function link(...parts) {
  return `#/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
}

/** The parts of the present place, and what is asked for there. */
export function current() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path === "" ? [] : path.split("/").map(decoded), query: new URLSearchParams(query ?? "") };
}

/** Goes to a place. */
export function go(...parts) {
  location.hash = link(...parts);
}

/** Changes what is asked for at the present place; the browser's way back skips it. */
export function ask(query) {
  const [path] = location.hash.split("?");
  const text = query.toString();
  history.replaceState(null, "", `${path || "#/"}${text ? `?${text}` : ""}`);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
