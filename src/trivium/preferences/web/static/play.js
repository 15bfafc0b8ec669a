// The playground: answers appear as they are written, Esc stops them. Without JavaScript the form gives a whole page.

import { $, $$, show, tell, visit } from "/static/label.js";

let running = null; // { turn, csrf, leave } of the request being answered

async function ask(form) {
  const body = new URLSearchParams(new FormData(form));
  body.set("stream", "1");
  const leave = new AbortController();
  running = { csrf: body.get("csrf"), leave };
  $("#live [data-live]").replaceChildren();
  $("#live").hidden = false;
  $("#live-heading").focus();
  tell("Being written. Esc stops.");
  try {
    const answer = await fetch("/play", { method: "POST", body, signal: leave.signal, credentials: "same-origin" });
    if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) return await show(answer);
    for await (const event of events(answer.body)) {
      if (event.turn) running.turn = event.turn;
      if (event.text) part(event.side).textContent += event.text;
      if (event.end) return await visit(event.end);
    }
    tell("The answer broke off.");
  } catch (error) {
    if (error.name !== "AbortError") tell("The server does not answer. Ask again.");
  } finally {
    running = null;
    if ($("#live")) $("#live").hidden = true;
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const each of parts) if (each.startsWith("data: ")) yield JSON.parse(each.slice(6));
  }
}

function part(side) {
  const found = $$("[data-live] pre").find((each) => each.dataset.letter === side);
  if (found) return found;
  const box = Object.assign(document.createElement("article"), { className: "side" });
  const title = Object.assign(document.createElement("h3"), { textContent: `Answer ${side}` });
  const pre = Object.assign(document.createElement("pre"), { tabIndex: 0 });
  pre.dataset.letter = side;
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", `Answer ${side}, being written`);
  box.append(title, pre);
  $("[data-live]").append(box);
  return pre;
}

function stop() {
  if (!running) return;
  tell("Stopping.");
  if (!running.turn) return running.leave.abort();
  fetch(`/play/${running.turn}/stop`, { method: "POST", body: new URLSearchParams({ csrf: running.csrf }), credentials: "same-origin" });
}

document.addEventListener("submit", (event) => {
  if (event.target.id !== "ask") return;
  event.preventDefault();
  if (!running) ask(event.target);
});
document.addEventListener("click", (event) => { if (event.target.closest?.("[data-stop]")) stop(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
