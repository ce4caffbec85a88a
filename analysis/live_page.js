"use strict";
// Keeps the page up to date: asks three times a second what has changed, and replaces those sections alone. What the reader
// has set within them stays: focus, open details, sliders and switches, how far they have scrolled.
(() => {
  const PERIOD = 330, BACKGROUND = 5000, RETRY = 2000;  // milliseconds
  const BASE = document.documentElement.dataset.base || "";  // a proxy's path, whether or not this address ends in its slash
  const FOCUSABLE = "a[href], button, input, select, summary, textarea, [tabindex]";
  const versions = {};
  const waiting = new Map();  // sections that came while the reader held the old one
  let held = null;  // what a pointer is pressed on

  const line = document.createElement("p");
  line.className = "live";
  const state = document.createElement("span");
  state.setAttribute("role", "status");
  const time = document.createElement("span");
  time.className = "soft";
  line.append(state, " ", time);
  const main = document.getElementById("main");
  main.prepend(line);

  for (const section of document.querySelectorAll("main > section[id]")) {
    if (section.dataset.version) versions[section.id] = section.dataset.version;
  }
  // The browser's own way of keeping the view still would add to ours.
  document.documentElement.style.overflowAnchor = "none";

  function say(text, kind) {
    if (state.textContent !== text) state.textContent = text;
    line.dataset.state = kind;
  }

  function parsed(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  }

  const all = (root, what) => [...root.querySelectorAll(what)];
  const changed = (field) => field.type === "checkbox" || field.type === "radio"
    ? field.checked !== field.defaultChecked : field.value !== field.defaultValue;

  // Elements of a section are known again by their id, else by their number among their kind.
  function twin(element, old, fresh, what) {
    const same = element.id && fresh.querySelector("#" + CSS.escape(element.id));
    return same || all(fresh, what)[all(old, what).indexOf(element)];
  }

  // Before `fresh` is on the page: what can be set there. Returns what is to be done once it is.
  function carry(old, fresh) {
    for (const details of all(old, "details")) {
      const to = twin(details, old, fresh, "details");
      if (to) to.open = details.open;
    }
    const fields = all(old, "input, select").filter(changed).map((field) => [field, twin(field, old, fresh, "input, select")]);
    const scrolled = all(old, "*").filter((element) => element.scrollLeft || element.scrollTop)
      .map((element) => [element.scrollLeft, element.scrollTop, twin(element, old, fresh, element.localName)]);
    const focus = old.contains(document.activeElement) ? twin(document.activeElement, old, fresh, FOCUSABLE) : null;
    return () => {
      for (const [field, to] of fields) {
        if (!to) continue;
        to.value = field.value;
        to.checked = field.checked;
        to.dispatchEvent(new Event("input", {bubbles: true}));
        to.dispatchEvent(new Event("change", {bubbles: true}));
      }
      for (const [left, top, to] of scrolled) if (to) to.scrollTo({left, top, behavior: "instant"});
      if (focus) focus.focus({preventScroll: true});
    };
  }

  const isHeld = (section) => {
    const selection = document.getSelection();
    return (held && section.contains(held))
      || (selection && !selection.isCollapsed && selection.containsNode(section, true));
  };

  // What should stay where it is: what has the focus, if it is in view; else the first section that begins in view,
  // or fills it. Returns a function that tells how far it has moved.
  function anchor() {
    const box = (element) => element.getBoundingClientRect();
    const inView = (element) => box(element).height > 0 && box(element).bottom > 0 && box(element).top < innerHeight;
    const focus = document.activeElement;
    if (main.contains(focus) && focus !== main && inView(focus)) {
      const top = box(focus).top;
      return () => (main.contains(document.activeElement) ? box(document.activeElement).top - top : 0);
    }
    const seen = all(document, "main > section").filter(inView);
    const section = seen.find((element) => box(element).top >= 0) || seen[0];
    if (!section) return () => 0;
    const {id} = section, top = box(section).top;
    return () => box(document.getElementById(id)).top - top;
  }

  function replace(id, html) {
    const old = document.getElementById(id);
    if (!old) return;
    const fresh = parsed(html);
    const finish = carry(old, fresh);
    old.replaceWith(fresh);
    document.dispatchEvent(new CustomEvent("section", {detail: fresh}));
    finish();
    for (const entry of all(document, "[data-for]")) if (entry.dataset.for === id) entry.hidden = fresh.hidden;
  }

  function settle() {
    const ready = [...waiting].filter(([id]) => {
      const old = document.getElementById(id);
      return !old || !isHeld(old);
    });
    if (!ready.length) return;
    const moved = scrollY > 0 ? anchor() : () => 0;
    for (const [id, html] of ready) {
      waiting.delete(id);
      replace(id, html);
    }
    scrollBy({top: moved(), behavior: "instant"});
  }

  // What moment each section shows: that of the page's first line, but where a newer figure is being drawn, or waits.
  const clock = (time) => new Date(time).toLocaleTimeString("en-GB");
  let moment = "", older = {};
  function stamp() {
    for (const section of all(document, "main > section[id]")) {
      const heading = section.querySelector(":scope > h2");
      if (!heading || !moment || waiting.has(section.id)) continue;
      let mark = section.querySelector(":scope > .moment");
      if (!mark) {
        mark = document.createElement("small");
        mark.className = "moment soft";
        heading.before(mark);
      }
      const text = older[section.id] ? `as of ${clock(older[section.id])}, a newer one is being made` : `as of ${clock(moment)}`;
      if (mark.textContent !== text) mark.textContent = text;
    }
  }

  async function ask() {
    const answer = await fetch(BASE + "changes?" + new URLSearchParams(versions), {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.statusText);
    if (answer.status !== 204) {
      const changes = await answer.json();
      for (const [id, html] of Object.entries(changes.sections)) waiting.set(id, html);
      Object.assign(versions, changes.versions);
      moment = changes.moment;
      older = changes.older;
      time.textContent = moment ? "As of " + clock(moment) + "." : "";
      line.dataset.text = changes.status.text;
      line.dataset.was = changes.status.state;
    }
    say(line.dataset.text || "", line.dataset.was || "");
    settle();
    stamp();
  }

  let timer = 0, busy = false;
  async function turn() {
    if (busy) return;
    busy = true;
    clearTimeout(timer);
    let pause = document.hidden ? BACKGROUND : PERIOD;
    try {
      await ask();
    } catch (error) {
      say("No answer from ./run watch: the page stays as it is until it is started again.", "lost");
      pause = RETRY;
    }
    busy = false;
    timer = setTimeout(turn, pause);
  }

  addEventListener("pointerdown", (event) => { held = event.target; }, true);
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { held = null; }, true);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) turn(); });
  turn();
})();
