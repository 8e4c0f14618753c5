"use strict";
// Contents: items and users are rows of columns; other places name an item by its row.
const { models, items, users, views, maps, notes, k } =
  JSON.parse(document.getElementById("contents").textContent);
const SHOWN = 100; // entries of a list of finds
const byId = id => document.getElementById(id);
const title = row => items.title?.[row] || items.token[row];

// ---- drawing: text enters as text, never as HTML ------------------------------------------------------
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value);
  made.append(...children.flat().filter(child => child !== null && child !== undefined));
  return made;
}
const itemLink = row => element("a", { href: `#item/${encodeURIComponent(items.token[row])}` }, title(row));
const number = value => value.toLocaleString("en");
const percent = value => `${(100 * value).toFixed(0)} %`;

function itemList(rows, { score = () => "", heldOut = -1, first = 1 } = {}) {
  const entry = (row, at) => element("li", { class: row === heldOut ? "held-out" : null },
    element("span", { class: "place" }, String(first + at)),
    element("span", {}, itemLink(row), row === heldOut ? " (held out)" : ""),
    element("span", { class: "score" }, score(at)));
  return element("ol", { class: "list" }, rows.map(entry));
}
const column = (heading, note, body) =>
  element("section", {}, element("h3", {}, heading), note && element("p", { class: "note" }, note), body);

// ---- users --------------------------------------------------------------------------------------------
const inTheList = (model, user) => models[model].rank[user] <= k;
const choices = [["anywhere", () => true], ...models.flatMap((model, at) => [
  [`among the ${k} of ${model.name}`, user => inTheList(at, user)],
  [`not among the ${k} of ${model.name}`, user => !inTheList(at, user)]])];
if (models.length === 2)
  models.forEach((model, at) => choices.push(
    [`among the ${k} of ${model.name} alone`, user => inTheList(at, user) && !inTheList(1 - at, user)]));

let usersFound = [];
function findUsers() {
  const wanted = byId("find-user").value.trim().toLowerCase();
  const choice = choices[byId("which-users").selectedIndex][1];
  usersFound = users.token.map((_, user) => user)
    .filter(user => choice(user) && users.token[user].toLowerCase().includes(wanted));
  byId("user-count").textContent = `${number(usersFound.length)} of ${number(users.token.length)} users`;
  byId("users-found").replaceChildren(...usersFound.slice(0, SHOWN).map(user => element("li", {},
    element("a", { href: `#user/${encodeURIComponent(users.token[user])}` }, users.token[user], " ",
      element("small", {}, `${number(users.length[user])} items`)))));
  markCurrent("users-found");
}
function showUser(user) {
  const history = users.history[user].slice().reverse();
  const target = users.target[user];
  const left = users.length[user] - history.length;
  byId("one-user").replaceChildren(
    element("h2", {}, `User ${users.token[user]}`),
    element("dl", { class: "facts" }, element("dt", {}, "held out"), element("dd", {}, itemLink(target)),
      models.flatMap(model => [element("dt", {}, model.name), element("dd", {}, "place ",
        element("mark", {}, number(model.rank[user])),
        ` of the unseen items, ${number(model.rankAll[user])} of all items`)])),
    element("div", { class: "columns" },
      models.map(model => column(model.name, "recommends", itemList(model.items[user],
        { heldOut: target, score: at => model.scores[user][at].toFixed(2) }))),
      column("History", "the latest first" + (left > 0 ? `; ${number(left)} earlier ones are not shown` : ""),
        itemList(history, {}))));
}

// ---- items --------------------------------------------------------------------------------------------
const words = items.token.map((token, row) => `${token} ${items.title?.[row] ?? ""}`.toLowerCase());
const byCount = items.token.map((_, row) => row).sort((a, b) => items.count[b] - items.count[a] || a - b);
function findItems() {
  const wanted = byId("find-item").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = byCount.filter(row => wanted.every(word => words[row].includes(word)));
  byId("item-count").textContent = `${number(found.length)} of ${number(words.length)} items, the most frequent first`;
  byId("items-found").replaceChildren(
    ...found.slice(0, SHOWN).map(row => element("li", {}, itemLink(row))));
  markCurrent("items-found");
}
const gauge = share => element("span", {},
  element("span", { class: "gauge", "aria-hidden": "true" }, element("span", { style: `width:${100 * share}%` })),
  percent(share));
function facts(row) {
  const pairs = [["token", items.token[row]], ["training interactions", number(items.count[row])]];
  if (items.category) pairs.push(["latent category", String(items.category[row])]);
  if (items.inferred)
    pairs.push(["inferred by the language model",
      items.inferred[row].map(([category, share]) => `${category} (${percent(share)})`).join(", ")]);
  if (items.gate) pairs.push(["gate: share of the id embedding", gauge(items.gate[row])]);
  return element("dl", { class: "facts" },
    pairs.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]).flat());
}
function showItem(row) {
  const same = items.category
    ? byCount.filter(other => items.category[other] === items.category[row] && other !== row) : [];
  byId("one-item").replaceChildren(
    element("h2", {}, title(row)), facts(row),
    element("div", { class: "columns" },
      views.map(view => column(view.name, view.note,
        itemList(view.neighbours[row], { score: at => (view.cosines[row][at] / 1000).toFixed(3) }))),
      items.category && column(`Category ${items.category[row]}`,
        `${number(same.length + 1)} items; the most frequent others`, itemList(same.slice(0, k)))));
}

// ---- map ----------------------------------------------------------------------------------------------
const canvas = byId("canvas");
const lens = { map: 0, x: 0, y: 0, zoom: 1 };
let selected = -1;
const colour = row => items.category ? `hsl(${(items.category[row] * 137.508) % 360} 65% 50%)` : "#3778b8";
function place(point) { // from the map's unit square to the canvas
  const side = Math.min(canvas.clientWidth, canvas.clientHeight) - 24;
  return [canvas.clientWidth / 2 + (point[0] - .5 - lens.x) * side * lens.zoom,
    canvas.clientHeight / 2 + (point[1] - .5 - lens.y) * side * lens.zoom];
}
function drawMap() {
  if (!maps.length || byId("view-map").hidden) return;
  const scale = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const { rows, points } = maps[lens.map];
  const dot = (at, radius) => {
    pen.beginPath();
    pen.arc(...place(points[at]), radius, 0, 2 * Math.PI);
    pen.fill();
  };
  pen.globalAlpha = .75;
  rows.forEach((row, at) => { pen.fillStyle = colour(row); dot(at, 2.5); });
  const at = rows.indexOf(selected);
  if (at < 0) return;
  pen.globalAlpha = 1;
  pen.fillStyle = getComputedStyle(document.body).color;
  dot(at, 6);
  pen.font = "14px system-ui, sans-serif";
  const [x, y] = place(points[at]);
  const width = pen.measureText(title(selected)).width;
  pen.fillText(title(selected), Math.max(4, Math.min(x + 9, canvas.clientWidth - width - 4)), y - 9);
}
function nearestPoint(event) {
  const box = canvas.getBoundingClientRect();
  const { rows, points } = maps[lens.map];
  let best = -1, least = 144; // within 12 pixels
  points.forEach((point, at) => {
    const [x, y] = place(point);
    const distance = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
    if (distance < least) [best, least] = [rows[at], distance];
  });
  return best;
}
function zoom(factor) {
  lens.zoom = Math.min(40, Math.max(1, lens.zoom * factor));
  if (lens.zoom === 1) lens.x = lens.y = 0;
  drawMap();
}
let dragged = null;
canvas.addEventListener("pointerdown", event => {
  dragged = { x: event.clientX, y: event.clientY, moved: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", event => {
  if (dragged) {
    const side = (Math.min(canvas.clientWidth, canvas.clientHeight) - 24) * lens.zoom;
    const [right, down] = [event.clientX - dragged.x, event.clientY - dragged.y];
    if (!dragged.moved && Math.hypot(right, down) < 4) return;
    lens.x -= right / side;
    lens.y -= down / side;
    dragged = { x: event.clientX, y: event.clientY, moved: true };
    drawMap();
    return;
  }
  const row = nearestPoint(event);
  const tip = byId("map-tip");
  tip.hidden = row < 0;
  if (row < 0) return;
  tip.textContent = title(row) + (items.category ? ` (category ${items.category[row]})` : "");
  const box = canvas.getBoundingClientRect();
  tip.style.left = `${Math.max(0, Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth))}px`;
  tip.style.top = `${Math.max(0, event.clientY - box.top - tip.offsetHeight - 8)}px`;
});
canvas.addEventListener("pointerleave", () => { byId("map-tip").hidden = true; });
canvas.addEventListener("pointerup", event => {
  const row = dragged && !dragged.moved ? nearestPoint(event) : -1;
  dragged = null;
  if (row >= 0) location.hash = `#item/${encodeURIComponent(items.token[row])}`;
});
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.25 : .8);
}, { passive: false });

// ---- models -------------------------------------------------------------------------------------------
function showModels() {
  const protocols = Object.keys(models[0].metrics);
  const head = name => element("th", { scope: "col" }, name);
  const rows = protocol => Object.keys(models[0].metrics[protocol]).map(metric => element("tr", {},
    element("th", { scope: "row" }, metric),
    models.map(model => element("td", {}, model.metrics[protocol][metric].toFixed(4)))));
  byId("view-models").replaceChildren(
    element("h2", {}, "Models on the test"),
    element("dl", { class: "facts" },
      models.flatMap(model => [element("dt", {}, model.name), element("dd", {}, model.checkpoint)])),
    element("div", { class: "columns" }, protocols.map(protocol => column(protocol, null,
      element("div", { class: "scroll" }, element("table", {},
        element("thead", {}, element("tr", {}, head("metric"), models.map(model => head(model.name)))),
        element("tbody", {}, rows(protocol))))))),
    ...notes.map(note => element("p", { class: "note" }, note)));
}

// ---- what the address asks for ------------------------------------------------------------------------
const SHOW = {
  user: { of: users.token, show: showUser, list: "users-found" },
  item: { of: items.token, show: showItem, list: "items-found" },
};
function markCurrent(list) {
  for (const link of byId(list).querySelectorAll("a"))
    if (link.hash === location.hash) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
}
function follow(event) {
  const [name, token] = location.hash.slice(1).split("/");
  const view = byId(`view-${name}`) ? name : "user";
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== `view-${view}`;
  for (const link of document.querySelectorAll("nav a"))
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  if (view === "map") drawMap();
  if (!SHOW[view]) return;
  const { of, show, list } = SHOW[view];
  const asked = token === undefined ? -1 : of.indexOf(decodeURIComponent(token));
  const row = asked >= 0 ? asked : view === "item" ? byCount[0] : 0;
  if (view === "item") selected = row;
  if (of.length) show(row);
  markCurrent(list);
  if (event && asked >= 0 && window.innerWidth < 736) byId(`one-${view}`).scrollIntoView();
}

byId("which-users").append(...choices.map(([name]) => element("option", {}, name)));
byId("find-user").addEventListener("input", findUsers);
byId("which-users").addEventListener("change", findUsers);
byId("any-user").addEventListener("click", () => {
  const user = usersFound[Math.floor(Math.random() * usersFound.length)];
  if (user !== undefined) location.hash = `#user/${encodeURIComponent(users.token[user])}`;
});
byId("find-item").addEventListener("input", findItems);
for (const form of document.forms) form.addEventListener("submit", event => event.preventDefault());
byId("zoom-in").addEventListener("click", () => zoom(1.5));
byId("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
byId("zoom-all").addEventListener("click", () => zoom(0));
maps.forEach((map, at) => {
  const input = element("input", { type: "radio", name: "map", id: `map-${at}`, checked: at === 0 ? "" : null });
  input.addEventListener("change", () => { lens.map = at; drawMap(); });
  byId("which-map").append(element("label", { for: `map-${at}` }, input, map.name));
});
byId("map-note").textContent = maps.length
  ? `${number(maps[0].rows.length)} of ${number(items.token.length)} items, coloured by latent category if there are any. ` +
    "Point at one for its title; click to open it."
  : "There is no map: see Models for why.";
window.addEventListener("hashchange", follow);
window.addEventListener("resize", drawMap);
findUsers();
findItems();
showModels();
follow();
