"use strict";
// Every text of a trace goes into the page as textContent, never as markup.
const at = (id) => document.getElementById(id);
const sources = document.querySelectorAll("script.trace");
const summaries = JSON.parse(document.querySelector("script.summaries").textContent);
const DEEPEST = 16;  // levels that indent; below, the depth stands as a number
let trace, children, depth, size, best, scale;  // of the tree that is shown
let open, now, rows, order, marked, query = null, hits = [];  // what of it is seen

const count = (x) => x.toLocaleString("en");
const number = (x) => x === null ? "–" : (Math.abs(x) < 1e3 ? x.toFixed(3)
  : x.toExponential(1)).replace(/^-(0\.0+)$/, "$1").replace("-", "\u2212");
const prefixed = (x) => {
  const power = Math.min(6, Math.max(0, Math.floor(Math.log10(x || 1) / 3)));
  return `${Number((x / 1000 ** power).toPrecision(3))} ${" kMGTPE"[power]}`;
};
const element = (tag, text = "", kind = "") =>
  Object.assign(document.createElement(tag), {textContent: text, className: kind});
const unsaid = (node) => trace.finished[node] ? "(end)" : "(empty)";
const label = (node) => node ? trace.step[node].trim() || unsaid(node) : "question";
const line = (node) => label(node).replace(/\s+/g, " ");
const verdict = (node) => node ? trace.verdict[node] : "";
const said = (node) => verdict(node) === "ok" ? "✓"
  : verdict(node) && `✗ ${verdict(node)}`;
const kind = (node) => verdict(node) && (verdict(node) === "ok" ? "good" : "bad");
const value = (node) => trace.visits[node] ? trace.value[node] : null;
const logprob = (node) => node ? trace.logprob[node] : null;

function pathTo(node) {
  const path = [];
  for (; node >= 0; node = trace.parent[node]) path.unshift(node);
  return path;
}

function load(index) {
  trace = JSON.parse(sources[index].textContent);
  const nodes = trace.parent.length, {parent, visits} = trace;
  children = Array.from({length: nodes}, () => []);
  depth = new Int32Array(nodes);
  size = new Int32Array(nodes).fill(1);
  for (let node = 1; node < nodes; node++) {
    children[parent[node]].push(node);
    depth[node] = depth[parent[node]] + 1;
  }
  for (let node = nodes - 1; node > 0; node--) size[parent[node]] += size[node];
  const rank = (node) => trace.value[node] ?? -Infinity;
  for (const siblings of children)
    siblings.sort((a, b) => visits[b] - visits[a] || (rank(b) > rank(a) ? 1
      : rank(b) < rank(a) ? -1 : a - b));
  best = new Set(trace.chosen ? pathTo(trace.chosen) : []);
  // Values are mostly in [0, 1], a scale that can then be compared between trees.
  scale = [0, 1];
  for (const x of trace.value)
    if (x !== null) scale = [Math.min(scale[0], x), Math.max(scale[1], x)];
  [at("least").textContent, at("most").textContent] =
    scale.map((x) => Number(x.toPrecision(3)));
  const deepest = depth.reduce((a, b) => Math.max(a, b), 0);
  at("tree").style.setProperty("--indent", deepest > 12 ? "10px" : "18px");
  at("depth").max = at("depth").value = Math.max(deepest, 1);
  at("visits").value = 0;
  at("find").value = "";
  query = null;
  hits = [];
  rows = new Map();
  at("best").disabled = !trace.chosen;
  document.title = trace.question.slice(0, 80) || "Search tree";
  at("question").textContent = trace.question;
  const spent = trace.spent, answer = trace.answer_verdict;
  const grade = trace.chosen ? answer : "nothing was chosen";
  const mark = {right: "✓ ", wrong: "✗ "}[grade] ?? "";
  at("facts").replaceChildren(
    element("span", mark + grade, mark && `chip ${grade}` || "chip"),
    element("span", trace.method, "chip"),
    ...[`${count(nodes)} nodes, depth ${deepest}`,
      `${count(spent.generated_tokens ?? 0)} tokens generated`,
      `${count(spent.reread_tokens ?? 0)} re-read`,
      `${count(spent.reward_tokens ?? 0)} by the reward`,
      `${prefixed(spent.flops ?? 0)}FLOP`].map((text) => element("span", text)));
  openBest();
  at("trees").scrollTop = 0;
}

function openBest() {
  // Without an answer, the most visited branch.
  let node = trace.chosen;
  if (!node) while (children[node].length) node = children[node][0];
  open = new Set([0, ...pathTo(node).slice(0, -1)]);
  now = node;
  render();
}

function visible(node) {
  return best.has(node) || trace.visits[node] >= (Number(at("visits").value) || 0)
    && depth[node] <= (Number(at("depth").value) || Infinity);
}

function walk(entered) {
  const found = [], stack = [0];
  while (stack.length) {
    const node = stack.pop();
    found.push(node);
    if (!entered(node)) continue;
    const kept = children[node].filter(visible);
    while (kept.length) stack.push(kept.pop());
  }
  return found;
}

function render() {
  order = walk((node) => open.has(node));
  const present = new Set(order);
  while (!present.has(now)) now = trace.parent[now];
  const list = document.createDocumentFragment();
  for (const node of order) list.append(rowOf(node));
  at("tree").replaceChildren(list);
  select(now);
  const nodes = trace.parent.length;
  at("shown").textContent = `${count(order.length)} of ${count(nodes)} nodes shown`;
}

function rowOf(node) {
  let row = rows.get(node);
  if (!row) rows.set(node, row = newRow(node));
  if (row.query !== query) highlight(row);
  const siblings = node ? children[trace.parent[node]].filter(visible) : [0];
  const inner = children[node].some(visible);
  row.setAttribute("aria-posinset", siblings.indexOf(node) + 1);
  row.setAttribute("aria-setsize", siblings.length);
  if (inner) row.setAttribute("aria-expanded", open.has(node));
  else row.removeAttribute("aria-expanded");
  const below = inner && !open.has(node) ? `+${count(size[node] - 1)}` : "";
  row.querySelectorAll(".tag")[1].textContent = trace.finished[node] ? "■" : below;
  return row;
}

function newRow(node) {
  const row = at("line").content.firstElementChild.cloneNode(true);
  const levels = Math.min(depth[node], DEEPEST);
  row.id = `node-${node}`;
  row.node = node;
  row.setAttribute("aria-level", depth[node] + 1);
  row.classList.toggle("best", best.has(node));
  row.classList.toggle("never", !trace.visits[node]);
  row.querySelector(".guides").style.width = `calc(${levels} * var(--indent))`;
  if (depth[node] > DEEPEST) row.querySelector(".deep").textContent = depth[node];
  row.querySelector(".tag").className = `tag said ${kind(node)}`;
  const numbers = row.querySelectorAll(".number");
  numbers[0].textContent = count(trace.visits[node]);
  numbers[1].textContent = number(value(node));
  numbers[2].textContent = number(logprob(node));
  row.setAttribute("aria-label", [label(node), verdict(node) && `verdict ${verdict(node)}`,
    `${count(trace.visits[node])} visits`, `value ${number(value(node))}`,
    `log-prob ${number(logprob(node))}`, trace.finished[node] && "finished",
    best.has(node) && "on the best path"].filter(Boolean).join(", "));
  highlight(row);
  measure(row);
  return row;
}

function highlight(row) {
  row.query = query;
  fill(row.querySelector(".text"), line(row.node));
  fill(row.querySelector(".said"), said(row.node));
}

function fill(target, text) {
  // split() with a group gives plain text and matches in turn
  target.replaceChildren(...(query ? text.split(query) : [text]).map((part, i) =>
    i % 2 ? element("mark", part) : part));
}

function measure(row) {
  const node = row.node, visits = trace.visits, bar = row.querySelector(".bar i");
  const all = Math.max(visits[0], 1), above = visits[trace.parent[node]] ?? all;
  const high = value(node) === null ? null
    : (value(node) - scale[0]) / (scale[1] - scale[0]);
  const length = {
    visits: Math.log1p(visits[node]) / Math.log1p(all),
    share: visits[node] / Math.max(above, 1),
    value: high ?? 0,
  }[at("length").value];
  bar.style.width = `${100 * Math.min(length, 1)}%`;
  bar.style.background = high === null ? "none" : `color-mix(in oklab, var(--${
    high < .5 ? "low" : "high"}) ${Math.abs(200 * high - 100)}%, var(--middle))`;
}

function select(node) {
  marked?.classList.remove("now");
  marked?.removeAttribute("aria-selected");
  now = node;
  marked = rows.get(now);
  marked.classList.add("now");
  marked.setAttribute("aria-selected", "true");
  at("tree").setAttribute("aria-activedescendant", `node-${now}`);
  describe(now);
}

function go(node) {
  const hidden = pathTo(node).slice(0, -1).filter((above) => !open.has(above));
  hidden.forEach((above) => open.add(above));
  if (hidden.length) render();
  select(node);
  rows.get(node).scrollIntoView({block: "nearest"});
}

function toggle(node, wanted = !open.has(node)) {
  if (wanted) open.add(node); else open.delete(node);
  now = node;
  render();
}

function describe(node) {
  const path = pathTo(node), visits = trace.visits, above = visits[trace.parent[node]];
  const share = above ? ` (${(100 * visits[node] / above).toFixed(0)} % of parent's)` : "";
  const odds = logprob(node);
  const chances = path.slice(1).map(logprob);
  const whole = chances.includes(null) ? null : chances.reduce((a, b) => a + b, 0);
  const facts = {
    visits: count(visits[node]) + share,
    "value, mean return": number(value(node)),
    "guide's value": number(trace.raw_value[node]),
    "log-prob of the step": number(odds),
    "probability of the step": number(odds === null ? null : Math.exp(odds)),
    "log-prob of the path": number(node ? whole : null),
    verdict: verdict(node) || "unknown",
    finished: trace.finished[node] ? "yes" : "no",
    depth: depth[node],
    "children, nodes below": `${children[node].length}, ${count(size[node] - 1)}`,
    "node, action": node ? `${node}, ${trace.action[node]}` : `${node}`,
  };
  const list = element("dl");
  for (const [name, fact] of Object.entries(facts))
    list.append(element("dt", name), element("dd", fact,
      name === "verdict" ? kind(node) : ""));
  const steps = element("ol");
  for (const step of path.slice(1))
    steps.append(element("li", label(step), kind(step) === "bad" ? "bad" : ""));
  const keys = element("p", "", "keys");
  ["↑", "↓", " move  ", "←", "→", " close, open  ", "/", " find  ", "*", " open all below"]
    .forEach((key) => keys.append(key.length > 1 ? key : element("kbd", key)));
  at("node").replaceChildren(element("h2", label(node)), list,
    ...(path.length > 1 ? [element("h3", "Steps up to here"), steps] : []), keys);
}

function find() {
  const words = at("find").value;
  const escaped = words.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
  query = words.trim() ? new RegExp(`(${escaped})`, "iu") : null;
  hits = query ? walk(() => true).filter((node) =>
    node && (query.test(line(node)) || query.test(said(node)))) : [];
  // A few are all shown at once; many, one after the other.
  for (const node of hits.length <= 100 ? hits : hits.slice(0, 1))
    pathTo(node).slice(0, -1).forEach((above) => open.add(above));
  render();
  if (hits.length) go(hits[0]);
  told();
}

function told() {
  const place = hits.indexOf(now) + 1;
  at("found").textContent = !query ? "" : !hits.length ? "none"
    : `${place ? `${count(place)} of ` : ""}${count(hits.length)}`;
}

const under = (event) => event.target.closest(".row")?.node;
at("tree").addEventListener("click", (event) => {
  const node = under(event);
  if (node === undefined || !getSelection().isCollapsed) return;
  if (children[node].some(visible)) toggle(node); else select(node);
});
at("tree").addEventListener("mouseover", (event) => describe(under(event) ?? now));
at("tree").addEventListener("mouseleave", () => describe(now));
at("tree").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const place = order.indexOf(now), inner = children[now].filter(visible);
  const page = Math.max(1, Math.floor(at("trees").clientHeight / 27) - 2);
  const moves = {
    ArrowDown: () => go(order[Math.min(place + 1, order.length - 1)]),
    ArrowUp: () => go(order[Math.max(place - 1, 0)]),
    PageDown: () => go(order[Math.min(place + page, order.length - 1)]),
    PageUp: () => go(order[Math.max(place - page, 0)]),
    Home: () => go(0),
    End: () => go(order.at(-1)),
    ArrowRight: () => {
      if (inner.length && !open.has(now)) toggle(now, true);
      else if (inner.length) go(inner[0]);
    },
    ArrowLeft: () => {
      if (inner.length && open.has(now)) toggle(now, false);
      else if (now) go(trace.parent[now]);
    },
    Enter: () => inner.length && toggle(now),
    " ": () => inner.length && toggle(now),
    "*": () => {
      const below = [now];
      for (const inside of below) below.push(...children[inside]);
      below.forEach((inside) => open.add(inside));
      render();
    },
  };
  if (!moves[event.key]) return;
  event.preventDefault();
  moves[event.key]();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, select")) return;
  event.preventDefault();
  at("find").focus();
});
at("find").addEventListener("input", find);
at("find").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !hits.length) return;
  const step = event.shiftKey ? -1 : 1, place = hits.indexOf(now);
  go(hits[(Math.max(place, step < 0 ? 0 : place) + step + hits.length) % hits.length]);
  told();
});
at("best").addEventListener("click", () => {
  openBest();
  go(now);
});
at("expand").addEventListener("click", () => {
  open = new Set(trace.parent.keys());
  render();
});
at("collapse").addEventListener("click", () => {
  open = new Set();
  render();
});
for (const id of ["visits", "depth"])
  at(id).addEventListener("input", () => query ? find() : render());
at("length").addEventListener("change", () => {
  at("drawn").textContent = at("length").selectedOptions[0].textContent;
  rows.forEach(measure);
});
at("theme").addEventListener("click", () => {
  const root = document.documentElement.style;
  const dark = root.colorScheme ? root.colorScheme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.colorScheme = dark ? "light" : "dark";
});

summaries.forEach((summary, i) => {
  const mark = {right: "✓", wrong: "✗"}[summary.answer_verdict] ?? "·";
  const text = `${i + 1}. ${mark} ${summary.question} (${summary.method})`;
  at("which").append(element("option", text.slice(0, 120)));
});
document.querySelector("nav").hidden = summaries.length < 2;
function turn(by) {
  const which = at("which"), trees = summaries.length;
  which.selectedIndex = (which.selectedIndex + by + trees) % trees;
  load(which.selectedIndex);
}
at("which").addEventListener("change", () => turn(0));
at("before").addEventListener("click", () => turn(-1));
at("after").addEventListener("click", () => turn(1));
at("length").selectedIndex = at("which").selectedIndex = 0;
at("drawn").textContent = at("length").selectedOptions[0].textContent;
load(0);
