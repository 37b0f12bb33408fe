// Requests to the broker's HTTP API, as the user who has logged in.

import { session } from "./session.js";

/** How long a request may take, in milliseconds. */
const TIMEOUT_MS = 30_000;

/** The broker said no. The message is its words. */
export class ApiError extends Error {
  constructor(status, message, answer) {
    super(message);
    this.status = status;
    this.answer = answer;
  }
}

/** The broker can't be reached. */
export class Unreachable extends Error {
  constructor() {
    super("The broker does not answer.");
  }
}

/** A path of the API: every part is encoded, so `/` in a name stays in the name. */
export function path(...parts) {
  for (const part of parts) {
    // A URL can't hold these, in no encoding: browsers take them for directories and would ask for something else.
    if (part === "." || part === "..")
      throw new Error(`A browser can't ask for something named "${part}". The command line can.`);
  }
  return parts.map((part) => encodeURIComponent(part)).join("/");
}

/** The path of an exchange; the default one goes by another name there. */
export function exchangePath(vhost, name, ...more) {
  return path("exchanges", vhost, name === "" ? "amq.default" : name, ...more);
}

export const get = (where, query) => request("GET", where, { query });
/** What an answer holds as it is, octet by octet: JSON.parse would round numbers. */
export const getBlob = (where) => request("GET", where, { read: (response) => response.blob() });
export const put = (where, body) => request("PUT", where, { body });
export const post = (where, body) => request("POST", where, { body });
/** Sends JSON that is a text already, as it is. */
export const postText = (where, text) => request("POST", where, { text });
export const remove = (where, headers) => request("DELETE", where, { headers });

/**
 * Sends a request. Gives what the answer holds as JSON, or null if it is empty, or what `read` makes of it. Throws ApiError
 * or Unreachable.
 */
async function request(method, where, { query, body, text, headers, read } = {}) {
  const content = body === undefined ? text : JSON.stringify(body);
  const url = new URL(`api/${where}`, document.baseURI);
  for (const [name, value] of Object.entries(query ?? {})) url.searchParams.set(name, value);
  const response = await send(url, {
    method,
    // The browser neither adds credentials of its own nor asks for some.
    credentials: "omit",
    cache: "no-store",
    signal: AbortSignal.timeout(TIMEOUT_MS),
    headers: {
      authorization: session.authorization,
      "x-requested-with": "Leveret",
      ...(content === undefined ? {} : { "content-type": "application/json" }),
      ...headers,
    },
    body: content,
  });
  return read && response.ok ? received(read(response)) : answer(response);
}

async function send(url, options) {
  try {
    return await fetch(url, options);
  } catch {
    throw new Unreachable();
  }
}

async function received(content) {
  try {
    return await content;
  } catch {
    throw new Unreachable();
  }
}

async function answer(response) {
  const text = await received(response.text());
  const content = parsed(text);
  if (response.ok) return content;
  if (response.status === 502 || response.status === 504) throw new Unreachable();
  const reason = content?.reason ?? content?.error ?? text;
  const words = typeof reason === "string" ? reason : JSON.stringify(reason);
  throw new ApiError(response.status, words || `The broker answered ${response.status}.`, content);
}

function parsed(text) {
  try {
    return text === "" ? null : JSON.parse(text);
  } catch {
    return null;
  }
}
