// Keeps a page fresh: fetches its fragment every few seconds while the tab is visible, and replaces only the parts that
// changed and that nobody is using. Charts tell the column under the pointer. Without this file the page is complete.

const page = document.querySelector("[data-live]");

function show(on) {
  for (const node of document.querySelectorAll(".live-on")) node.hidden = !on;
  for (const node of document.querySelectorAll(".live-off")) node.hidden = on;
  for (const node of document.querySelectorAll(".live-link")) node.hidden = on;
}

function busy(part) {
  if (part.contains(document.activeElement)) return true;
  if (part.querySelector("details[open]") || part.querySelector("[data-pointed]")) return true;
  const chosen = document.getSelection();
  return Boolean(chosen && !chosen.isCollapsed && part.contains(chosen.anchorNode));
}

function exchange(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const old = [...page.querySelectorAll("[data-part]")];
  const next = [...fresh.querySelectorAll("[data-part]")];
  const same = old.length === next.length && old.every((part, i) => part.dataset.part === next[i].dataset.part);
  if (!same) {
    if (!busy(page)) page.innerHTML = text;
    return;
  }
  old.forEach((part, i) => {
    if (part.dataset.part === "heading" || busy(part)) return;
    if (part.outerHTML !== next[i].outerHTML) part.replaceWith(document.importNode(next[i], true));
  });
}

class Refresher {
  constructor(address, everyMs) {
    this.address = address;
    this.everyMs = everyMs;
    this.timer = 0;
    this.failures = 0;
  }

  start() {
    clearTimeout(this.timer);
    show(true);
    this.timer = setTimeout(() => this.turn(), this.everyMs * 2 ** Math.min(this.failures, 4));
  }

  stop() {
    clearTimeout(this.timer);
    this.asking?.abort();
    show(false);
  }

  async turn() {
    this.asking = new AbortController();
    try {
      const answer = await fetch(this.address, { signal: this.asking.signal, headers: { "x-fragment": "1" } });
      if (answer.redirected) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      exchange(await answer.text());
      this.failures = 0;
    } catch (error) {
      if (document.hidden || error.name === "AbortError") return;
      this.failures += 1;
    }
    this.start();
    if (this.failures) show(false);
  }
}

function point(event) {
  const panel = event.target.closest?.(".panel");
  const column = event.target.closest?.(".column");
  const pointed = document.querySelector("[data-pointed]");
  if (pointed && pointed !== panel?.querySelector("[data-readout]")) {
    pointed.textContent = pointed.dataset.pointed;
    delete pointed.dataset.pointed;
  }
  const readout = column && panel.querySelector("[data-readout]");
  if (!readout) return;
  readout.dataset.pointed ??= readout.textContent;
  readout.textContent = column.dataset.say;
}

document.addEventListener("pointerover", point);
if (page) {
  const refresher = new Refresher(page.dataset.live, Number(page.dataset.everyMs));
  const follow = () => (document.hidden ? refresher.stop() : refresher.start());
  document.addEventListener("visibilitychange", follow);
  follow();
}
