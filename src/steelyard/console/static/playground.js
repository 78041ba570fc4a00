// Streams a real answer into the page, and its bill with it. The server sends four events: `text`, `bill`, `end` and
// `failed`; bills come as ready-made markup in the visitor's language. Without this file the form posts and reloads.

import { events } from "./events.js";

const form = document.getElementById("play");
const byId = (id) => document.getElementById(id);

function turn(role, name, text) {
  const article = document.createElement("article");
  article.className = `turn ${role}`;
  const head = document.createElement("h2");
  head.textContent = name;
  const said = document.createElement("div");
  said.className = "said";
  said.textContent = text;
  article.append(head, said);
  byId("turns").append(article);
  follow(true);
  return { article, said };
}

function follow(always) {
  const log = byId("turns");
  if (always || log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
}

function fail(text) {
  byId("failure").textContent = text;
  byId("failure").hidden = !text;
}

class Play {
  constructor(message, fields) {
    this.message = message;
    this.fields = fields;
    this.asking = new AbortController();
    this.over = false;
  }

  async run() {
    fail("");
    byId("turns").querySelector(".begin").hidden = true;
    this.question = turn("user", form.dataset.you, this.message);
    this.answer = turn("assistant running", form.dataset.answer, "");
    byId("turns").ariaBusy = "true";
    try {
      const request = { method: "POST", body: this.fields, signal: this.asking.signal };
      const answer = await fetch(form.dataset.stream, request);
      if (answer.redirected) return location.reload();
      if (!answer.ok) return this.refused(await answer.text());
      for await (const { name, data } of events(answer.body)) this.take(name, JSON.parse(data));
      if (!this.over) this.lost();
    } catch (error) {
      if (!this.over) this.lost();
    } finally {
      this.answer.article.classList.remove("running");
      byId("turns").ariaBusy = "false";
      byId("bill").querySelector(".state.running")?.remove();
    }
    return undefined;
  }

  take(name, data) {
    if (name === "text") {
      this.answer.said.append(data.text);
      follow(false);
    } else if (name === "bill") {
      byId("bill").innerHTML = data.html;
    } else if (name === "end") {
      this.over = true;
      byId("bill").innerHTML = data.html;
      this.remember();
    } else if (name === "failed") {
      this.over = true;
      fail(data.message);
      this.forget();
    }
  }

  // Both sides of the turn go with the next message, so the model knows what was said.
  remember() {
    const history = JSON.parse(form.elements.history.value || "[]");
    const said = this.answer.said.textContent;
    history.push({ role: "user", content: this.message }, { role: "assistant", content: said });
    form.elements.history.value = JSON.stringify(history);
    if (!said) this.answer.said.textContent = form.dataset.empty;
  }

  // Nothing was answered: give the words back instead of losing them.
  forget() {
    if (this.answer.said.textContent) return this.remember();
    this.question.article.remove();
    this.answer.article.remove();
    if (!form.elements.message.value) form.elements.message.value = this.message;
    return undefined;
  }

  // Nothing was asked: the page that came instead says why.
  refused(page) {
    this.over = true;
    fail(new DOMParser().parseFromString(page, "text/html").querySelector("main p")?.textContent ?? form.dataset.lost);
    this.forget();
    return undefined;
  }

  lost() {
    this.over = true;
    fail(this.asking.signal.aborted ? form.dataset.stopped : form.dataset.lost);
    this.forget();
  }
}

async function send(event) {
  event.preventDefault();
  const field = form.elements.message;
  if (send.running || !field.value.trim()) return;
  const fields = new URLSearchParams(new FormData(form));
  const play = new Play(field.value.trim(), fields);
  const button = form.querySelector("button[type=submit]");
  const stop = () => play.asking.abort();
  field.value = "";
  send.running = true;
  button.disabled = true;
  byId("stop").hidden = false;
  byId("stop").addEventListener("click", stop);
  await play.run();
  byId("stop").removeEventListener("click", stop);
  byId("stop").hidden = true;
  button.disabled = false;
  send.running = false;
  field.focus();
}

if (form) {
  byId("keys").hidden = false;
  form.addEventListener("submit", send);
  form.elements.message.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
}
