// The page of `fog play`: says what the person does, shows what the world answers.

import { Controls, keyName } from "./controls.js";
import { byId, showNotes, write } from "./shared/dom.js";
import { actionBars, chart, paint, showAction } from "./view.js";

const RETRY_MS = 3000;
const FIRST_RETRY_MS = 500; // where this page was loaded again, its old connection is about to close
let socket = null;
let hello = null;
let started = null;
let mode = "stopped";
let rewards = [];
let recordedRewards = [];
let total = 0;
let retry = 0;

const controls = new Controls(onDeflection, {
  Space: goOrStop,
  Period: () => send("once"),
  KeyB: beginAgain,
  KeyN: () => send("reset"),
  KeyP: () => send("replay"),
  KeyV: save,
  "?": openHelp,
}, { 0: goOrStop, 1: beginAgain, 2: () => send("replay"), 3: () => send("reset") });

function send(type, content = {}) {
  if (socket?.readyState === WebSocket.OPEN && hello) socket.send(JSON.stringify({ type, ...content }));
}

function onDeflection(deflection, begins) {
  send("drive", { deflection, input: true });
  if (begins && mode === "stopped") send("run");
}

function goOrStop() {
  send(mode === "stopped" ? "run" : "stop");
}

function beginAgain() {
  if (started) send("reset", { episode: started.episode, row: started.row, seed: started.seed });
}

function chosen() {
  const episode = Number(byId("episode").value);
  const most = rowsOf(episode) - hello.context_frames;
  const row = Math.max(0, Math.min(most, Math.floor(Number(byId("row").value)) || 0));
  send("reset", { episode, row });
}

function rowsOf(index) {
  return hello.episodes.find((e) => e.index === index)?.rows ?? hello.context_frames;
}

async function save() {
  const button = byId("save");
  if (button.disabled || !hello) return;
  button.disabled = true;
  say("Encoding the video …");
  try {
    const answer = await fetch("play/video", { headers: { Authorization: `Bearer ${hello.token}` } });
    if (!answer.ok) throw new Error((await answer.json()).detail ?? answer.statusText);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${hello.task}-episode-${started.episode}-from-${started.row}.mp4`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    const cut = rewards.length > hello.most_steps ? ` (its first ${hello.most_steps} steps)` : "";
    say(`Saved as ${link.download}${cut}`);
  } catch (error) {
    say(`The video could not be saved: ${error.message}`, true);
  } finally {
    button.disabled = false;
  }
}

function say(text, bad = false) {
  byId("message").textContent = text;
  byId("message").className = bad ? "bad" : "";
}

function openHelp() {
  if (hello) send("stop");
  byId("help").showModal();
}

// ---- the connection ----

function connect() {
  clearTimeout(retry);
  hello = null;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const mine = new WebSocket(`${scheme}://${location.host}/play`);
  socket = mine;
  mine.onmessage = (event) => {
    if (mine === socket) receive(JSON.parse(event.data));
  };
  mine.onclose = () => {
    if (mine !== socket || ["taken", "idle", "failed"].includes(document.body.dataset.state)) return;
    away("lost", "The connection is lost", "Is fog play still running? It is tried again every 3 seconds.", "Try again");
    retry = setTimeout(connect, RETRY_MS);
  };
}

function away(state, title, text, button = "") {
  const before = document.body.dataset.state;
  document.body.dataset.state = state;
  byId("world").hidden = true;
  byId("away").hidden = false;
  byId("away-title").textContent = title;
  byId("away-text").textContent = text;
  byId("away-button").hidden = !button;
  byId("away-button").textContent = button;
  if (button && before !== state) byId("away-button").focus();
  controls.release();
}

async function waitUntilFree() {
  try {
    const status = await (await fetch("api/status")).json();
    if (!status.taken) {
      connect();
      return;
    }
    byId("away-text").textContent = `${status.description} This page waits for it.`;
  } catch {
    // The server may be about to start again.
  }
  retry = setTimeout(waitUntilFree, RETRY_MS);
}

function receive(message) {
  const handlers = {
    hello: onHello,
    context: onContext,
    step: onStep,
    mode: onMode,
    error: () => {
      say(message.text, true);
      if (message.fatal) away("failed", "The world has failed", message.text, "Try again");
    },
    taken: () => {
      away("taken", "The world is taken", `${message.text} This page waits for it.`, "Try again");
      retry = setTimeout(waitUntilFree, FIRST_RETRY_MS);
    },
    idle: () => away(
      "idle", "You have been away",
      `Nothing was done for ${Math.round(message.seconds)} s, so the world was given back.`, "Come back"),
  };
  handlers[message.type]?.(message);
}

function onHello(message) {
  hello = message;
  document.body.dataset.state = "ready";
  document.title = `Learned world: ${hello.task}`;
  byId("task").textContent = hello.task;
  byId("description").textContent = hello.description;
  showNotes(hello.notes);
  byId("away").hidden = true;
  byId("world").hidden = false;
  const groups = { "Held out from training": true, "Used for training": false };
  byId("episode").replaceChildren(...Object.entries(groups).map(([label, heldOut]) => {
    const group = document.createElement("optgroup");
    group.label = label;
    for (const e of hello.episodes.filter((e) => e.held_out === heldOut)) {
      const text = `${e.index}: ${e.rows} steps${e.outcome ? `, ${e.outcome}` : ""}`;
      group.append(new Option(text, e.index));
    }
    return group;
  }).filter((group) => group.children.length));
  actionBars(hello.controls, keyName);
  controls.setFields(hello.controls, byId("pads"));
  helpKeys();
  say("");
}

function onContext(message) {
  started = message;
  rewards = [];
  recordedRewards = [];
  total = 0;
  document.body.classList.remove("replayed");
  byId("recorded-view").hidden = true;
  byId("legend").hidden = true;
  const { width, height } = hello;
  byId("context").replaceChildren(...message.images.map((image, i) => {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Recorded picture ${i + 1} of ${message.images.length}`);
    paint(canvas, image, width, height);
    return canvas;
  }));
  byId("context-caption").textContent =
    `Recorded context: episode ${message.episode} from step ${message.row}, seed of the noise ${message.seed}`;
  byId("episode").value = message.episode;
  byId("row").value = message.row;
  byId("row").max = rowsOf(message.episode) - hello.context_frames;
  byId("replay").disabled = message.recorded_steps === 0;
  paint(byId("imagined"), message.images.at(-1), width, height);
  byId("imagined-caption").textContent = "Last recorded picture";
  byId("imagined-swatch").className = "swatch recorded";
  byId("imagined").dataset.step = 0;
  write("horizon", "0 steps");
  for (const id of ["reward", "total", "end", "time", "rate", "recorded-reward", "psnr"]) write(id, "–");
  showAction(hello.controls, hello.controls.map(() => 0));
  chart({});
  say("");
}

function onStep(message) {
  const { width, height, control_hz: hz } = hello;
  paint(byId("imagined"), message.image, width, height);
  byId("imagined").dataset.step = message.step;
  byId("imagined-caption").textContent = "Imagined";
  byId("imagined-swatch").className = "swatch imagined";
  const replayed = message.recorded_image !== null;
  if (replayed) {
    paint(byId("recorded"), message.recorded_image, width, height);
    recordedRewards.push(message.recorded_reward);
    write("recorded-reward", message.recorded_reward.toFixed(2));
    write("psnr", `${message.psnr_db.toFixed(1)} dB`);
  }
  document.body.classList.toggle("replayed", replayed);
  byId("recorded-view").hidden = !replayed;
  byId("legend").hidden = !recordedRewards.length;
  rewards.push(message.reward);
  total += message.reward;
  const beyond = message.step > hello.max_steps ? "beyond the task's limit" : `${(message.step / hz).toFixed(1)} s`;
  write("horizon", `${message.step} step${message.step === 1 ? "" : "s"}`, beyond);
  write("reward", message.reward.toFixed(2));
  write("total", total.toFixed(1));
  write("end", `${(100 * message.end_probability).toFixed(1)} %`, message.end ? "ends here" : "");
  const period = 1000 / hz;
  const fits = message.milliseconds <= period;
  write("time", `${message.milliseconds.toFixed(0)} ms`, `of ${period.toFixed(0)} ms`, fits ? "" : "no");
  if (message.rate_hz !== null) {
    const keeps = message.rate_hz >= 0.95 * hz;
    byId("rate-name").textContent = keeps ? "Rate: keeps up" : "Rate: too slow";
    write("rate", `${keeps ? "✓" : "✗"} ${message.rate_hz.toFixed(1)} of ${hz} Hz`, "", keeps ? "yes" : "no");
  }
  showAction(hello.controls, message.command);
  // Long plays: the last 300 steps.
  chart({ recorded: recordedRewards.slice(-300), imagined: rewards.slice(-300) });
  send("shown", { step: message.step });
}

function onMode(message) {
  mode = message.mode;
  const texts = {
    driving: "Driving",
    replaying: "Replaying; drive to take over",
    stopped: "Stopped; drive or press Go",
  };
  byId("mode").textContent = "";
  const name = document.createElement("b");
  name.textContent = message.why ? `Stopped: ${message.why}` : texts[mode];
  byId("mode").append(name);
  document.body.dataset.mode = mode;
  byId("go").querySelector("span").textContent = mode === "stopped" ? "Go" : "Stop";
}

function helpKeys() {
  const rows = hello.controls.filter((c) => c.up.length).map((c) => [
    `${c.label} (${c.field})`, `${c.up.map(keyName).join(" ")} / ${c.down.map(keyName).join(" ")}`]);
  rows.push(["Go, stop", "Space"], ["One step", "."], ["Begin again: same start, same noise", keyName("KeyB")],
    ["Another episode", keyName("KeyN")], ["Replay the recorded actions", keyName("KeyP")],
    ["Save a video of what was done", keyName("KeyV")], ["This help", "?"]);
  byId("help-keys").replaceChildren(...rows.map(([what, keys]) => {
    const row = document.createElement("tr");
    const name = row.insertCell();
    name.textContent = what;
    const cell = row.insertCell();
    for (const key of keys.split(" ")) {
      const element = document.createElement(key === "/" ? "span" : "kbd");
      element.textContent = key;
      cell.append(element, " ");
    }
    return row;
  }));
}

const clicks = {
  go: goOrStop,
  once: () => send("once"),
  again: beginAgain,
  another: () => send("reset"),
  replay: () => send("replay"),
  save,
  "help-button": openHelp,
  "away-button": connect,
};
for (const [id, action] of Object.entries(clicks)) {
  byId(id).addEventListener("click", (event) => {
    action();
    // After a click with the mouse the space bar is the world's again.
    if (event.detail > 0) event.currentTarget.blur();
  });
}
byId("episode").addEventListener("change", () => { byId("row").value = 0; chosen(); });
byId("row").addEventListener("change", chosen);
// Nobody watches: time is held.
document.addEventListener("visibilitychange", () => {
  if (document.hidden && mode !== "stopped") send("stop");
});
connect();
