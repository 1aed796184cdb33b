"use strict";
const SVG = "http://www.w3.org/2000/svg";
// What each status is drawn as, on a square of 16: its shape tells it apart without its colour.
const MARKS = {
  open: "M8 3.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 0 0 0-9z",
  wrong: "M4 4l8 8M12 4l-8 8",
  repeat: "M12.5 8.5a4.5 4.5 0 1 1-1.5-3.8M12.5 2v3.2h-3.2",
  pruned: "M3.5 8h9",
  kept: "M8 5a3 3 0 1 0 0 6a3 3 0 0 0 0-6z",
  expanded: "M2.5 8h4M6.5 8l6-4.5M6.5 8l6 4.5",
  answer: "M2.5 8.5l3.5 3.5l7.5-8",
  refuted: "M3 6h10M3 10.5h10M11 2.5l-6 11",
};
const MANY = 100; // children of one thought that are drawn before somebody asks for more
const MOST = 300; // thoughts that are opened at once
const byId = (id) => document.getElementById(id);
const traces = JSON.parse(byId("data").textContent);
const nodes = new WeakMap(); // of rows
let trace, root, all, current, range, winning, hits, opened, pattern;
const only = new Set();

function el(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== "") made.textContent = text;
  return made;
}

function icon(path) {
  const svg = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

const amount = (x) => (typeof x === "number" ? x : 0);
const number = (x, n = 0) => typeof x !== "number" ? said(x)
  : x.toLocaleString("en", { minimumFractionDigits: n, maximumFractionDigits: n });
const seconds = (x) => (typeof x === "number" ? `${number(x, x < 10 ? 2 : 1)} s` : number(x));
const said = (x) => (x === null || x === undefined ? "" : typeof x === "string" ? x : JSON.stringify(x));

// The tree of a trace. A thought whose parent was not noted gets one without words, so that nothing is left out.

function grow() {
  const at = new Map();
  const make = (path, thought) =>
    ({ path, thought, children: [], parent: null, isOpen: false, room: MANY, shown: true, pinned: false, won: false });
  const adopt = (parent, node) => { node.parent = parent; parent.children.push(node); };
  const home = (path) => {
    const key = path.join();
    if (!at.has(key)) {
      at.set(key, make(path, { path, text: path.length ? "(not in the trace)" : trace.problem, status: "" }));
      if (path.length) adopt(home(path.slice(0, -1)), at.get(key));
    }
    return at.get(key);
  };
  const made = trace.thoughts.map((thought) => make(thought.path, thought));
  for (const node of made) if (!at.has(node.path.join())) at.set(node.path.join(), node);
  root = home([]);
  for (const node of made) if (node !== root) adopt(home(node.path.slice(0, -1)), node);
  all = [];
  for (const rest = [root]; rest.length; ) {
    const node = rest.pop();
    all.push(node);
    for (let i = node.children.length; i--; ) rest.push(node.children[i]);
  }
}

function win() {
  winning = [];
  if (!Array.isArray(trace.result.path)) return;
  for (let node = root, i = 0; node; i++) {
    node.won = true;
    winning.push(node);
    node = node.children.find((child) => child.path[child.path.length - 1] === trace.result.path[i]);
  }
}

// Rows

function words(target, text) {
  // An odd piece of a text that is split at a group is what the group matched.
  for (const [i, piece] of text.split(pattern ?? /$^/).entries()) {
    if (piece) target.append(el(i % 2 ? "mark" : "span", "", piece));
  }
  return target;
}

function set(target, attributes) {
  for (const [name, is] of Object.entries(attributes)) target.setAttribute(name, String(is));
}

function rowOf(node, place, many) {
  const { text, status = "open", state, why } = node.thought, level = node.path.length;
  const isKnown = Object.hasOwn(MARKS, status);
  const row = (node.row = el("div", `row ${isKnown ? status : ""} ${node.won ? "won" : ""}`));
  const toggle = el("span", "toggle"), mark = el("span", "mark"), body = el("div", "body");
  set(row, { role: "treeitem", "aria-level": level + 1, "aria-setsize": many, "aria-posinset": place });
  set(row, { "aria-selected": false, tabindex: -1 });
  row.style.setProperty("--level", String(level));
  if (node.children.some((child) => child.shown)) {
    set(row, { "aria-expanded": node.isOpen });
    toggle.append(icon("M5 2.5l6 5.5l-6 5.5"));
  }
  const spoken = `${status}${node.won ? ", leads to the answer" : ""}: `;
  mark.append(icon(isKnown ? MARKS[status] : ""), el("span", "unseen", spoken));
  mark.title = status;
  body.append(words(el("div", "text"), text || (level ? "(no words)" : trace.problem)));
  if (said(state) || why) {
    body.append(el("div", "state"));
    if (said(state)) body.children[1].append(words(el("code"), said(state)));
    if (why) body.children[1].append(words(el("span", "why"), why));
  }
  row.append(toggle, mark, body, ...figuresOf(node));
  nodes.set(row, node);
  return row;
}

function figuresOf({ path, thought: { value, tokens = 0, seconds: when = 0 } }) {
  const rated = typeof value === "number";
  const made = [el("span", "figure value", rated ? number(value, 2) : "")];
  if (rated) made[0].append(bar((value - range[0]) / (range[1] - range[0])));
  made.push(el("span", "figure tokens", path.length ? number(tokens) : ""));
  made.push(el("span", "figure when", path.length ? seconds(when) : ""));
  return made;
}

function bar(share) {
  const made = el("span", "bar"), filled = el("i");
  filled.style.setProperty("width", `${(100 * share).toFixed(1)}%`);
  made.append(filled);
  return made;
}

function moreOf(node, left) {
  const row = el("div", "row more", `Show ${number(Math.min(left, MANY))} more of ${number(left)}`);
  set(row, { role: "treeitem", "aria-level": node.path.length + 2, tabindex: -1 });
  row.style.setProperty("--level", String(node.path.length + 1));
  nodes.set(row, { more: node, row });
  return row;
}

// The children that are drawn, as pairs of place and child: the first ones, and those that somebody looks for.
function drawn(node) {
  const shown = [...node.children.filter((child) => child.shown).entries()];
  return [shown.filter(([i, child]) => i < node.room || child.pinned || child.won), shown.length];
}

function below(node, rows = []) {
  if (!node.isOpen) return rows;
  const [children, many] = drawn(node);
  for (const [i, child] of children) {
    rows.push(rowOf(child, i + 1, many));
    below(child, rows);
  }
  if (many > children.length) rows.push(moreOf(node, many - children.length));
  return rows;
}

function draw() {
  byId("tree").replaceChildren(rowOf(root, 1, 1), ...below(root));
  choose(current.row?.isConnected ? current : root);
}

const levelOf = (row) => Number(row.getAttribute("aria-level"));

function turn(node, isOpen) {
  node.isOpen = isOpen;
  set(node.row, { "aria-expanded": isOpen });
  const level = levelOf(node.row);
  let next = node.row.nextElementSibling;
  while (next && levelOf(next) > level) {
    const gone = next;
    next = next.nextElementSibling;
    if (gone === current.row) choose(node);
    gone.remove();
  }
  node.row.after(...below(node));
}

function enlarge(node) {
  const before = new Set(drawn(node)[0].map(([, child]) => child));
  node.room += MANY;
  turn(node, true);
  visit(drawn(node)[0].map(([, child]) => child).find((child) => !before.has(child)) ?? node, true);
}

// Opens what a thought lies in; whoever calls draws the tree.
function uncover(node) {
  for (; node.parent; node = node.parent) {
    node.pinned = true;
    node.parent.isOpen = true;
  }
}

function choose(node) {
  if (current.row) {
    set(current.row, { "aria-selected": false, tabindex: -1 });
    current.details?.remove();
  }
  current = node;
  set(node.row, { tabindex: 0 });
}

function look(node) {
  choose(node);
  if (node.more) return;
  const { status = "open", logprob = 0, value } = node.thought;
  set(node.row, { "aria-selected": true });
  const facts = [["status", status], ["place", node.path.join(" › ") || "root"], ["value", said(value)]];
  facts.push(["log-probability", logprob ? number(logprob, 2) : ""], ["children", number(node.children.length || "")]);
  node.details = pairs(el("dl"), facts);
  node.row.children[2].append(node.details);
}

function visit(node, focus) {
  look(node);
  node.row.scrollIntoView({ block: "nearest" });
  if (focus) node.row.focus({ preventScroll: true });
}

function goTo(node, focus = true) {
  if (!node.shown) clear();
  uncover(node);
  draw();
  visit(node, focus);
}

function pairs(list, entries) {
  for (const [name, is] of entries) if (is !== "") list.append(el("dt", "", name), el("dd", "", is));
  return list;
}

// Finding: what fits is shown with what it lies in and, for words, with what lies below it.

function clear() {
  byId("search").value = "";
  only.clear();
  sift();
}

function fits(node) {
  const { text = "", status = "open", state, why = "" } = node.thought;
  return (!only.size || only.has(status)) && (!pattern || [text, said(state), why].some((part) => pattern.test(part)));
}

function sift() {
  const asked = byId("search").value.trim();
  pattern = asked ? new RegExp(`(${asked.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")})`, "iu") : null;
  const active = pattern || only.size;
  if (active) opened ??= all.filter((node) => node.isOpen);
  for (const node of all) {
    node.hit = Boolean(active) && fits(node);
    node.under = Boolean(pattern && !only.size && node.parent && (node.parent.hit || node.parent.under));
    node.shown = !active || node.hit || node.under;
    node.pinned = false;
    if (active || opened) node.isOpen = false;
  }
  root.shown = true;
  for (let i = all.length; --i; ) if (all[i].shown) all[i].parent.shown = true;
  hits = all.filter((node) => node.hit);
  if (active) hits.slice(0, MOST).forEach(uncover);
  else if (opened) {
    for (const node of opened) node.isOpen = true;
    opened = null;
  }
  byId("note").textContent = !active ? "" : `${number(hits.length)} of ${number(trace.thoughts.length)} thoughts` +
    (hits.length > MOST ? `; the first ${MOST} are opened` : "");
  for (const chip of byId("chips").children) chip.setAttribute("aria-pressed", String(only.has(chip.value)));
  draw();
}

function openMore(most) {
  let left = most;
  for (let level = [root]; level.length && left > 0; level = level.flatMap((node) => node.children)) {
    for (const node of level) {
      if (node.isOpen || !node.children.length || left <= 0) continue;
      node.isOpen = true;
      left -= Math.min(node.children.length, MANY);
    }
  }
}

function closeAll() {
  for (const node of all) Object.assign(node, { isOpen: node === root, room: MANY, pinned: false });
  draw();
}

function show(i) {
  trace = traces[i];
  trace.result ??= {};
  const values = trace.thoughts.map(({ value }) => amount(value));
  range = [values.reduce((a, b) => Math.min(a, b), 0), values.reduce((a, b) => Math.max(a, b), 1)];
  opened = null;
  grow();
  win();
  current = root;
  root.isOpen = true;
  if (winning.length) uncover(winning[winning.length - 1]);
  else openMore(MANY / 2);
  head();
  steps();
  levelTable();
  chips();
  clear();
}

// Keys and clicks

function press(event) {
  const rows = [...byId("tree").children], at = rows.indexOf(current.row), row = current.row;
  const move = (to) => to && visit(nodes.get(to), true);
  const isOpen = row.getAttribute("aria-expanded");
  const parent = () => rows.slice(0, at).reverse().find((other) => levelOf(other) < levelOf(row));
  const act = () => (current.more ? enlarge(current.more) : isOpen && turn(current, isOpen === "false"));
  const keys = {
    ArrowDown: () => move(rows[at + 1]),
    ArrowUp: () => move(rows[at - 1]),
    ArrowRight: () => (isOpen === "false" ? turn(current, true) : isOpen && move(rows[at + 1])),
    ArrowLeft: () => (isOpen === "true" ? turn(current, false) : move(parent())),
    Home: () => move(rows[0]),
    End: () => move(rows[rows.length - 1]),
    Enter: act,
    " ": act,
  };
  if (!Object.hasOwn(keys, event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
}

byId("tree").addEventListener("keydown", press);
byId("tree").addEventListener("click", (event) => {
  const row = event.target.closest("[role=treeitem]"), node = row && nodes.get(row);
  if (!node) return;
  if (node.more) return enlarge(node.more);
  if (node !== current || !node.details?.isConnected) look(node);
  if (event.target.closest(".toggle") && row.getAttribute("aria-expanded")) turn(node, !node.isOpen);
});
byId("search").addEventListener("input", sift);
byId("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape") { clear(); current.row.focus(); }
  if (event.key !== "Enter" || !hits.length) return;
  event.preventDefault();
  const at = hits.indexOf(current), step = event.shiftKey ? -1 : 1;
  goTo(hits[at < 0 ? 0 : (at + step + hits.length) % hits.length], false);
});
const toAnswer = () => winning.length && goTo(winning[winning.length - 1]);
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "w") toAnswer();
  if (event.key !== "/") return;
  event.preventDefault();
  byId("search").focus();
});
byId("to-answer").addEventListener("click", toAnswer);
byId("open-all").addEventListener("click", () => { openMore(MOST); draw(); });
byId("close-all").addEventListener("click", closeAll);

const verdict = (result) => ({ true: "✓", false: "×" })[result?.verified] ?? "·";
for (const [i, { problem, result }] of traces.entries()) {
  const option = el("option", "", `${verdict(result)} ${problem}`.slice(0, 100));
  option.value = String(i);
  byId("problem").append(option);
}
byId("problem").addEventListener("change", (event) => show(Number(event.target.value)));
byId("problems").hidden = traces.length < 2;
const right = traces.filter(({ result }) => result?.verified === true).length;
byId("tally").textContent = `${right} of ${traces.length} checked and right`;
show(0);
