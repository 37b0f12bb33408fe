// The page's frame: login, navigation, what is shown at which place, and the state of the connection to the broker.

import { get } from "./api.js";
import { element, replace } from "./dom.js";
import { tell } from "./notice.js";
import { current, link } from "./place.js";
import { CHOICES, poll } from "./poll.js";
import { session } from "./session.js";
import { channel, channels } from "./views/channels.js";
import { connection, connections } from "./views/connections.js";
import { definitions } from "./views/definitions.js";
import { exchange, exchanges } from "./views/exchanges.js";
import { overview } from "./views/overview.js";
import { policies } from "./views/policies.js";
import { queue } from "./views/queue.js";
import { queues } from "./views/queues.js";
import { shovels } from "./views/shovels.js";
import { user, users } from "./views/users.js";
import { vhost, vhosts } from "./views/vhosts.js";

/** Each place: its name in the address, its title, its view, the view of one item there, and the tag it needs. */
const PLACES = [
  { name: "overview", title: "Overview", view: overview },
  { name: "connections", title: "Connections", view: connections, item: connection },
  { name: "channels", title: "Channels", view: channels, item: channel },
  { name: "exchanges", title: "Exchanges", view: exchanges, item: exchange },
  { name: "queues", title: "Queues", view: queues, item: queue },
  { name: "shovels", title: "Shovels", view: shovels, group: "Manage", tag: ["monitoring", "policymaker"] },
  { name: "policies", title: "Policies", view: policies, group: "Manage" },
  { name: "vhosts", title: "Virtual hosts", view: vhosts, item: vhost, group: "Manage" },
  { name: "users", title: "Users", view: users, item: user, group: "Manage", tag: ["administrator"] },
  { name: "definitions", title: "Definitions", view: definitions, group: "Manage", tag: ["administrator"] },
];

const THEMES = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" };

let frame = null;

start();

async function start() {
  window.addEventListener("hashchange", navigate);
  poll.listen({ lost, found, failed });
  if (session.isLoggedIn) await enter().catch((problem) => showLogin(session.isLoggedIn ? problem.message : ""));
  else showLogin();
}

/** Learns who has logged in, and shows the page. */
async function enter() {
  try {
    const [who, all] = await Promise.all([get("whoami"), get("vhosts")]);
    session.name = who.name;
    session.tags = typeof who.tags === "string" ? who.tags.split(",") : who.tags;
    session.vhosts = all.map((each) => each.name).sort();
  } catch (problem) {
    if (problem.status === 401) session.logOut();
    throw problem;
  }
  if (!session.vhosts.includes(session.vhost)) session.choose("");
  showFrame();
  navigate();
}

function showLogin(problem = "") {
  poll.show(null);
  frame = null;
  const name = element("input", {
    name: "username",
    autocomplete: "username",
    autocapitalize: "none",
    spellcheck: "false",
    required: true,
  });
  const password = element("input", { name: "password", type: "password", autocomplete: "current-password" });
  const error = element("p", { class: "error", role: "alert" }, problem);
  const button = element("button", { class: "primary", type: "submit" }, "Log in");
  const form = element(
    "form",
    { class: "card login" },
    mark(),
    element("label", { class: "field" }, element("span", {}, "User name"), name),
    element("label", { class: "field" }, element("span", {}, "Password"), password),
    error,
    button,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    replace(error);
    session.logIn(name.value, password.value);
    await enter().catch((refused) => {
      session.logOut();
      const isLetIn = refused.status !== 401 || refused.message === "Login failed";
      replace(error, isLetIn ? refused.message : "This user has no tag that lets it in here.");
      password.select();
    });
    button.disabled = false;
  });
  document.title = "Log in · Leveret";
  replace(pageRoot(), element("main", { class: "center" }, form));
  name.focus();
}

function showFrame() {
  const places = PLACES.filter(isOpen);
  const nav = element(
    "nav",
    { "aria-label": "Main", id: "navigation" },
    links(places.filter((place) => !place.group)),
    element("h2", {}, "Manage"),
    links(places.filter((place) => place.group)),
  );
  const menu = element(
    "button",
    { type: "button", class: "menu", "aria-expanded": "false", "aria-controls": "navigation" },
    "Menu",
  );
  menu.addEventListener("click", () => menu.setAttribute("aria-expanded", String(side.classList.toggle("open"))));
  const banner = element("div", { class: "banner", role: "alert" });
  const error = element("p", { class: "error", role: "alert" });
  const main = element("main", { id: "main", tabindex: "-1" });
  const skip = element("a", { class: "skip", href: "#main" }, "Skip to the content");
  skip.addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  const side = element(
    "aside",
    { class: "side" },
    element("div", { class: "side-head" }, mark(), menu),
    nav,
    settings(),
  );
  frame = { main, banner, error, nav, side, menu };
  // At once, and also where the place is the one that is shown already.
  nav.addEventListener("click", closeMenu);
  replace(
    pageRoot(),
    skip,
    element("div", { class: "frame" }, side, element("div", { class: "content" }, banner, error, main)),
  );
}

/** Whether the user's tags let the user in there. */
function isOpen(place) {
  return !place.tag || place.tag.some((tag) => session.may(tag));
}

function links(places) {
  return element(
    "ul",
    {},
    places.map((place) =>
      element("li", {}, element("a", { href: link(place.name), "data-place": place.name }, place.title)),
    ),
  );
}

/** What the user can choose for the whole page. */
function settings() {
  const vhost_ = element("select");
  const offer = () => {
    replace(
      vhost_,
      element("option", { value: "" }, "All virtual hosts"),
      session.vhosts.map((name) => element("option", { value: name }, name)),
    );
    vhost_.value = session.vhost;
  };
  offer();
  session.onVhosts = offer;
  vhost_.addEventListener("change", () => {
    session.choose(vhost_.value);
    navigate();
  });
  const every = element(
    "select",
    {},
    CHOICES.map((each) => element("option", { value: each }, each ? `Every ${each} s` : "Paused")),
  );
  every.value = poll.seconds;
  every.addEventListener("change", () => poll.every(Number(every.value)));
  const theme = element("button", { type: "button", class: "plain" });
  const showTheme = () => replace(theme, THEMES[localStorage.getItem("theme") ?? "auto"]);
  theme.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(localStorage.getItem("theme") ?? "auto") + 1) % names.length];
    if (next === "auto") {
      localStorage.removeItem("theme");
      delete document.documentElement.dataset.theme;
    } else {
      localStorage.setItem("theme", next);
      document.documentElement.dataset.theme = next;
    }
    showTheme();
  });
  showTheme();
  const leave = () => {
    session.logOut();
    history.replaceState(null, "", "#/");
    showLogin();
  };
  return element(
    "div",
    { class: "settings" },
    element("label", { class: "field" }, element("span", {}, "Show"), vhost_),
    element("label", { class: "field" }, element("span", {}, "Refresh"), every),
    theme,
    element(
      "div",
      { class: "who" },
      element("span", { title: session.tags.join(", ") }, session.name),
      element("button", { type: "button", class: "plain", onclick: leave }, "Log out"),
    ),
  );
}

/** Closes the menu of a narrow window. */
function closeMenu() {
  frame.side.classList.remove("open");
  frame.menu.setAttribute("aria-expanded", "false");
}

/** Shows what the address says. */
function navigate() {
  if (!frame) return;
  const { parts } = current();
  const place = PLACES.find((each) => each.name === (parts[0] ?? "overview"));
  const isItem = parts.length > 1;
  const show = isItem ? place?.item : place?.view;
  closeMenu();
  for (const each of frame.nav.querySelectorAll("a")) {
    if (each.dataset.place === place?.name) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  replace(frame.error);
  if (!show || !isOpen(place)) {
    replace(
      frame.main,
      element(
        "p",
        { class: "empty" },
        show ? "Your tags do not let you see this." : "There is nothing at this address.",
      ),
    );
    poll.show(null);
    return;
  }
  const view = show(...parts.slice(1));
  document.title = `${isItem ? `${parts.at(-1) || place.title} · ` : ""}${place.title} · Leveret`;
  replace(
    frame.main,
    isItem ? element("a", { class: "up", href: link(place.name) }, `‹ ${place.title}`) : null,
    element("div", { class: "heading" }, element("h1", {}, view.title ?? place.title), view.actions),
    view.node,
  );
  frame.main.dataset.state = "loading";
  window.scrollTo(0, 0);
  poll.show({
    async refresh() {
      await view.refresh();
      frame?.main.removeAttribute("data-state");
    },
  });
}

function lost() {
  if (!frame || frame.banner.hasChildNodes()) return;
  replace(
    frame.banner,
    "The broker does not answer. What you see may be out of date; trying again every other second.",
  );
  frame.main.dataset.lost = "";
}

function found() {
  if (!frame) return;
  replace(frame.banner);
  delete frame.main.dataset.lost;
  tell("The broker answers again.");
}

/** A view could not be refreshed, or, with null, could be. */
function failed(problem) {
  if (!frame) return;
  if (problem?.answer?.error === "not_authorized") {
    session.logOut();
    showLogin("You have been logged out: the name, the password or the tags have changed.");
    return;
  }
  frame.main.removeAttribute("data-state");
  if (problem?.status === 404) {
    poll.show(null);
    replace(
      frame.main,
      frame.main.querySelector(".up"),
      element("p", { class: "empty" }, "This does not exist, or no longer."),
    );
    return;
  }
  const text = problem?.message ?? "";
  if (frame.error.textContent !== text) replace(frame.error, text);
}

function mark() {
  return element(
    "div",
    { class: "mark" },
    element("img", { src: "icon.svg", alt: "", width: 28, height: 28 }),
    element("strong", {}, "Leveret"),
  );
}

function pageRoot() {
  let root = document.getElementById("page");
  if (!root) {
    root = element("div", { id: "page" });
    document.body.prepend(root);
  }
  return root;
}
