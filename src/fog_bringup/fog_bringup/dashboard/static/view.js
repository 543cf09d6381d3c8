// Draws states; knows nothing of the connection.

import { byId, signed, write } from "./shared/dom.js";

/** Seconds for people. */
export function age(seconds) {
  if (seconds < 1) return `${(1000 * seconds).toFixed(0)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

let saidSafety = "";

/** Headline and reasons; written only when they have changed, so that they are read out once. */
export function showSafety(safety) {
  document.body.dataset.level = safety.level;
  const headline = byId("headline");
  if (headline.textContent !== safety.headline) headline.textContent = safety.headline;
  const said = JSON.stringify(safety.reasons.map((reason) => reason.cause || reason.what));
  const list = byId("reasons");
  if (said !== saidSafety) {
    saidSafety = said;
    list.replaceChildren(...safety.reasons.map((reason) => {
      const item = document.createElement("li");
      const what = document.createElement("b");
      what.textContent = reason.what;
      const detail = document.createElement("span");
      item.append(what, detail, reason.advice ? ` ${reason.advice}` : "");
      return item;
    }));
  }
  // The numbers in it change all the time and are not worth reading out.
  [...list.children].forEach((item, i) => {
    const { detail } = safety.reasons[i];
    const text = detail ? ` (${detail}).` : ".";
    const span = item.querySelector("span");
    span.setAttribute("aria-live", "off");
    if (span.textContent !== text) span.textContent = text;
  });
}

/** A bar between its bounds for each field of the action. */
export function makeFields(fields) {
  byId("fields").replaceChildren(...fields.map((field) => {
    const row = document.createElement("div");
    row.className = "field";
    const label = document.createElement("span");
    label.textContent = field.label;
    label.title = field.name;
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.style.setProperty("--zero", `${place(field, 0)}%`);
    const mark = document.createElement("u");
    mark.hidden = true;
    bar.append(document.createElement("i"), mark);
    const bounds = document.createElement("div");
    bounds.className = "bounds";
    for (const bound of [field.low, field.high]) {
      const text = document.createElement("span");
      text.textContent = `${signed(bound)}`;
      bounds.append(text);
    }
    const output = document.createElement("output");
    output.setAttribute("aria-live", "off");
    row.append(label, bar, output, bounds);
    return row;
  }));
}

/** Where a value lies between its bounds, percent; zero is where zero lies. */
function place(field, value) {
  return 100 * Math.max(0, Math.min(1, (value - field.low) / (field.high - field.low)));
}

export function showCommand(hello, state) {
  const { command, proposed, figures } = state;
  byId("fields").classList.toggle("stale", command.stale);
  [...byId("fields").children].forEach((row, i) => {
    const field = hello.fields[i];
    const value = command.values?.[i] ?? null;
    const zero = place(field, 0);
    const at = value === null ? zero : place(field, value);
    const fill = row.querySelector("i");
    fill.style.left = `${Math.min(zero, at)}%`;
    fill.style.width = `${Math.abs(at - zero)}%`;
    row.querySelector("output").textContent = value === null ? "–" : `${signed(value)} ${field.unit}`;
    const mark = row.querySelector("u");
    const wanted = proposed.values?.[i] ?? null;
    mark.hidden = wanted === null || proposed.stale;
    if (wanted !== null) {
      mark.style.left = `${place(field, wanted)}%`;
      mark.title = `proposed: ${signed(wanted)} ${field.unit}`;
    }
  });
  let heading = "";
  if (command.age_s === null) heading = `nothing came on ${hello.action_topic}`;
  else if (command.stale) heading = `nothing new for ${age(command.age_s)}`;
  else heading = `${(command.rate_hz ?? 0).toFixed(0)} Hz on ${hello.action_topic}`;
  byId("command-figures").textContent = heading;
  const note = byId("command-note");
  note.textContent = "";
  const limited = figures.limited_by ? ` Limited by ${figures.limited_by}.` : "";
  if (proposed.values && !proposed.stale) {
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    note.append(swatch, `what the policy proposed, before the safety filter.${limited}`);
  } else if (limited) {
    note.textContent = `The safety filter changes the command.${limited}`;
  }
}

const number = (value, digits = 0) => (value === null ? "–" : value.toFixed(digits));

export function showFigures(hello, { figures: f, battery }) {
  if (f.achieved_hz === null) write("rate", "–", `of ${hello.control_hz} Hz`);
  else {
    const keeps = f.achieved_hz >= 0.95 * hello.control_hz;
    write("rate", `${keeps ? "✓" : "✗"} ${f.achieved_hz.toFixed(2)}`, `of ${hello.control_hz} Hz`, keeps ? "yes" : "no");
  }
  write("missed", number(f.missed_deadlines), f.commands ? `of ${f.commands}` : "", f.missed_deadlines > 0 ? "no" : "");
  const milliseconds = (value) => (value === null ? "–" : `${value.toFixed(0)} ms`);
  write("latency", milliseconds(f["latency_ms.p50"]));
  write("latency-tail", milliseconds(f["latency_ms.p99"]), f["latency_ms.max"] === null ? "" : `max ${milliseconds(f["latency_ms.max"])}`);
  write("inference", f["inference_ms.p50"] === null ? "–" : `${f["inference_ms.p50"].toFixed(1)} ms`, f.backend ?? "");
  write("scale", f.speed_scale === null ? "–" : `${(100 * f.speed_scale).toFixed(0)} %`, f.shadow ? "in shadow" : "");
  const stops = Object.entries(f.stops);
  write("stops", stops.length ? stops.map(([cause, count]) => `${cause} ${count}×`).join(", ") : "–");
  if (!battery) write("battery", "–", "no topic");
  else {
    const low = battery.min_v !== null && battery.voltage !== null && battery.voltage < 1.05 * battery.min_v;
    const parts = [];
    if (battery.percent !== null) parts.push(`${battery.percent.toFixed(0)} %`);
    if (battery.voltage !== null) parts.push(`${battery.voltage.toFixed(1)} V`);
    const old = battery.age_s > 10 ? `${age(battery.age_s)} old` : "";
    const limit = battery.min_v === null ? "" : `stops below ${battery.min_v} V`;
    write("battery", parts.join(", ") || "–", old || limit, low ? "no" : "");
  }
}

export function showOthers(others) {
  byId("others-title").hidden = !others.length;
  byId("others").replaceChildren(...others.map((other) => {
    const item = document.createElement("li");
    const old = other.age_s > 5;
    item.className = old ? "unknown" : other.level;
    const name = document.createElement("b");
    name.textContent = other.name;
    item.append(name, ` ${old ? `silent for ${age(other.age_s)}; it said: ` : ""}${other.message}`);
    return item;
  }));
}
