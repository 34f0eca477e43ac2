"use strict";
const tip = document.body.appendChild(document.createElement("div"));
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");

let shown = null;

function show(mark) {
  shown = mark;
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = false;
  place();
}

function place() {
  const at = shown.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const middle = at.left + (at.width - own.width) / 2;
  const right = document.documentElement.clientWidth - own.width - 4;
  const above = at.top - own.height - 8;
  tip.style.left = `${Math.max(4, Math.min(middle, right))}px`;
  tip.style.top = `${above > 4 ? above : Math.min(at.bottom + 8, innerHeight - own.height - 4)}px`;
}

function hide() {
  shown = null;
  tip.hidden = true;
}

const MARK = "[class$=_marks] [aria-label]";
for (const chart of document.querySelectorAll("svg.chart")) {
  const visible = () =>
    [...chart.querySelectorAll(MARK)].filter((mark) => mark.getClientRects().length);
  const enter = (mark) => {
    chart.querySelectorAll("[tabindex]").forEach((other) => other.removeAttribute("tabindex"));
    mark.setAttribute("tabindex", "0");
    mark.focus();
  };
  const reach = () => {
    if (visible().some((mark) => mark.tabIndex === 0)) return;
    chart.querySelectorAll("[tabindex]").forEach((mark) => mark.removeAttribute("tabindex"));
    visible()[0]?.setAttribute("tabindex", "0");
  };
  reach();
  chart.closest("section").addEventListener("change", reach);
  chart.addEventListener("pointerover", (event) => {
    const mark = event.target.closest(MARK);
    mark ? show(mark) : hide();
  });
  chart.addEventListener("pointerleave", (event) => event.pointerType === "touch" || hide());
  chart.addEventListener("focusin", (event) => {
    if (event.target.matches(":focus-visible")) show(event.target);
  });
  chart.addEventListener("focusout", (event) => event.target === shown && hide());
  chart.addEventListener("keydown", (event) => {
    const all = visible();
    const here = all.indexOf(event.target);
    const next = {
      ArrowRight: here + 1,
      ArrowDown: here + 1,
      ArrowLeft: here - 1,
      ArrowUp: here - 1,
      Home: 0,
      End: all.length - 1,
    }[event.key];
    if (event.key === "Escape") hide();
    if (next === undefined) return;
    event.preventDefault();
    enter(all[Math.max(0, Math.min(next, all.length - 1))]);
  });
}
addEventListener("pointerdown", (event) => event.target.closest(MARK) || hide());
addEventListener("scroll", () => shown && place(), { passive: true });

function cell(body, column) {
  const row = body.querySelector("tr.ours") ?? [...body.rows].find((row) => row.cells.length > 1);
  return row?.cells[column]?.textContent ?? "";
}

function compare(a, b) {
  const [x, y] = [a, b].map((text) => parseFloat(text.replaceAll(",", "")));
  if (isNaN(x) || isNaN(y)) return isNaN(y) - isNaN(x) || a.localeCompare(b);
  return x - y;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const asRun = [...table.tBodies];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!column) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { descending: "ascending", ascending: "none" }[head.ariaSort] ?? "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = next;
      const sign = { descending: -1, ascending: 1, none: 0 }[next];
      const order = (a, b) => sign * compare(cell(a, column), cell(b, column));
      table.append(...[...asRun].sort(order));
    });
  });
}
