// Lines over time, drawn as SVG: figures of the last minutes, with a legend that says the present ones and switches
// lines off, and a ruler to read off earlier ones.

import { element, replace, setText, svg } from "./dom.js";
import { clock, short } from "./format.js";

/** How far back a chart goes, and the least that it spans, in milliseconds. */
const SPAN_MS = 600_000;
const LEAST_SPAN_MS = 60_000;
const HEIGHT = 190;
const MARGIN = { left: 46, right: 10, top: 10, bottom: 22 };

/**
 * A chart. `lines` are `{name, title, color, isOff}`, where `color` is a number of the palette. `format` makes texts of
 * figures. `update(now, values)` takes one figure by name, or `{value, samples}` with earlier ones of
 * `{time, value}` from the broker.
 */
export function chart({ title, lines, format }) {
  const drawing = svg("svg", { role: "img", height: HEIGHT, "aria-label": title });
  const tip = element("div", { class: "tip", hidden: true });
  const history = new Map(lines.map((line) => [line.name, []]));
  const off = new Set(lines.filter((line) => line.isOff).map((line) => line.name));
  const figures = new Map();
  const legend = element("ul", { class: "legend" }, lines.map(entry));
  const frame = element("div", { class: "plot" }, drawing, tip);
  const node = element("figure", { class: "card chart" }, element("figcaption", {}, title), frame, legend);
  let now = Date.now();
  new ResizeObserver(draw).observe(frame);
  frame.addEventListener("pointermove", (event) => point(event.clientX - frame.getBoundingClientRect().left));
  frame.addEventListener("pointerleave", () => point(null));
  return { node, update };

  function update(time, values) {
    now = time;
    for (const line of lines) {
      const given = values[line.name] ?? 0;
      const value = typeof given === "object" ? given.value : given;
      // What the broker has kept, once it has, is more than what has been seen here.
      const points =
        given.samples?.length > 1 ? given.samples.filter((each) => each.time < now) : history.get(line.name);
      history.set(line.name, points);
      points.push({ time, value });
      while (points.length > 0 && points[0].time < now - SPAN_MS) points.shift();
      setText(figures.get(line.name), format(value));
    }
    draw();
  }

  function entry(line) {
    const figure = element("span", { class: "figure" }, "–");
    figures.set(line.name, figure);
    const button = element(
      "button",
      { type: "button", "aria-pressed": String(!off.has(line.name)), title: `Show or hide ${line.title}` },
      element("span", { class: `swatch line-${line.color}` }),
      element("span", { class: "name" }, line.title),
      figure,
    );
    button.addEventListener("click", () => {
      if (!off.delete(line.name)) off.add(line.name);
      button.setAttribute("aria-pressed", String(!off.has(line.name)));
      draw();
    });
    return element("li", {}, button);
  }

  function shown() {
    return lines.filter((line) => !off.has(line.name));
  }

  /** What the drawing's pixels mean. */
  function scale() {
    const width = Math.max(200, frame.clientWidth);
    const points = shown().flatMap((line) => history.get(line.name));
    const first = points.reduce((least, each) => Math.min(least, each.time), now - LEAST_SPAN_MS);
    const top = niceCeiling(points.reduce((most, each) => Math.max(most, each.value), 0));
    const right = width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    return {
      width,
      first,
      top,
      right,
      bottom,
      spanSeconds: Math.round((now - first) / 1000),
      x: (time) => MARGIN.left + ((time - first) / (now - first)) * (right - MARGIN.left),
      y: (value) => bottom - (value / top) * (bottom - MARGIN.top),
    };
  }

  function draw() {
    const plane = scale();
    drawing.setAttribute("viewBox", `0 0 ${plane.width} ${HEIGHT}`);
    drawing.setAttribute("width", plane.width);
    // The first lines matter most and come on top.
    const drawn = shown()
      .map((line) => path(plane, line))
      .reverse();
    replace(drawing, grid(plane), drawn, svg("g", { class: "ruler" }));
  }

  function path(plane, line) {
    const points = history.get(line.name);
    if (points.length === 0) return null;
    const at = (each) => `${plane.x(each.time).toFixed(1)},${plane.y(each.value).toFixed(1)}`;
    const class_ = `line line-${line.color}`;
    if (points.length === 1)
      return svg("circle", { class: class_, cx: plane.x(points[0].time), cy: plane.y(points[0].value), r: 2 });
    return svg("polyline", { class: class_, points: points.map(at).join(" ") });
  }

  function point(x) {
    const plane = scale();
    const isIn = x !== null && x >= MARGIN.left && x <= plane.right;
    const time = isIn ? plane.first + ((x - MARGIN.left) / (plane.right - MARGIN.left)) * (now - plane.first) : 0;
    const near = isIn
      ? shown()
          .map((line) => [line, nearest(history.get(line.name), time)])
          .filter(([, each]) => each)
      : [];
    tip.hidden = near.length === 0;
    const ruler = drawing.querySelector(".ruler");
    if (!ruler) return;
    replace(ruler);
    if (near.length === 0) return;
    const at = near[0][1].time;
    replace(ruler, svg("line", { x1: plane.x(at), x2: plane.x(at), y1: MARGIN.top, y2: plane.bottom }));
    replace(
      tip,
      element("time", {}, clock(at)),
      near.map(([line, each]) =>
        element(
          "div",
          {},
          element("span", { class: `swatch line-${line.color}` }),
          `${line.title} `,
          element("b", {}, format(each.value)),
        ),
      ),
    );
    tip.classList.toggle("to-left", plane.x(at) > plane.width / 2);
  }
}

/** What `chart.update` takes for a counter: its rate, and earlier ones if the broker keeps them. */
export function rates(stats, name) {
  const details = stats?.[`${name}_details`];
  return { value: details?.rate ?? 0, samples: inOrder(details?.samples, perSecond) };
}

/** The same for a level, such as messages in a queue. */
export function levels(object, name) {
  const details = object?.[`${name}_details`];
  return {
    value: object?.[name] ?? 0,
    samples: inOrder(details?.samples, (each) => ({ time: each.timestamp, value: each.sample })),
  };
}

/** Asks the broker for what charts show of the past. */
export const PAST = { msg_rates_age: 600, msg_rates_incr: 5, lengths_age: 600, lengths_incr: 5 };

/** The broker gives the newest sample first. */
function inOrder(samples, read) {
  return samples
    ?.map((each, index) => read(each, samples[index + 1]))
    .filter(Boolean)
    .reverse();
}

function perSecond(sample, before) {
  if (!before || sample.timestamp <= before.timestamp) return null;
  return {
    time: sample.timestamp,
    value: Math.max(0, (sample.sample - before.sample) / ((sample.timestamp - before.timestamp) / 1000)),
  };
}

function grid(plane) {
  const steps = [0, 0.5, 1].map((part) => part * plane.top);
  const levels_ = steps.map((value) => [
    svg("line", { x1: MARGIN.left, x2: plane.right, y1: plane.y(value), y2: plane.y(value) }),
    svg("text", { x: MARGIN.left - 6, y: plane.y(value) + 4, "text-anchor": "end" }, short(value)),
  ]);
  const span = plane.spanSeconds;
  const ago = span >= 120 ? `${Math.round(span / 60)} min ago` : `${span} s ago`;
  const ends = [
    svg("text", { x: MARGIN.left, y: HEIGHT - 6 }, ago),
    svg("text", { x: plane.right, y: HEIGHT - 6, "text-anchor": "end" }, "now"),
  ];
  return svg("g", { class: "grid" }, levels_, ends);
}

function nearest(points, time) {
  let best;
  for (const each of points) if (!best || Math.abs(each.time - time) < Math.abs(best.time - time)) best = each;
  return best;
}

/** The next 1, 2, 4, 5 or 8 with zeros: halves of these are short to write. */
function niceCeiling(value) {
  if (value <= 1) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].map((each) => each * unit).find((each) => each >= value);
}
