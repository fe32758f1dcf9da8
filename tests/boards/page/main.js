// The page of one board: variables, then every panel.
import { Query } from "/page/data.js";
import { draw } from "/page/draw.js";

const CELL = 38; // Grafana's row of 30 pixels and the gap
const uid = location.pathname.split("/")[2];
const json = async (path) => (await fetch(path)).json();
const { dashboard: board } = await json(`/api/dashboards/uid/${uid}`);
const { scrape } = await json("/api/settings");
const query = new Query(board, new URLSearchParams(location.search), scrape);
const main = document.querySelector("main");
const failures = [];

function place(panel) {
  const { x, y, w, h } = panel.gridPos;
  const section = document.createElement("section");
  section.className = panel.type;
  section.style.cssText = `left:${(x / 24) * 100}%;width:${(w / 24) * 100}%;top:${y * CELL}px;height:${h * CELL}px`;
  section.title = panel.description ?? "";
  const inner = section.appendChild(document.createElement("div"));
  if (panel.type === "row") inner.textContent = `▾ ${panel.title}`;
  else {
    inner.appendChild(document.createElement("h2")).textContent = panel.title;
    inner.appendChild(document.createElement("div")).className = "body";
  }
  main.append(section);
  return section;
}

function head() {
  const header = document.querySelector("header");
  const title = header.appendChild(document.createElement("h1"));
  title.textContent = document.title = board.title;
  for (const [label, value] of query.shown.slice(1)) {
    const chip = header.appendChild(document.createElement("span"));
    chip.className = "var";
    chip.innerHTML = "<b></b><span></span>";
    chip.firstChild.textContent = label;
    chip.lastChild.textContent = value;
  }
  const right = header.appendChild(document.createElement("span"));
  right.className = "right";
  const at = (t) => new Date(t * 1000).toISOString().slice(0, 16).replace("T", " ");
  right.textContent = `${at(query.from)} to ${at(query.to).slice(11)} UTC`;
}

main.style.height = `${Math.max(...board.panels.map(({ gridPos: { y, h } }) => y + h)) * CELL}px`;
await query.readVariables();
head();
const annotations = await query.annotations();
for (const panel of board.panels) {
  const section = place(panel);
  if (panel.type === "row") continue;
  const body = section.querySelector(".body");
  try {
    draw(panel, await query.panel(panel, section.clientWidth), query, body, annotations);
  } catch (error) {
    failures.push(`${panel.title}: ${error.message}`);
    section.classList.add("bad");
    body.textContent = error.message;
  }
}
// What a picture or a proof waits for, and what went wrong.
document.body.dataset.failures = JSON.stringify(failures);
document.body.dataset.ready = "true";
