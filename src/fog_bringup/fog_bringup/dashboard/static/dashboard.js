// The operator's page: shows what the server says, and stops the robot.

import { byId, showNotes, write } from "./shared/dom.js";
import { age, makeFields, showCommand, showFigures, showOthers, showSafety } from "./view.js";

const RETRY_MS = 1000;
const SILENT_MS = 2000; // states come ten times a second; after this the page says that they do not
const TRY_MS = 10000;
const ANSWER_MS = 2500; // the server answers a stop within 1 s; after this it is not there
let socket = null;
let hello = null;
let state = null;
let heard = performance.now();
let retry = 0;
let stopping = 0;
let stopOpen = false;
let stopSent = -Infinity;
let shownStop = "";
let shownNotes = null;

// ---- the emergency stop: never disabled, and by a way of its own ----

async function stop() {
  const now = performance.now();
  if (now - stopSent < 300) return; // a touch is followed by a click
  stopSent = now;
  const mine = ++stopping;
  stopOpen = true;
  cancel();
  showStop("asked");
  // Where the server is not reached it is tried again: a stop that comes late is better than none.
  while (mine === stopping && performance.now() - now < TRY_MS) {
    const found = await post();
    if (mine !== stopping) return;
    showStop(found.state, found);
    if (found.answered) {
      stopOpen = false;
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
  // It never arrived, and this page goes on saying so whatever the server knows.
}

async function post() {
  try {
    const answer = await fetch("api/emergency_stop", {
      method: "POST", keepalive: true, signal: AbortSignal.timeout(ANSWER_MS),
    });
    const found = await answer.json();
    return { state: "unconfirmed", text: answer.statusText, ...found, answered: true };
  } catch {
    return { state: "unconfirmed", text: "This page does not reach the server.", answered: false };
  }
}

/** One of none, asked, confirmed, unconfirmed. */
function showStop(kind, found = {}) {
  const seconds = found.after_s == null ? "" : ` after ${found.after_s.toFixed(2)} s`;
  const content = `${kind}|${found.number}|${seconds}|${found.text}`;
  if (content === shownStop) return;
  shownStop = content;
  const result = byId("stop-result");
  result.className = { confirmed: "yes", unconfirmed: "no" }[kind] ?? "";
  result.textContent = "";
  if (kind === "asked") result.textContent = "Stopping …";
  if (kind === "confirmed") result.textContent = `✓ Stop confirmed by the policy node${seconds}`;
  if (kind === "unconfirmed") {
    const loud = document.createElement("b");
    loud.textContent = "STOP NOT CONFIRMED";
    result.append(loud, `Use the remote control now. ${found.text ?? ""}`);
  }
}

const button = byId("stop");
button.addEventListener("pointerdown", stop);
button.addEventListener("click", stop);
button.addEventListener("contextmenu", (event) => event.preventDefault());
// The space bar stops wherever the focus is: other buttons are pressed with Enter.
for (const kind of ["keydown", "keyup"]) {
  window.addEventListener(kind, (event) => {
    if (event.code !== "Space" && event.key !== " ") return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (kind === "keydown" && !event.repeat) stop();
  }, { capture: true });
}

// ---- what may start movement ----

const QUESTIONS = {
  configure: ["Configure the policy node?", "It loads the policy and listens to the robot, which takes some seconds. The robot does not move.", "Configure"],
  activate: ["Activate the policy?", "The robot may walk at once. Is everybody out of its way, and the remote control in somebody's hand?", "Activate"],
  reset: ["Reset the emergency stop?", "An active policy drives on at once. Has the cause been looked at, and is everybody out of the way?", "Reset"],
};

let answerQuestion = () => {};

/** A question in the page, not above it: the emergency stop stays within reach. */
function confirmed(what) {
  cancel();
  const [title, text, yes] = QUESTIONS[what];
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  byId("confirm").hidden = false;
  byId("confirm").scrollIntoView({ block: "nearest" });
  byId("confirm-no").focus();
  return new Promise((resolve) => {
    answerQuestion = (answer) => {
      byId("confirm").hidden = true;
      answerQuestion = () => {};
      resolve(answer);
    };
  });
}

function cancel() {
  answerQuestion(false);
}

byId("confirm-yes").addEventListener("click", () => answerQuestion(true));
byId("confirm-no").addEventListener("click", cancel);
window.addEventListener("keydown", (event) => event.key === "Escape" && cancel());

async function ask(what, path) {
  if (QUESTIONS[what] && !(await confirmed(what))) return;
  say(`${what} …`);
  try {
    const answer = await fetch(path, {
      method: "POST", headers: { Authorization: `Bearer ${hello?.token ?? ""}` },
    });
    const found = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(found.detail ?? answer.statusText);
    say(`${what}: ${found.text || "done"}`);
    if (what !== "deactivate") stopOpen = false;
  } catch (error) {
    say(`${what}: ${error.message}`, true);
  }
}

function say(text, bad = false) {
  byId("message").textContent = text;
  byId("message").className = bad ? "bad" : "";
}

byId("activate").addEventListener("click", () => {
  const what = byId("activate").dataset.transition ?? "activate";
  ask(what, `api/lifecycle/${what}`);
});
byId("deactivate").addEventListener("click", () => ask("deactivate", "api/lifecycle/deactivate"));
byId("reset").addEventListener("click", () => ask("reset", "api/reset"));

function showLifecycle() {
  const { state: now, transition } = state.lifecycle;
  const name = transition ? `${now}: ${transition} …` : now;
  if (byId("lifecycle").textContent !== name) byId("lifecycle").textContent = name;
  const may = Boolean(hello.token) && !transition && document.body.dataset.link === "live";
  const first = now === "unconfigured" ? "configure" : "activate";
  const activate = byId("activate");
  if (activate.dataset.transition !== first) {
    activate.dataset.transition = first;
    activate.textContent = first === "configure" ? "Configure …" : "Activate …";
  }
  activate.disabled = !(may && ["unconfigured", "inactive"].includes(now));
  byId("deactivate").disabled = !(may && now === "active");
  // A great surprise of the local model latches as well, and is no emergency stop.
  const stopped = state.safety.emergency_stop !== false || state.safety.level === "error"
    || state.stop.state === "unconfirmed";
  byId("reset").disabled = !(may && stopped);
}

// ---- the connection ----

function connect() {
  clearTimeout(retry);
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const mine = new WebSocket(`${scheme}://${location.host}/watch`);
  mine.binaryType = "arraybuffer";
  socket = mine;
  mine.onmessage = (event) => mine === socket && receive(event.data);
  mine.onclose = () => {
    if (mine !== socket) return;
    socket = null;
    if (document.body.dataset.link !== "full") lost();
    retry = setTimeout(connect, RETRY_MS);
  };
}

function lost() {
  document.body.dataset.link = "lost";
  byId("lost").hidden = false;
  byId("link").textContent = "Not connected";
  cancel();
  if (state) showLifecycle();
}

function receive(data) {
  if (data instanceof ArrayBuffer) {
    heard = performance.now();
    paint(data).finally(shown);
    return;
  }
  const message = JSON.parse(data);
  if (message.type === "full") {
    document.body.dataset.link = "full";
    byId("link").textContent = message.text;
    return;
  }
  heard = performance.now();
  if (message.type === "hello") onHello(message);
  else onState(message);
}

/** Ask for the next state; the server sends no more than are shown. */
function shown() {
  if (socket?.readyState === WebSocket.OPEN) socket.send("shown");
}

function onHello(message) {
  hello = message;
  byId("task").textContent = hello.task;
  byId("description").textContent = hello.description;
  byId("camera-topic").textContent = hello.image_topic;
  makeFields(hello.fields);
}

function onState(message) {
  state = message;
  document.body.dataset.link = "live";
  byId("lost").hidden = true;
  const others = state.viewers - 1;
  const link = others > 0 ? `Live, ${others} other viewer${others === 1 ? "" : "s"}` : "Live";
  if (byId("link").textContent !== link) byId("link").textContent = link;
  showSafety(state.safety);
  showLifecycle();
  showCommand(hello, state);
  showFigures(hello, state);
  showOthers(state.others);
  const theirs = state.figures.task;
  const wrong = theirs && theirs !== hello.task
    ? [`The policy node runs task ${theirs}, this page shows ${hello.task}: bounds and topics may differ.`] : [];
  const notes = [...hello.notes, ...wrong];
  if (String(notes) !== shownNotes) showNotes(notes);
  shownNotes = String(notes);
  if (!stopOpen) {
    // Also what somebody else pressed; old news are the safety state's.
    const recent = state.stop.pressed_s !== null && state.stop.pressed_s < 30;
    const kind = state.stop.state === "confirmed" && !recent ? "none" : state.stop.state;
    showStop(kind, state.stop);
  }
  tick();
  document.title = `${state.safety.headline} · ${hello.task}`;
  if (state.camera.picture === null) shown();
}

async function paint(data) {
  try {
    const picture = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
    const canvas = byId("picture");
    if (canvas.width !== picture.width || canvas.height !== picture.height) {
      canvas.width = picture.width;
      canvas.height = picture.height;
    }
    canvas.getContext("2d").drawImage(picture, 0, 0);
    picture.close();
    canvas.dataset.number = state.camera.picture;
  } catch {
    // The next one will do.
  }
}

/** Ages go on between two states, and when none comes any more. */
function tick() {
  const silent = performance.now() - heard;
  if (state && silent > SILENT_MS && document.body.dataset.link === "live") lost();
  if (!state) {
    if (silent > SILENT_MS && document.body.dataset.link === "connecting") lost();
    return;
  }
  byId("lost-age").textContent = `${age(silent / 1000)} old`;
  const more = silent / 1000;
  const { camera, safety } = state;
  const cameraAge = camera.age_s === null ? null : camera.age_s + more;
  const stale = cameraAge === null || cameraAge > hello.stale_after_s || Boolean(camera.problem);
  byId("view").classList.toggle("stale", stale);
  let text = "";
  if (camera.problem) text = camera.problem;
  else if (cameraAge === null) text = "No picture yet";
  else if (stale) text = `No new picture for ${age(cameraAge)}`;
  if (byId("no-picture").textContent !== text) byId("no-picture").textContent = text;
  const size = camera.width ? `${camera.width}×${camera.height}, ` : "";
  byId("camera-figures").textContent = cameraAge === null ? ""
    : `${size}${(camera.rate_hz ?? 0).toFixed(1)} Hz, ${age(cameraAge)} old`;
  write("since", `for ${age(safety.since_s + more)}`, `since ${clock(safety.since_s + more)}`);
}

const clock = (seconds) => new Date(Date.now() - 1000 * seconds).toLocaleTimeString();

setInterval(tick, 200);
connect();
