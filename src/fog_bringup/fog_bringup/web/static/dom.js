// Small functions for pages: finding elements, writing into them.

export const byId = (id) => document.getElementById(id);

/** Text into an element, with a part of it smaller. */
export function write(id, text, small = "", kind = "") {
  const element = byId(id);
  element.textContent = "";
  const main = document.createElement("span");
  main.textContent = text;
  main.className = kind;
  element.append(main);
  if (small) {
    const rest = document.createElement("small");
    rest.textContent = " " + small;
    element.append(rest);
  }
}

/** A number with its sign and two decimals. */
export const signed = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`;

/** Lines above the page that whoever uses it has to know; none hides them. */
export function showNotes(texts) {
  byId("notes").hidden = !texts.length;
  byId("notes").replaceChildren(...texts.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
}
