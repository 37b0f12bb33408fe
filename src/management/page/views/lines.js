// The lines of charts that several views have.

/** The rates of messages, for the charts of everything that counts them. */
export const MESSAGE_LINES = [
  { name: "publish", title: "Publish", color: 1 },
  { name: "confirm", title: "Confirm", color: 2 },
  { name: "deliver_get", title: "Deliver and get", color: 3 },
  { name: "ack", title: "Acknowledge", color: 4 },
  { name: "redeliver", title: "Redeliver", color: 5 },
  { name: "return_unroutable", title: "Return unroutable", color: 6 },
  { name: "drop_unroutable", title: "Drop unroutable", color: 7 },
];

/** The depths of queues. */
export const DEPTH_LINES = [
  { name: "messages_ready", title: "Ready", color: 1 },
  { name: "messages_unacknowledged", title: "Unacknowledged", color: 3 },
  { name: "messages", title: "Total", color: 4 },
];
