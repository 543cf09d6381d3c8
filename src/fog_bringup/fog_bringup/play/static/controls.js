// Keyboard, gamepad and touch pads become one deflection in [-1, 1] for each field of the action.

const DEAD_ZONE = 0.15;
const ARROWS = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→" };
let layout = null;
if (navigator.keyboard?.getLayoutMap) {
  navigator.keyboard.getLayoutMap().then((map) => { layout = map; }, () => {});
}

/** What is printed on a key, as far as the browser tells. */
export function keyName(code) {
  return ARROWS[code] ?? layout?.get(code)?.toUpperCase() ?? code.replace(/^Key|^Digit/, "");
}

/** Whether a key pressed now is meant for something on the page rather than for the world. */
function typing(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return true;
  if (document.querySelector("dialog[open]")) return true;
  return Boolean(event.target.closest?.("input, select, textarea"));
}

export class Controls {
  /**
   * @param changed called with the deflection whenever it has changed
   * @param commands key code -> function; "?" for the help; pad: gamepad button -> function
   */
  constructor(changed, commands, padCommands) {
    this.changed = changed;
    this.commands = commands;
    this.padCommands = padCommands;
    this.fields = [];
    this.pressed = new Set();
    this.touched = new Map();
    this.buttons = [];
    this.half = false;
    this.last = [];
    window.addEventListener("keydown", (event) => this.onKey(event, true));
    window.addEventListener("keyup", (event) => this.onKey(event, false));
    window.addEventListener("blur", () => this.release());
    document.addEventListener("visibilitychange", () => document.hidden && this.release());
    window.addEventListener("gamepadconnected", () => this.poll());
  }

  setFields(fields, padBox) {
    this.fields = fields;
    this.last = fields.map(() => 0);
    this.release();
    this.makePads(padBox);
  }

  onKey(event, down) {
    if (down && typing(event)) return;
    this.half = event.shiftKey;
    const drives = this.fields.some((f) => f.up.includes(event.code) || f.down.includes(event.code));
    if (drives) {
      if (down) this.pressed.add(event.code);
      else this.pressed.delete(event.code);
      if (down) event.preventDefault(); // arrows would scroll the page
    } else if (down && !event.repeat) {
      const command = this.commands[event.key === "?" ? "?" : event.code];
      // The space bar presses a button that was reached with the keyboard.
      const onButton = event.code === "Space" && event.target.matches?.("button:focus-visible, summary");
      if (command && !onButton) {
        event.preventDefault();
        command();
      }
    }
    this.update();
  }

  release() {
    this.pressed.clear();
    this.touched.clear();
    for (const knob of document.querySelectorAll(".knob")) knob.style.left = knob.style.top = "50%";
    this.update();
  }

  /** Which of keys, pads and sticks pushes a field most. */
  deflection() {
    const pad = this.gamepad();
    return this.fields.map((field, i) => {
      const held = (codes) => codes.some((code) => this.pressed.has(code));
      const keys = (held(field.up) - held(field.down)) * (this.half ? 0.5 : 1);
      const touch = this.touched.get(i) ?? 0;
      let stick = 0;
      if (pad && field.pad < 2) {
        const raw = pad.axes[2 * field.pad + (field.axis === "y" ? 1 : 0)] ?? 0;
        const beyond = Math.max(0, Math.abs(raw) - DEAD_ZONE) / (1 - DEAD_ZONE);
        // The axes of a gamepad point right and down.
        stick = Math.sign(raw) * beyond * field.sign * (field.axis === "y" ? -1 : 1);
      }
      return [keys, touch, stick].reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
    });
  }

  update() {
    const now = this.deflection();
    if (now.length && now.some((v, i) => Math.abs(v - this.last[i]) > 0.01 || (v === 0) !== (this.last[i] === 0))) {
      const begins = this.last.every((v) => v === 0);
      this.last = now;
      this.changed(now, begins);
    }
  }

  gamepad() {
    return [...(navigator.getGamepads?.() ?? [])].find((pad) => pad?.connected && pad.axes.length >= 2);
  }

  poll() {
    const pad = this.gamepad();
    if (!pad) {
      this.buttons = [];
      this.update();
      return;
    }
    pad.buttons.forEach((button, i) => {
      if (button.pressed && !this.buttons[i]) this.padCommands[i]?.();
    });
    this.buttons = pad.buttons.map((button) => button.pressed);
    this.update();
    requestAnimationFrame(() => this.poll());
  }

  makePads(box) {
    box.textContent = "";
    const count = Math.max(-1, ...this.fields.map((field) => field.pad)) + 1;
    for (let number = 0; number < count; number++) {
      const mine = this.fields.map((field, i) => ({ field, i })).filter((f) => f.field.pad === number);
      if (!mine.length) continue;
      const pad = document.createElement("div");
      pad.className = "pad";
      const well = document.createElement("div");
      well.className = "well";
      const knob = document.createElement("div");
      knob.className = "knob";
      well.append(knob);
      const label = document.createElement("span");
      label.textContent = mine.map(({ field }) => field.label).join(", ");
      pad.append(well, label);
      box.append(pad);
      this.listen(well, knob, mine);
    }
  }

  listen(well, knob, mine) {
    const axes = new Set(mine.map(({ field }) => field.axis));
    const move = (event) => {
      const box = well.getBoundingClientRect();
      const radius = box.width / 2;
      let x = axes.has("x") ? (event.clientX - box.left - radius) / (0.75 * radius) : 0;
      let y = axes.has("y") ? (box.top + radius - event.clientY) / (0.75 * radius) : 0;
      x = Math.max(-1, Math.min(1, x));
      y = Math.max(-1, Math.min(1, y));
      knob.style.left = `${50 + 31 * x}%`;
      knob.style.top = `${50 - 31 * y}%`;
      for (const { field, i } of mine) {
        const value = field.axis === "x" ? x : y;
        this.touched.set(i, Math.abs(value) < DEAD_ZONE ? 0 : value * field.sign);
      }
      this.update();
    };
    const end = () => {
      knob.style.left = knob.style.top = "50%";
      for (const { i } of mine) this.touched.delete(i);
      this.update();
    };
    well.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      well.setPointerCapture(event.pointerId);
      move(event);
    });
    well.addEventListener("pointermove", (event) => {
      if (well.hasPointerCapture(event.pointerId)) move(event);
    });
    for (const kind of ["lostpointercapture", "pointercancel"]) well.addEventListener(kind, end);
  }
}
