// Who has logged in, and what they chose. Credentials live as long as the tab.

const KEY = "authorization";

/** What a tag lets its user do includes what these let theirs do. */
const ALSO = {
  administrator: ["administrator"],
  monitoring: ["monitoring", "administrator"],
  policymaker: ["policymaker", "administrator"],
};

export const session = {
  /** The header of every request. */
  authorization: sessionStorage.getItem(KEY) ?? "",
  /** The name of the user. */
  name: "",
  /** The tags of the user. */
  tags: [],
  /** The names of the virtual hosts that the user sees. */
  vhosts: [],
  /** Called when there are others. */
  onVhosts() {},
  /** The virtual host that lists are about; empty for all. */
  vhost: sessionStorage.getItem("vhost") ?? "",

  get isLoggedIn() {
    return this.authorization !== "";
  },

  /** Whether the user may do what this tag is for. */
  may(tag) {
    return ALSO[tag].some((each) => this.tags.includes(each));
  },

  logIn(name, password) {
    const octets = new TextEncoder().encode(`${name}:${password}`);
    this.authorization = `Basic ${btoa(String.fromCharCode(...octets))}`;
    sessionStorage.setItem(KEY, this.authorization);
  },

  logOut() {
    this.authorization = "";
    this.name = "";
    this.tags = [];
    sessionStorage.removeItem(KEY);
  },

  choose(vhost) {
    this.vhost = vhost;
    sessionStorage.setItem("vhost", vhost);
  },

  /** The choices have a virtual host that has been added, without asking the broker again. */
  remember(vhost) {
    if (this.vhosts.includes(vhost)) return;
    this.vhosts = [...this.vhosts, vhost].sort();
    this.onVhosts();
  },

  forget(vhost) {
    this.vhosts = this.vhosts.filter((each) => each !== vhost);
    if (this.vhost === vhost) this.choose("");
    this.onVhosts();
  },

  /** Where something new is to be by default. */
  get defaultVhost() {
    return this.vhost || (this.vhosts.includes("/") ? "/" : (this.vhosts[0] ?? "/"));
  },
};
