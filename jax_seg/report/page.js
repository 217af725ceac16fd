// Assembles the page: charts, viewer, sortable tables and the colour theme.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

for (const group of document.querySelectorAll("[data-charts]")) {
  const charts = data.charts[group.dataset.charts];
  for (const chart of charts) {
    const place = html("figure", { class: "chart" });
    group.append(place);
    drawChart(place, { ...chart, several: data.runs.length > 1 });
  }
  const key = document.querySelector(`[data-key="${group.dataset.charts}"]`);
  if (key) drawKey(key, charts);
}

const viewer = document.getElementById("viewer");
const look = viewer ? makeViewer(viewer, data.views, data.runs) : null;
for (const button of document.querySelectorAll("button[data-look]")) {
  button.addEventListener("click", () => {
    look(button.dataset.look);
    viewer.scrollIntoView({ behavior: "smooth", block: "start" });
  });
}

// A click on a heading sorts by its column: numbers by size, words alphabetically, empty cells last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const numeric = head.classList.contains("number");
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return descending ? -order : order;
    });
    table.tBodies[0].append(...rows);
  }));
}

// Unfold everything for printing.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of folded) details.open = false;
});

const THEMES = { "": "system", light: "light", dark: "dark" };
const themeButton = document.getElementById("theme");

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  themeButton.textContent = `Colours: ${THEMES[theme]}`;
}

themeButton.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const now = document.documentElement.dataset.theme ?? "";
  setTheme(names[(names.indexOf(now) + 1) % names.length]);
});
