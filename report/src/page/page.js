"use strict";
(() => {
  const tip = document.getElementById("tip");
  let on = null;
  const hide = () => {
    if (on) on.classList.remove("on");
    on = null;
    tip.hidden = true;
  };
  const show = (mark) => {
    hide();
    on = mark;
    mark.classList.add("on");
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const box = mark.getBoundingClientRect();
    const left = Math.min(box.right + 8, window.innerWidth - tip.offsetWidth - 8);
    const top = box.top - tip.offsetHeight - 8;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = (top < 8 ? box.bottom + 8 : top) + "px";
  };
  for (const plot of document.querySelectorAll("svg.plot")) {
    const marks = () => [...plot.querySelectorAll(".m:not(.off)")];
    plot.addEventListener("pointerover", (e) => {
      const mark = e.target.closest(".m");
      if (mark) show(mark); else hide();
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (e) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
      if (e.key === "Escape") return hide();
      const all = marks();
      if (!step || all.length === 0) return;
      e.preventDefault();
      const at = all.indexOf(on);
      show(all[at < 0 ? (step > 0 ? 0 : all.length - 1) : (at + step + all.length) % all.length]);
    });
  }
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      const figure = button.closest("figure");
      for (const part of figure.querySelectorAll(`svg [data-s="${button.dataset.s}"]`)) {
        part.classList.toggle("off", !shown);
      }
      hide();
    });
  }
})();
