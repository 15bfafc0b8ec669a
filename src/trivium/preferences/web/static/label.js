// Keys, focus, drafts and the time a comparison had somebody's attention. Everything here only presses buttons and
// fills in fields that the page has without it: voting works with JavaScript switched off.

const STORE = "trivium-keys";
const ACTIONS = {
  a: ["A better", "1"], b: ["B better", "2"], tie: ["Tie", "3"], both_bad: ["Both bad", "4"],
  a2: ["A much better", "!"], b2: ["B much better", "@"], skip: ["Skip", "s"], undo: ["Undo", "u"],
  diff: ["Diff", "d"], execution: ["Tests", "e"], note: ["Note", "n"], criteria: ["Criteria", "c"],
  left: ["Focus the answer before", "["], right: ["Focus the answer after", "]"], guidelines: ["Guidelines", "g"],
  help: ["This list", "?"],
};
// What keys lead to without a button of their own that they press.
const PLACES = {
  note: "[data-note]", criteria: "#criteria", skip: "[data-skip] summary", help: "[data-help]",
  guidelines: '.bar a[href="/label/guidelines"]', left: '.n2 [data-side="A"]', right: '.n2 [data-side="B"]',
};
const FIXED = { a2: "Shift+1", b2: "Shift+2" };

let settings = load();
let attention = 0; // seconds, of the comparison in view
let since = awake() ? performance.now() : null;
let saving = null;
let busy = false;

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE)) ?? {};
    return { on: kept.on !== false, keys: kept.keys ?? {} };
  } catch {
    return { on: true, keys: {} };
  }
}

function keep() {
  try { localStorage.setItem(STORE, JSON.stringify(settings)); } catch { /* private windows may have no store */ }
}

const keyOf = (action) => settings.keys[action] ?? ACTIONS[action][1];
const shown = (action) => settings.keys[action] ?? FIXED[action] ?? ACTIONS[action][1];

// Attention

function awake() { return document.visibilityState === "visible" && document.hasFocus(); }

function measure() {
  const now = performance.now();
  if (since !== null) attention += (now - since) / 1000;
  since = awake() ? now : null;
  const field = $("#vote [name=seconds]");
  if (field) field.value = attention.toFixed(1);
}

for (const event of ["focus", "blur"]) window.addEventListener(event, measure);
document.addEventListener("visibilitychange", measure);

// Pages without a reload

export async function visit(url, options = {}) {
  await show(await fetch(url, { ...options, headers: { accept: "text/html" }, credentials: "same-origin" }));
}

export async function show(answer) {
  if (!answer.headers.get("content-type")?.startsWith("text/html")) {
    if (answer.status >= 500) throw new Error(answer.statusText);
    return tell(await answer.text());
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const before = $("#vote [name=assignment]")?.value;
  document.title = page.title;
  for (const part of ["#main", ".bar"]) {
    if ($(part) && $(part, page)) $(part).replaceWith(document.adoptNode($(part, page)));
  }
  const place = new URL(answer.url);
  history.replaceState(null, "", place.pathname + (place.pathname === "/label" ? "" : place.search));
  arrive(before);
  ($(".problem") ?? $(".diff [tabindex]") ?? $("#heading"))?.focus();
}

export function tell(text) {
  const status = $("[data-status]");
  if (status) status.textContent = text;
}

async function send(form, submitter) {
  busy = true;
  measure();
  const body = new URLSearchParams(new FormData(form, submitter));
  const url = submitter?.getAttribute("formaction") ?? form.getAttribute("action");
  try {
    for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
      try {
        return await visit(url, { method: "POST", body });
      } catch {
        tell("The server does not answer. Trying again: what you chose is sent until it is saved, and saved once.");
        await new Promise((resume) => setTimeout(resume, wait));
      }
    }
  } finally {
    busy = false;
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.closest("main") || form.dataset.stream !== undefined || !/^\/(label|play)(\/|$)/.test(new URL(event.submitter?.formAction || form.action).pathname)) return;
  event.preventDefault();
  if (!busy) send(form, event.submitter);
});

// Drafts

function changed(event) {
  const form = event.target.closest?.("#vote");
  if (!form?.dataset.autosave) return;
  clearTimeout(saving);
  saving = setTimeout(() => {
    if (busy || !form.isConnected) return;
    measure();
    const body = new URLSearchParams(new FormData(form));
    body.set("quiet", "1");
    fetch(form.dataset.autosave, { method: "POST", body, credentials: "same-origin" }).catch(() => {});
  }, 600);
}
document.addEventListener("input", changed);
document.addEventListener("change", changed);

// Arriving at a page

function arrive(before) {
  const form = $("#vote");
  clearTimeout(saving);
  if (form && form.elements.assignment.value !== before) attention = Number(form.elements.seconds.value) || 0;
  since = awake() ? performance.now() : null;
  document.body.classList.toggle("no-keys", !settings.on);
  for (const button of $$("[data-copy], [data-help]")) button.hidden = false;
  for (const mark of $$("[data-shows]")) mark.textContent = shown(mark.dataset.shows);
  for (const target of $$("[data-key]")) {
    const action = target.dataset.key;
    if (!ACTIONS[action]) continue;
    const mark = $("kbd", target);
    if (mark) mark.textContent = shown(action);
    tellKey(target, action);
  }
  for (const [action, places] of Object.entries(PLACES)) for (const target of $$(places)) tellKey(target, action);
  for (const fold of $$(".side details.fold")) {
    fold.addEventListener("toggle", () => {
      for (const other of $$(".side details.fold")) if (other.open !== fold.open) other.open = fold.open;
    });
  }
  order();
}

function tellKey(target, action) {
  if (settings.on) target.setAttribute("aria-keyshortcuts", shown(action));
  else target.removeAttribute("aria-keyshortcuts");
}

function order() {
  const output = $("[data-order]");
  if (!output) return;
  const tiers = new Map();
  for (const select of $$("[data-rank]")) {
    if (select.value) tiers.set(select.value, [...(tiers.get(select.value) ?? []), select.dataset.rank]);
  }
  output.textContent = [...tiers.keys()].sort((a, b) => a - b).map((rank) => tiers.get(rank).join(" = ")).join(" > ");
}
document.addEventListener("change", order);

// Keys

function press(action) {
  const target = $(`[data-key="${action}"]`);
  if (target) {
    target.click();
    if (target.type === "radio") target.focus();
    return true;
  }
  switch (action) {
    case "skip": {
      const skip = $("[data-skip]");
      if (!skip) return false;
      skip.open = true;
      $("button", skip).focus();
      return true;
    }
    case "note": return focusOn($("[data-note]"));
    case "criteria": return focusOn($("#criteria input:checked") ?? $("#criteria input"));
    case "left": return turn(-1);
    case "right": return turn(1);
    case "guidelines": openPage("/label/guidelines"); return true;
    case "help": help(); return true;
  }
  return false;
}

function focusOn(target) {
  target?.focus();
  return Boolean(target);
}

function turn(step) {
  const sides = $$("[data-side]");
  if (!sides.length) return false;
  const at = sides.findIndex((side) => side.closest(".side").contains(document.activeElement));
  const next = sides.length === 2 ? (step < 0 ? 0 : 1) : (at < 0 ? (step < 0 ? sides.length - 1 : 0) : (at + step + sides.length) % sides.length);
  sides[next].focus();
  sides[next].scrollIntoView({ block: "nearest", inline: "nearest" });
  return true;
}

function rank(digit) {
  const side = document.activeElement?.closest?.(".side");
  const select = side && $("[data-rank]", side);
  if (!select || ![...select.options].some((option) => option.value === digit)) return false;
  select.value = digit;
  select.dispatchEvent(new Event("change", { bubbles: true }));
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const target = event.target;
  const typing = target.matches?.("textarea, select, input:not([type=radio]):not([type=checkbox])");
  if (event.key === "Escape") {
    if (typing) target.blur();
    const skip = $("[data-skip]");
    if (skip) skip.open = false;
    return; // an open dialog closes itself
  }
  if (typing || $("dialog[open]")) return;
  if (event.key === "Enter" && $("#vote") && !target.matches("button, a, summary")) {
    event.preventDefault(); // without this a field's Enter would press the form's first button
    $('[data-key="submit"]')?.click();
    return;
  }
  if (!settings.on || busy) return;
  if ($("[data-rank]") && /^[1-9]$/.test(event.key) && rank(event.key)) {
    event.preventDefault();
    return;
  }
  // Shift and a digit give another character on every keyboard, so that pair is told by the digit's own key.
  const digit = /^Digit([12])$/.exec(event.code)?.[1];
  let action = Object.keys(ACTIONS).find((name) => keyOf(name) === event.key);
  if (event.shiftKey && digit) action = ["a2", "b2"].find((name) => !settings.keys[name] && name === (digit === "1" ? "a2" : "b2")) ?? action;
  if (action && press(action)) event.preventDefault();
});

// Dialogs

function dialog(heading) {
  const box = document.createElement("dialog");
  box.setAttribute("aria-label", heading);
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  return box;
}

function closing(box) {
  const button = document.createElement("button");
  button.type = "button";
  button.append("Close ", Object.assign(document.createElement("kbd"), { textContent: "Esc" }));
  button.addEventListener("click", () => box.close());
  box.append(button);
  box.showModal();
  button.focus();
}

async function openPage(url) {
  const page = new DOMParser().parseFromString(await (await fetch(url)).text(), "text/html");
  const part = $("#guidelines", page);
  if (!part) return;
  const box = dialog("Guidelines");
  box.append(document.adoptNode(part));
  closing(box);
}

function help() {
  const box = dialog("Keys");
  const title = Object.assign(document.createElement("h2"), { textContent: "Keys" });
  const all = document.createElement("label");
  const on = Object.assign(document.createElement("input"), { type: "checkbox", checked: settings.on });
  all.append(on, " Single keys act on this page");
  on.addEventListener("change", () => { settings.on = on.checked; keep(); arrive($("#vote")?.elements.assignment.value); });
  const list = Object.assign(document.createElement("div"), { className: "keys" });
  for (const [action, [text]] of Object.entries(ACTIONS)) {
    const label = document.createElement("label");
    const field = Object.assign(document.createElement("input"), { value: shown(action), readOnly: true });
    field.addEventListener("keydown", (event) => {
      if (event.key.length !== 1) return; // Tab, Escape and the like keep their meaning
      event.preventDefault();
      settings.keys[action] = event.key;
      field.value = event.key;
      keep();
      arrive($("#vote")?.elements.assignment.value);
    });
    label.append(text, field);
    list.append(label);
  }
  const note = Object.assign(document.createElement("p"), { className: "note", textContent: "To change a key, go to its field and press another. Arrows move inside criteria; Enter submits where a Submit button is shown; digits rank the focused answer of a ranking." });
  const reset = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "As they were" });
  reset.addEventListener("click", () => { settings = { on: true, keys: {} }; keep(); arrive($("#vote")?.elements.assignment.value); box.close(); });
  box.append(title, all, list, note, reset);
  closing(box);
}

document.addEventListener("click", async (event) => {
  const copy = event.target.closest?.("[data-copy]");
  if (copy) {
    const text = await (await fetch(copy.dataset.copy)).text();
    await navigator.clipboard?.writeText(text);
    tell("Copied.");
  }
  if (event.target.closest?.("[data-help]")) help();
});

arrive();
