// Draws pictures, figures and charts; knows nothing of the connection.

import { byId, signed } from "./shared/dom.js";

/** Base64 of RGB bytes, row after row, onto a canvas of the picture's own size. */
export function paint(canvas, base64, width, height) {
  const bytes = atob(base64);
  const image = new ImageData(width, height);
  for (let from = 0, to = 0; from < bytes.length; from += 3, to += 4) {
    image.data[to] = bytes.charCodeAt(from);
    image.data[to + 1] = bytes.charCodeAt(from + 1);
    image.data[to + 2] = bytes.charCodeAt(from + 2);
    image.data[to + 3] = 255;
  }
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Lines over the steps; `series` maps a CSS class to numbers. */
export function chart(series) {
  const svg = byId("chart");
  svg.textContent = "";
  const all = Object.values(series).flat().filter(Number.isFinite);
  const low = Math.min(0, ...all), high = Math.max(0, ...all);
  const span = high - low || 1;
  const most = Math.max(0, ...Object.values(series).map((s) => s.length));
  const longest = Math.max(20, most);
  const y = (value) => (84 - (78 * (value - low)) / span).toFixed(1);
  const add = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    svg.append(element);
  };
  add("line", { x1: 0, x2: 320, y1: y(0), y2: y(0) });
  for (const [kind, values] of Object.entries(series)) {
    const points = values.map((v, i) => `${((320 * i) / (longest - 1)).toFixed(1)},${y(v)}`);
    add("polyline", { class: kind, points: points.join(" ") });
  }
  byId("chart-low").textContent = all.length ? `${low.toFixed(2)} to ${high.toFixed(2)}` : "";
  byId("chart-high").textContent = all.length ? `${most} step${most === 1 ? "" : "s"}` : "";
}

/** A bar and a number for each field of the action. */
export function actionBars(controls, keyName) {
  const box = byId("action");
  box.textContent = "";
  for (const control of controls) {
    const field = document.createElement("div");
    field.className = "field";
    const label = document.createElement("span");
    label.textContent = control.label;
    label.title = control.field;
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.append(document.createElement("i"));
    const keys = document.createElement("span");
    keys.className = "keys";
    const list = (codes) => codes.map(keyName).join(" ");
    keys.textContent = control.up.length ? `${list(control.up)} / ${list(control.down)}` : "";
    field.append(label, bar, document.createElement("output"), keys);
    box.append(field);
  }
  showAction(controls, controls.map(() => 0));
}

/** Physical values into the bars; full deflection is the field's bound on that side. */
export function showAction(controls, command) {
  [...byId("action").children].forEach((field, i) => {
    const { low, high, unit } = controls[i];
    const value = command[i];
    const share = Math.min(1, value >= 0 ? value / Math.max(high, 1e-9) : value / Math.min(low, -1e-9));
    const fill = field.querySelector("i");
    fill.style.width = `${50 * Math.abs(share)}%`;
    fill.style.left = value >= 0 ? "50%" : `${50 - 50 * Math.abs(share)}%`;
    field.querySelector("output").textContent = `${signed(value)} ${unit}`;
  });
}
