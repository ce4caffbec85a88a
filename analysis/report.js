"use strict";
// Everything listens on the document, so that sections may be replaced while the page is open.
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // The theme follows the system until the button is pressed.
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const tell = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; tell(); });
  system.addEventListener("change", tell);
  tell();

  // Sliders of the gallery: one snapshot of a film is shown, and of it one frame.
  const only = (parts, index) => parts.forEach((part, place) => { part.hidden = place !== index; });
  const say = (slider, text) => {
    slider.setAttribute("aria-valuetext", text);
    slider.nextElementSibling.textContent = text;
  };
  function show(film) {
    const snapshots = [...film.querySelectorAll(".snapshot")];
    const search = film.querySelector("input.search");
    const chosen = snapshots[search ? Number(search.value) : snapshots.length - 1];
    if (!chosen) return;
    only(snapshots, snapshots.indexOf(chosen));
    if (search) say(search, chosen.dataset.text);
    const frames = [...chosen.querySelectorAll(".frame")];
    const generation = film.querySelector("input.generation");
    if (!generation) return;
    const atEnd = generation.value === generation.max;
    generation.max = String(frames.length - 1);
    if (atEnd) generation.value = generation.max;
    const frame = frames[Math.min(Number(generation.value), frames.length - 1)];
    only(frames, frames.indexOf(frame));
    say(generation, frame.dataset.text);
  }
  document.addEventListener("input", (event) => {
    if (event.target.matches(".film input[type=range]")) show(event.target.closest(".film"));
  });

  // What is wider than its place says that it scrolls.
  const mark = () => document.querySelectorAll(".wide").forEach((part) => {
    part.classList.toggle("scrolls", part.scrollWidth > part.clientWidth + 1);
  });
  window.addEventListener("resize", mark);
  document.addEventListener("section", mark);
  document.addEventListener("toggle", mark, true);
  mark();

  // Copying a command.
  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("button.copy");
    if (!copy) return;
    const code = copy.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = "Copied";
    } catch {
      window.getSelection().selectAllChildren(code);
      copy.textContent = "Selected";
    }
    window.setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });

  // The contents list marks the section that is read.
  document.addEventListener("scroll", () => {
    const read = [...document.querySelectorAll("main > section:not([hidden])")]
      .filter((part) => part.getBoundingClientRect().top < 120).pop();
    document.querySelectorAll("nav.contents a").forEach((link) => {
      if (read && link.hash === `#${read.id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  }, { passive: true });
})();
