// Keeps a page as fresh as the store: replaces what the server drew anew, ticks what waits for an instant, and says so
// when it can do neither. Without it the page reloads itself.
(() => {
  "use strict";
  const body = document.body;
  const POLL_MS = 5000; // without a stream
  const SILENCE_MS = 10000; // a stream that says nothing for so long is lost; it should say something every four seconds
  let last = body.dataset.frame;
  let skew = Number(body.dataset.now) - Date.now(); // the store's clock minus ours
  let source = null;
  let heard = Date.now();
  let poller = null;
  let loading = false;

  const now = () => Date.now() + skew;
  const two = (n) => String(n).padStart(2, "0");

  // As words::span in Rust.
  function span(ms) {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} m ${two(s % 60)} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} m`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  }

  function set(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function tick() {
    const at = now();
    for (const e of document.querySelectorAll("time[data-since]")) set(e, span(at - Number(e.dataset.since)));
    for (const e of document.querySelectorAll("time[data-age]")) set(e, span(at - Number(e.dataset.age)));
    for (const e of document.querySelectorAll("time[data-until]")) {
      const left = Number(e.dataset.until) - at;
      set(e, left > 0 ? `${e.dataset.label} ${span(Math.ceil(left / 1000) * 1000)}` : e.dataset.passed);
    }
    body.classList.toggle("lost", !document.hidden && Date.now() - heard > SILENCE_MS);
  }

  function parse(html, parent) {
    const holder = document.createElement("template");
    holder.innerHTML = parent ? `<table><tbody>${html}</tbody></table>` : html;
    return parent ? holder.content.querySelector("tr") : holder.content;
  }

  // Replaces the cells that differ: what has the focus or a selection is rarely among them.
  function morphRow(old, fresh) {
    if (old.className !== fresh.className) {
      fresh.classList.add("changed");
      old.className = fresh.className;
    }
    const cells = [...fresh.children];
    cells.forEach((cell, index) => {
      const before = old.children[index];
      if (!before) old.append(cell);
      else if (before.outerHTML !== cell.outerHTML) swap(before, () => before.replaceWith(cell), () => cell);
    });
  }

  // Does a replacement and gives the focus back to the same link or button in the new part.
  function swap(container, replace, fresh) {
    const active = document.activeElement;
    const inside = active && active !== body && container.contains(active);
    const mark = inside && (active.id ? `#${CSS.escape(active.id)}` : active.getAttribute("href") && `[href="${CSS.escape(active.getAttribute("href"))}"]`);
    const scroll = container.querySelector?.(".scroll")?.scrollLeft;
    replace();
    const now = fresh();
    if (scroll) {
      const box = now.querySelector(".scroll");
      if (box) box.scrollLeft = scroll;
    }
    if (mark) now.querySelector(mark)?.focus({ preventScroll: true });
  }

  function region(name, html) {
    const place = document.querySelector(`[data-live="${name}"]`);
    if (!place) return;
    swap(place, () => place.replaceChildren(parse(html)), () => place);
    if (name === "bar") body.classList.toggle("stale", place.firstElementChild?.classList.contains("stale") ?? false);
  }

  function rows(list) {
    const table = document.getElementById("rows");
    if (!table) return;
    const known = new Map([...table.children].map((row) => [row.dataset.id, row]));
    for (const [id, html] of list) {
      const fresh = parse(html, true);
      const old = known.get(id);
      if (old) morphRow(old, fresh);
      else fresh.classList.add("changed"), table.append(fresh);
    }
  }

  // True unless a row is missing that the order names.
  function order(ids) {
    const table = document.getElementById("rows");
    if (!table) return true;
    const known = new Map([...table.children].map((row) => [row.dataset.id, row]));
    if (ids.some((id) => !known.has(id))) return false;
    const wanted = new Set(ids);
    const active = document.activeElement;
    for (const [id, row] of known) if (!wanted.has(id)) row.remove();
    ids.forEach((id, index) => {
      const row = known.get(id);
      if (table.children[index] !== row) table.insertBefore(row, table.children[index] ?? null);
    });
    if (active && active !== document.activeElement && table.contains(active)) active.focus({ preventScroll: true });
    return true;
  }

  function say(lines) {
    const place = document.getElementById("announcer");
    place.textContent = lines.join(". ");
  }

  function apply(message) {
    heard = Date.now();
    skew = message.t.now - Date.now();
    for (const e of document.querySelectorAll("time[data-age]")) e.dataset.age = message.t.read;
    if (message.reload) return void load();
    for (const [name, html] of message.regions ?? []) region(name, html);
    rows(message.rows ?? []);
    if (message.order && !order(message.order)) load();
    if (message.say) say(message.say);
    copyButtons();
    tick();
  }

  // Takes the page itself: after a gap that the stream cannot bridge, and while there is no stream.
  async function load() {
    if (loading) return;
    loading = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
      if (answer.redirected && new URL(answer.url).pathname === "/login") return void location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      last = page.body.dataset.frame;
      skew = Number(page.body.dataset.now) - Date.now();
      heard = Date.now();
      for (const part of page.querySelectorAll("[data-live]")) {
        const mine = document.querySelector(`[data-live="${part.dataset.live}"]`);
        if (mine && mine.innerHTML !== part.innerHTML) region(part.dataset.live, part.innerHTML);
      }
      const fresh = page.getElementById("rows");
      if (fresh) {
        rows([...fresh.children].map((row) => [row.dataset.id, row.outerHTML]));
        order([...fresh.children].map((row) => row.dataset.id));
      }
      copyButtons();
      tick();
    } catch {
      // Said by the silence, in words, by tick().
    } finally {
      loading = false;
    }
  }

  function connect() {
    if (source || document.hidden) return;
    const stream = new EventSource(`${body.dataset.stream}&since=${encodeURIComponent(last)}`);
    source = stream;
    stream.onopen = () => {
      clearInterval(poller);
      poller = null;
    };
    stream.onmessage = (event) => {
      last = event.lastEventId || last;
      apply(JSON.parse(event.data));
    };
    stream.addEventListener("reload", async () => {
      close();
      await load();
      connect();
    });
    stream.onerror = () => {
      // The browser tries again by itself unless it was refused; either way the page is asked in the meantime.
      poller ??= setInterval(load, POLL_MS);
      if (stream.readyState === EventSource.CLOSED) {
        close();
        setTimeout(connect, POLL_MS);
      }
    };
  }

  function close() {
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      clearInterval(poller);
      poller = null;
    } else {
      heard = Date.now();
      connect();
    }
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && connect());

  function copyButtons() {
    for (const block of document.querySelectorAll("[data-copy]")) {
      if (block.previousElementSibling?.classList.contains("copy")) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(block.textContent);
          button.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(block);
          button.textContent = "Selected";
        }
      });
      block.before(button);
    }
  }

  for (const choice of document.querySelectorAll(".filter select")) choice.addEventListener("change", () => choice.form.requestSubmit());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const field = document.querySelector('[data-key="/"]');
    if (field) {
      event.preventDefault();
      field.focus();
    }
  });

  body.classList.toggle("stale", document.querySelector("#bar > .bar")?.classList.contains("stale") ?? false);
  copyButtons();
  setInterval(tick, 1000);
  tick();
  connect();
})();
