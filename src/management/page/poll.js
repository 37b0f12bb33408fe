// Asks for the figures of the visible view again and again: as often as the user likes, not while the page is hidden,
// and every other second while the broker does not answer.

import { Unreachable } from "./api.js";

const RETRY_MS = 2000;
const DEFAULT_SECONDS = 5;

/** Every so many seconds; 0 is never. */
export const CHOICES = [2, 5, 30, 0];

let seconds = CHOICES.includes(Number(localStorage.getItem("poll") ?? NaN))
  ? Number(localStorage.getItem("poll"))
  : DEFAULT_SECONDS;
let view = null;
let timer;
let isRunning = false;
let isAskedAgain = false;
let isLost = false;
let listener = { lost() {}, found() {}, failed() {} };

export const poll = {
  get seconds() {
    return seconds;
  },

  /** Who hears of a broker that is lost or found again, and of errors of a view. */
  listen(to) {
    listener = to;
  },

  every(chosen) {
    seconds = chosen;
    localStorage.setItem("poll", chosen);
    refresh();
  },

  /** From now on this view is refreshed. `null` for none. */
  show(next) {
    view = next;
    clearTimeout(timer);
    if (view) refresh();
  },
};

/** Refreshes now, because something has been changed. */
export async function refresh() {
  clearTimeout(timer);
  if (isRunning) {
    isAskedAgain = true;
    return;
  }
  if (!view) return;
  isRunning = true;
  const shown = view;
  try {
    await shown.refresh();
    if (isLost) listener.found();
    isLost = false;
    if (shown === view) listener.failed(null);
  } catch (problem) {
    if (problem instanceof Unreachable) {
      isLost = true;
      listener.lost();
    } else if (shown === view) listener.failed(problem);
  }
  isRunning = false;
  if (isAskedAgain || shown !== view) {
    isAskedAgain = false;
    refresh();
    return;
  }
  schedule();
}

function schedule() {
  clearTimeout(timer);
  if (document.hidden || !view) return;
  if (isLost) timer = setTimeout(refresh, RETRY_MS);
  else if (seconds > 0) timer = setTimeout(refresh, seconds * 1000);
}

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
