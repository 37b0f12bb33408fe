// What has happened, said once and read aloud by screen readers, and questions before what can't be undone.

import { element, uniqueId } from "./dom.js";

/** How long a notice stays, in milliseconds. */
const NOTICE_MS = 6000;

const region = element("div", { class: "notices", role: "status", "aria-live": "polite" });
document.body.append(region);

/** Says that something has been done. */
export function tell(text) {
  show(text, "notice");
}

/** Says what went wrong, in the words of the error. */
export function tellError(error) {
  show(error.message, "notice bad");
}

function show(text, kind) {
  const close = element(
    "button",
    { type: "button", class: "plain", "aria-label": "Close this notice", onclick: () => notice.remove() },
    "×",
  );
  const notice = element("div", { class: kind }, element("span", {}, text), close);
  region.append(notice);
  setTimeout(() => notice.remove(), NOTICE_MS);
}

/**
 * Asks before something that can't be undone. `type` is a text to type in, for the worst of it. Gives true if the
 * user agrees.
 */
export function confirmed({ title, text, action, type }) {
  return new Promise((resolve) => {
    const heading = uniqueId();
    const typed = element("input", { autocomplete: "off", spellcheck: "false" });
    const agree = element("button", { class: "danger", value: "yes", disabled: Boolean(type) }, action);
    typed.addEventListener("input", () => (agree.disabled = typed.value !== type));
    const dialog = element(
      "dialog",
      { "aria-labelledby": heading },
      element(
        "form",
        { method: "dialog" },
        element("h2", { id: heading }, title),
        element("p", {}, text),
        type
          ? element(
              "label",
              { class: "field" },
              element("span", {}, "Type ", element("strong", {}, type), " to go on"),
              typed,
            )
          : null,
        element(
          "div",
          { class: "buttons" },
          element("button", { value: "", type: "submit", formnovalidate: true }, "Cancel"),
          agree,
        ),
      ),
    );
    // Enter in the text must not press "Cancel", which comes first.
    typed.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      if (!agree.disabled) agree.click();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A button that asks, acts, and says what has come of it. */
export function dangerButton(label, question, act) {
  const button = element("button", { type: "button", class: "danger quiet" }, label);
  button.addEventListener("click", async () => {
    if (question && !(await confirmed({ action: label, ...(typeof question === "function" ? question() : question) })))
      return;
    button.disabled = true;
    try {
      const said = await act();
      if (said) tell(said);
    } catch (error) {
      tellError(error);
    }
    button.disabled = false;
  });
  return button;
}
