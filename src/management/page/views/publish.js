// The form that publishes a message, of an exchange or straight to a queue.

import { exchangePath, post } from "../api.js";
import { area, argumentsField, choice, folded, form, text, wholeNumber } from "../form.js";
import { refresh } from "../poll.js";

/** Texts of properties that are numbers. */
const NUMBERS = ["priority", "timestamp"];

const PROPERTIES = [
  "content_type",
  "content_encoding",
  "priority",
  "correlation_id",
  "reply_to",
  "expiration",
  "message_id",
  "timestamp",
  "type",
  "user_id",
  "app_id",
];

/** `queue` is the routing key of a queue's own form, which goes to the default exchange. */
export function publishForm(vhost, exchange, queue) {
  const hints = { expiration: "Milliseconds until it expires.", timestamp: "Seconds since 1970." };
  const properties = Object.fromEntries(
    PROPERTIES.map((name) => [name, text(name.replaceAll("_", " "), { title: hints[name] })]),
  );
  const fields = {
    ...(queue === undefined ? { key: text("Routing key") } : {}),
    mode: choice("Delivery mode", [
      ["2", "Persistent"],
      ["1", "Transient"],
    ]),
    encoding: choice("The payload is", [
      ["string", "text"],
      ["base64", "octets as base64"],
    ]),
    payload: area("Payload"),
    headers: argumentsField("Headers"),
    properties: {
      ...group(properties),
      get value() {
        return Object.fromEntries(Object.entries(properties).map(([name, each]) => [name, each.value]));
      },
    },
  };
  return form({
    fields,
    submit: "Publish",
    keeps: true,
    send: async (values) => {
      const answer = await post(exchangePath(vhost, exchange, "publish"), {
        routing_key: queue ?? values.key,
        payload: values.payload,
        payload_encoding: values.encoding,
        properties: {
          delivery_mode: Number(values.mode),
          ...(Object.keys(values.headers).length ? { headers: values.headers } : {}),
          ...given(values.properties),
        },
      });
      refresh();
      // The broker has it, or has dropped it: that no queue took it is what a user must know.
      if (!answer.routed) throw new Error("Published, but no queue took it: nothing is bound with such a routing key.");
      return "Published.";
    },
  });
}

function group(fields) {
  const node = folded(
    "More properties",
    Object.values(fields).map((each) => each.node),
  );
  node.classList.add("wide", "inner");
  return { node };
}

function given(properties) {
  const filled = Object.entries(properties).filter(([, value]) => value !== "");
  return Object.fromEntries(
    filled.map(([name, value]) => [name, NUMBERS.includes(name) ? wholeNumber(value, name) : value]),
  );
}
