// The grading page: answers a key at once, keeps every judgement until the server has written it.
"use strict";

const $ = (id) => document.getElementById(id);
const TOKEN = location.pathname.split("/")[1];
const QUEUE = `zwicky:${TOKEN}:queue:`; // one key a tab: a judgement that no server has confirmed survives the tab
const TAB = QUEUE + Math.random().toString(36).slice(2);
const NAMES = { A: "certain lens", B: "probable lens", C: "possible lens", X: "no lens" };
const BLANK = { grade: "", subclass: "", comment: "", time: "" };
const DEFAULTS = {
  view: "mosaic", cursor: 0, perPage: 100, cell: 100, stretch: "auto", band: -1, colours: "gray", low: 0.5, high: 99.5, zoom: 1, flip: 0,
  score: false, filter: "all",
};
let settings = { ...DEFAULTS };
let slots; // columns: id, repeat, row, ra, dec, score
let keys, bands, seq;
let judged = []; // by slot: { grade, subclass, comment, time }, or undefined
let list = []; // slots that the filter shows; `settings.cursor` is a position in it
let slotOf = new Map();
let graded = 0;
let undoable = [];
let queue = [];
let sending = false;
let failure = "";
let shownAt = performance.now();

// ---- judgements: shown first, kept in localStorage, sent, removed when the server has them

const of = (slot) => judged[slot] ?? BLANK;
const now = () => new Date().toISOString();

function judge(slot, change, view = settings.view) {
  const previous = of(slot);
  const next = { ...previous, ...change, time: now() };
  if (view !== "undo") undoable.push([slot, previous]);
  record(slot, next);
  const seconds = Math.round(performance.now() - shownAt) / 1000;
  shownAt = performance.now();
  queue.push({ key: crypto.randomUUID(), id: slots.id[slot], repeat: slots.repeat[slot], ...next, seconds, view });
  keep();
  setTimeout(send);
}

function record(slot, next) {
  graded += Boolean(next.grade) - Boolean(of(slot).grade);
  judged[slot] = next;
}

function keep() {
  try {
    if (queue.length) localStorage.setItem(TAB, JSON.stringify(queue));
    else localStorage.removeItem(TAB);
  } catch { /* private mode or a full profile: the queue in memory is all there is, and closing the tab asks */ }
}

function adopt() { // what other tabs, closed or killed, could not deliver; the server drops what it has already
  for (const name of Object.keys(localStorage).filter((name) => name.startsWith(QUEUE))) {
    for (const item of JSON.parse(localStorage.getItem(name))) {
      const slot = slotOf.get(`${item.repeat} ${item.id}`); // undefined for an object of another session
      if (slot !== undefined && item.time >= of(slot).time) record(slot, item);
      queue.push(item);
    }
    localStorage.removeItem(name);
  }
  keep();
}

async function send() {
  if (sending) return;
  sending = true;
  const batch = queue.slice(0, 500);
  try {
    const body = JSON.stringify({ judgements: batch, since: seq });
    const answer = await fetch("judgements", { method: "POST", body, priority: "high", keepalive: body.length < 60000 });
    if (!answer.ok) throw new Error(answer.status === 507 ? `the judgements cannot be written (${await answer.text()})` : `the server answers ${answer.status}`);
    const changes = await answer.json();
    queue = queue.slice(batch.length);
    keep();
    seq = changes.seq;
    const returned = Boolean(failure);
    failure = "";
    if (apply(changes.judgements) || returned) draw();
  } catch (error) {
    failure = error instanceof TypeError ? "the server is gone; start `zwicky grade` again" : error.message;
  }
  sending = false;
  status();
  if (!failure && queue.length) send();
}

function apply(rows) { // judgements from the file: of this tab, of another one, of an earlier session
  const waiting = new Set(queue.map((item) => `${item.repeat} ${item.id}`));
  let changed = false;
  for (const { id, repeat, ...row } of rows) {
    const slot = slotOf.get(`${repeat} ${id}`);
    if (slot === undefined || waiting.has(`${repeat} ${id}`) || row.time <= of(slot).time) continue;
    record(slot, row);
    changed = true;
  }
  return changed;
}

function status() {
  $("saved").textContent = queue.length ? `${queue.length} waiting` : "saved";
  $("alert").hidden = !failure;
  const kept = queue.length === 1 ? "1 judgement is" : `${queue.length} judgements are`;
  $("alert").textContent = failure && `Not saved: ${failure}. ${kept} kept in this browser and sent again every 2 seconds; keep grading.`;
}

// ---- drawing

function url(slot) {
  const limits = settings.stretch === "auto" ? "" : `&low=${settings.low}&high=${settings.high}`;
  return `thumb/${slots.row[slot]}.png?stretch=${settings.stretch}&band=${settings.band}${limits}${settings.band < 0 ? "" : `&colours=${settings.colours}`}`;
}

const current = () => list[settings.cursor];
const page = () => Math.floor(settings.cursor / settings.perPage);
const pageSlots = (number = page()) => list.slice(number * settings.perPage, (number + 1) * settings.perPage);

function about(slot) {
  if (!settings.score) return "";
  const score = slots.score[slot];
  return slots.id[slot] + (score === null ? "" : `, score ${score.toPrecision(3)}`);
}

function draw() {
  settings.cursor = Math.max(0, Math.min(settings.cursor, list.length - 1));
  const mosaic = settings.view === "mosaic";
  $("mosaic").hidden = !mosaic || !list.length;
  $("single").hidden = mosaic || !list.length;
  $("empty").hidden = list.length > 0;
  $("rest").hidden = !mosaic;
  $("to-mosaic").setAttribute("aria-pressed", mosaic);
  $("to-single").setAttribute("aria-pressed", !mosaic);
  if (list.length) (mosaic ? drawMosaic : drawSingle)();
  $("bar").value = graded / slots.id.length;
  $("count").textContent = `${graded} of ${slots.id.length} graded`;
  const pages = Math.ceil(list.length / settings.perPage);
  $("position").textContent = mosaic ? `page ${page() + 1} / ${pages}` : `${settings.cursor + 1} / ${list.length}`;
  for (const button of $("grades").children) button.setAttribute("aria-pressed", list.length > 0 && of(current()).grade === button.dataset.grade);
  status();
  save();
}

function drawMosaic() {
  const shown = pageSlots(), grid = $("mosaic");
  while (grid.children.length > shown.length) grid.lastChild.remove();
  while (grid.children.length < shown.length) grid.append(makeCell(grid.children.length));
  shown.forEach((slot, k) => drawCell(grid.children[k], slot, k));
  prefetch(pageSlots(page() + 1));
}

function makeCell(k) {
  const cell = document.createElement("button");
  cell.type = "button";
  cell.append(document.createElement("img"), document.createElement("span"), document.createElement("small"));
  cell.children[1].className = "badge";
  cell.firstChild.alt = "";
  cell.addEventListener("click", (event) => {
    if (cell.dataset.held) { delete cell.dataset.held; return; }
    if (event.detail) touch(k, event.shiftKey ? "B" : "A"); // a click of the mouse, not Enter on the button
  });
  let timer;
  cell.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch") timer = setTimeout(() => { cell.dataset.held = "1"; touch(k, "B"); }, 500);
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) cell.addEventListener(end, () => clearTimeout(timer));
  cell.addEventListener("contextmenu", (event) => event.preventDefault());
  return cell;
}

function touch(k, grade) {
  settings.cursor = page() * settings.perPage + k;
  judge(current(), { grade: of(current()).grade === grade ? "" : grade, subclass: "" });
  draw();
}

function drawCell(cell, slot, k) {
  const { grade, subclass, comment } = of(slot), isCurrent = page() * settings.perPage + k === settings.cursor;
  const source = url(slot);
  if (cell.dataset.source !== source || failure) { cell.firstChild.src = source; cell.dataset.source = source; }
  cell.className = `cell ${grade}${isCurrent ? " current" : ""}`;
  cell.children[1].textContent = grade + (comment ? "…" : "");
  cell.children[2].textContent = about(slot);
  cell.children[2].hidden = !settings.score;
  cell.tabIndex = isCurrent ? 0 : -1;
  cell.setAttribute("aria-label", `Image ${page() * settings.perPage + k + 1}, ${grade ? `grade ${grade}` : "ungraded"}${subclass ? `, ${subclass}` : ""}`);
}

function drawSingle() {
  const slot = current(), { grade, subclass, comment } = of(slot);
  $("image").src = url(slot);
  $("image").alt = `Image ${settings.cursor + 1}`;
  document.querySelector(".shot").className = `shot ${grade}`;
  $("badge").textContent = grade;
  const ra = slots.ra[slot], dec = slots.dec[slot], hasPosition = ra !== null && dec !== null;
  $("facts").textContent = [`Image ${settings.cursor + 1}`, grade ? `grade ${grade}, ${NAMES[grade]}` : "ungraded", subclass].filter(Boolean).join(" · ");
  $("known").textContent = [about(slot), settings.score && hasPosition ? `${ra.toFixed(5)}, ${dec.toFixed(5)}` : ""].filter(Boolean).join(" · ");
  $("context").parentElement.hidden = !hasPosition;
  if (hasPosition) $("context").href = `https://www.legacysurvey.org/viewer?ra=${ra}&dec=${dec}&zoom=16`;
  if (document.activeElement !== $("comment")) $("comment").value = comment;
  for (const button of $("subclasses").children) button.setAttribute("aria-pressed", subclass === button.dataset.subclass);
  prefetch(list.slice(settings.cursor + 1, settings.cursor + 5));
}

const fetched = new Map(); // pictures that the next step needs, by address
function prefetch(next) {
  for (const slot of next) {
    const source = url(slot);
    if (fetched.has(source)) continue;
    const image = new Image();
    image.fetchPriority = "low"; // after the pictures on the screen
    image.src = source;
    fetched.set(source, image);
    if (fetched.size > 1000) fetched.delete(fetched.keys().next().value);
  }
}

function announce() {
  const { grade, subclass } = of(current());
  $("live").textContent = `Image ${settings.cursor + 1}, ${grade ? `grade ${grade} ${subclass}` : "ungraded"}`;
  if (settings.view === "mosaic" && !$("keys").open) {
    const cell = $("mosaic").children[settings.cursor % settings.perPage];
    cell?.focus({ preventScroll: true });
    cell?.scrollIntoView({ block: "nearest" });
  }
}

// ---- moving

function go(cursor) {
  commitComment();
  const oldPage = page();
  settings.cursor = Math.max(0, Math.min(cursor, list.length - 1));
  if (settings.view === "single" || page() !== oldPage) shownAt = performance.now();
  draw();
  announce();
}

function nextUngraded(from) {
  for (let k = 0; k < list.length; k++) {
    const cursor = (from + k) % list.length;
    if (!of(list[cursor]).grade) return cursor;
  }
  return -1;
}

function grade(change) {
  const slot = current(), wasGraded = Boolean(of(slot).grade);
  judge(slot, change);
  const next = wasGraded ? -1 : nextUngraded(settings.cursor + 1);
  const isNear = settings.view === "single" || Math.floor(next / settings.perPage) === page();
  go(next >= 0 && isNear ? next : settings.cursor + 1);
}

function show(view) {
  commitComment();
  settings.view = view;
  shownAt = performance.now();
  draw();
  announce();
}

function refilter() {
  const slot = current(), filter = settings.filter, all = slots.id.map((_, index) => index);
  const tests = { all: () => true, ungraded: (index) => !of(index).grade, comment: (index) => of(index).comment };
  list = all.filter(tests[filter] ?? ((index) => of(index).grade === filter));
  settings.cursor = Math.max(0, list.findIndex((index) => index >= (slot ?? 0)));
}

function commitComment() {
  const slot = current(), text = $("comment").value.trim();
  if (settings.view === "single" && slot !== undefined && text !== of(slot).comment) judge(slot, { comment: text });
}

// ---- actions and keys

const pageStep = (step) => go(Math.max(0, (page() + step) * settings.perPage));
const cycle = (id, values) => { settings[id] = values[(values.indexOf(settings[id]) + 1) % values.length]; change(); };
const ACTIONS = {
  "next page": () => pageStep(1),
  "previous page": () => pageStep(-1),
  "rest X": () => {
    for (const slot of pageSlots()) if (!of(slot).grade) judge(slot, { grade: "X" });
    pageStep(1);
  },
  undo: () => {
    commitComment();
    const last = undoable.pop();
    if (!last) return;
    judge(last[0], { ...last[1] }, "undo");
    const cursor = list.indexOf(last[0]);
    go(cursor < 0 ? settings.cursor : cursor);
  },
  comment: () => {
    if (settings.view === "mosaic") show("single");
    $("comment").focus();
  },
  "next ungraded": () => {
    const next = nextUngraded(settings.cursor + 1);
    if (next >= 0) go(next);
  },
  view: () => show(settings.view === "mosaic" ? "single" : "mosaic"),
  score: () => { settings.score = !settings.score; change(); },
  context: () => { if (settings.view === "single" && !$("context").parentElement.hidden) $("context").click(); },
  help: () => $("keys").showModal(),
  stretch: () => cycle("stretch", [...$("stretch").options].map((option) => option.value)),
  bands: () => cycle("band", [...$("band").options].map((option) => Number(option.value))),
  "zoom in": () => { settings.zoom = Math.min(6, settings.zoom + 0.5); change(); },
  "zoom out": () => { settings.zoom = Math.max(1, settings.zoom - 0.5); change(); },
  flip: () => cycle("flip", [0, 1, 2, 3]),
};

function act(key) {
  const single = settings.view === "single";
  const columns = single ? 1 : getComputedStyle($("mosaic")).gridTemplateColumns.split(" ").length;
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  const action = bindings[settings.view][key] ?? bindings[settings.view][key.toLowerCase()];
  if (key === "Enter" && !single) show("single");
  else if (key === "Escape" && single) show("mosaic");
  else if (key === "Backspace") ACTIONS.undo();
  else if (key in moves) go(settings.cursor + moves[key]);
  else if (!action) return false;
  else action();
  return true;
}

let bindings; // by view: key → function
function bind() {
  const flip = (actions, make) => Object.fromEntries(Object.entries(actions).map(([action, key]) => [key, make(action)]));
  const both = { ...flip(keys.both, (action) => ACTIONS[action]), ...flip(keys.grades, (letter) => () => grade(letter === "X" ? { grade: "X" } : { grade: letter, subclass: "" })) };
  bindings = {
    single: { ...both, ...flip(keys.subclasses, (subclass) => () => grade({ grade: "X", subclass })) },
    mosaic: { ...both, ...flip(keys.mosaic, (action) => ACTIONS[action]) },
  };
}

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input:not([type=range], [type=checkbox]), select");
  if (event.target === $("comment") && ["Enter", "Escape"].includes(event.key)) {
    if (event.key === "Escape") $("comment").value = of(current()).comment;
    $("comment").blur();
    commitComment();
    draw();
  } else if (event.altKey || event.metaKey || isTyping || $("keys").open || !list.length) {
    return;
  } else if (event.ctrlKey) {
    if (event.key !== "z") return;
    ACTIONS.undo();
  } else if (event.key === "Enter" && event.target.matches("button:not(.cell), summary, a")) {
    return;
  } else if (!act(event.key)) {
    return;
  }
  event.preventDefault();
});

// ---- settings and start

function save() {
  try { localStorage.setItem(`zwicky:${TOKEN}:settings`, JSON.stringify({ ...settings, slot: current() })); } catch { /* not kept */ }
}

function change() {
  const root = document.documentElement.style;
  root.setProperty("--cell", `${settings.cell}px`);
  root.setProperty("--sx", settings.zoom * (settings.flip & 1 ? -1 : 1));
  root.setProperty("--sy", settings.zoom * (settings.flip & 2 ? -1 : 1));
  const inputs = { stretch: "stretch", band: "band", colours: "colours", low: "low", high: "high", zoom: "zoom", flip: "flip", perPage: "per-page", cell: "cell", filter: "filter" };
  for (const [name, id] of Object.entries(inputs)) $(id).value = settings[name];
  $("score").checked = settings.score;
  $("colours").disabled = settings.band < 0;
  draw();
}

function button(parent, text, key, data, run) {
  const made = document.createElement("button");
  made.type = "button";
  label(made, text, key);
  Object.assign(made.dataset, data);
  made.addEventListener("click", run);
  parent.append(made);
  return made;
}

function label(element, text, key) {
  const kbd = document.createElement("kbd");
  kbd.textContent = key;
  element.replaceChildren(text, kbd);
}

function build() {
  for (const [letter, key] of Object.entries(keys.grades)) {
    const made = button($("grades"), letter, key, { grade: letter }, () => list.length && bindings[settings.view][key]());
    made.classList.add(letter);
    made.setAttribute("aria-label", `${letter}, ${NAMES[letter]}`);
  }
  for (const [subclass, key] of Object.entries(keys.subclasses)) {
    button($("subclasses"), subclass, key, { subclass }, () => grade({ grade: "X", subclass }));
  }
  label($("rest"), "Rest X", keys.mosaic["rest X"]);
  label($("ungraded"), "Ungraded", keys.both["next ungraded"]);
  label($("undo"), "Undo", keys.both.undo);
  const clicks = {
    "to-mosaic": () => show("mosaic"), "to-single": () => show("single"), help: ACTIONS.help, undo: ACTIONS.undo,
    rest: ACTIONS["rest X"], ungraded: ACTIONS["next ungraded"],
    previous: () => (settings.view === "mosaic" ? pageStep(-1) : go(settings.cursor - 1)),
    next: () => (settings.view === "mosaic" ? pageStep(1) : go(settings.cursor + 1)),
    display: () => { $("panel").hidden = !$("panel").hidden; $("display").setAttribute("aria-expanded", !$("panel").hidden); },
  };
  for (const [id, run] of Object.entries(clicks)) $(id).addEventListener("click", run);
  for (const [group, actions] of Object.entries(keys)) {
    for (const [action, key] of Object.entries(actions)) {
      const line = document.createElement("p"), kbd = document.createElement("kbd");
      kbd.textContent = key;
      line.append(kbd, group === "grades" ? `${action}: ${NAMES[action]}` : action, group === "mosaic" ? " (mosaic)" : group === "subclasses" ? " (single)" : "");
      $("key-list").append(line);
    }
  }
  const option = (select, value, text) => { const made = new Option(text, value); select.append(made); };
  const composite = bands.length > 1 ? [["-1", "colour"]] : [];
  for (const [value, text] of [...composite, ...bands.map((band, k) => [String(k), band])]) option($("band"), value, text);
  const numbers = { low: "low", high: "high", zoom: "zoom", flip: "flip", "per-page": "perPage", cell: "cell", band: "band" };
  $("panel").addEventListener("submit", (event) => event.preventDefault());
  $("panel").addEventListener("input", (event) => {
    const id = event.target.id, name = numbers[id] ?? id;
    const value = id === "score" ? event.target.checked : id in numbers ? Number(event.target.value) : event.target.value;
    if ((id === "low" && !(value >= 0 && value < settings.high)) || (id === "high" && !(value > settings.low && value <= 100))) return;
    const slot = current();
    settings[name] = value;
    if (id === "filter") refilter();
    if (id === "per-page") settings.cursor = Math.max(0, list.indexOf(slot));
    change();
  });
  $("comment").addEventListener("input", () => { clearTimeout(build.timer); build.timer = setTimeout(commitComment, 700); });
  $("comment").addEventListener("change", commitComment);
}

async function start() {
  const answer = await fetch("state");
  const state = await answer.json();
  ({ slots, keys, bands, seq } = state);
  $("grader").textContent = state.grader;
  for (const name of ["stretch", "colours"]) {
    for (const value of state[name === "stretch" ? "stretches" : name]) $(name).append(new Option(value, value));
  }
  slotOf = new Map(slots.id.map((id, slot) => [`${slots.repeat[slot]} ${id}`, slot]));
  apply(state.judgements);
  adopt();
  let saved = {};
  try { saved = JSON.parse(localStorage.getItem(`zwicky:${TOKEN}:settings`)) ?? {}; } catch { /* defaults */ }
  settings = { ...DEFAULTS, cell: innerWidth < 700 ? 84 : 100, ...(bands.length === 1 ? { band: 0 } : {}), ...saved };
  bind();
  build();
  refilter();
  const last = state.judgements.at(-1); // in another browser the session resumes after the latest judgement
  const slot = saved.slot ?? (last ? slotOf.get(`${last.repeat} ${last.id}`) : 0);
  settings.cursor = Math.max(0, list.findIndex((index) => index >= slot));
  if (saved.slot === undefined) settings.cursor = Math.max(0, nextUngraded(settings.cursor));
  change();
  announce();
  addEventListener("beforeunload", (event) => { commitComment(); if (queue.length && failure) event.preventDefault(); });
  addEventListener("pagehide", commitComment);
  setInterval(() => { if (queue.length || !document.hidden) send(); }, 2000);
}

start().catch((error) => { $("alert").hidden = false; $("alert").textContent = `The page cannot start: ${error.message}. Open the address that \`zwicky grade\` printed.`; });
