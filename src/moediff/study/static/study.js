"use strict";
// Page of a reader study. It talks to a server, or, in an offline file, to the data in the page and the browser's storage.

const $ = (id) => document.getElementById(id);
const make = (kind, text = "", attributes = {}) => {
  const element = document.createElement(kind);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const ticket = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

class Stale extends Error {}
class Refused extends Error {}

const server = {
  fault: "No connection",
  async call(address, sent) {
    const csrf = document.querySelector("meta[name=csrf]").content;
    const options = sent ? { method: "POST", body: JSON.stringify(sent), headers: { "x-csrf": csrf } } : {};
    const response = await fetch(address, options);
    const found = await response.json();
    if (response.status === 409) throw new Stale(found.message);
    if (!response.ok) throw new Refused(found.message);
    return found;
  },
  trial() { return this.call("/trial"); },
  answer(sent) { return this.call("/answer", sent); },
  undo(trial) { return this.call("/undo", { trial }); },
  source(view, panel, index) { return `/image/${view.trial}/${panel}/${index}.png`; },
};

function offline(data) {
  const name = `study ${data.study} ${data.reader}`;
  let undone = 0;
  // Read each time, since another tab may have answered, and kept nowhere else: what is not stored is no answer.
  const stored = () => JSON.parse(localStorage.getItem(name) || "[]");
  const store = (answers) => localStorage.setItem(name, JSON.stringify(answers));
  const view = () => {
    const done = stored().length;
    if (done >= data.views.length) return { finished: true, of: data.views.length, undo: 0 };
    return { ...data.views[done], undo: undone === done + 1 ? 0 : data.views[done].undo };
  };
  return {
    fault: "This browser stores nothing for this page: its storage is full or blocked",
    async trial() { return view(); },
    async answer(sent) {
      const answers = stored();
      if (sent.trial !== answers.length + 1) throw new Stale("This trial was answered already.");
      store([...answers, { ...sent, answered_at: new Date().toISOString() }]);
      return view();
    },
    async undo(trial) {
      const answers = stored();
      if (trial !== answers.length) throw new Stale("Only the last answer can be taken back.");
      store(answers.slice(0, -1));
      undone = trial;
      return view();
    },
    source(view, panel, index) { return `data:image/png;base64,${data.images[data.panels[view.trial - 1][panel]][index]}`; },
    file() {
      const content = { schema: 1, study: data.study, reader: data.reader, answers: stored() };
      return new Blob([JSON.stringify(content, null, 1)], { type: "application/json" });
    },
    fileName: `answers-${data.study}-${data.reader_number}.json`,
  };
}

const packed = $("offline");
const backend = packed ? offline(JSON.parse(packed.textContent)) : server;

let view = null; // the trial on screen
let pictures = {}; // panel -> slices as images
let index = 0; // the slice shown
let started = 0; // when the pictures were complete
let marks = [];
let scores = {};
let sending = null; // an answer that has not arrived
let ready = false; // pictures are complete, and no answer is on its way
let bright = 1, contrast = 1;

const say = (text) => { $("message").textContent = text; };

async function show(next) {
  view = next;
  [marks, scores, pictures, sending, ready] = [[], {}, {}, null, false];
  $("undo").hidden = !view.undo;
  $("controls").replaceChildren();
  if (view.finished) return finish();
  $("progress").textContent = `${view.training ? "Training, t" : "T"}rial ${view.trial} of ${view.of}`;
  if (view.pause_days !== null) return pause();
  return load();
}

function words(...parts) {
  const box = make("div");
  box.className = "words";
  box.append(...parts);
  $("stage").replaceChildren(box);
  return box;
}

function finish() {
  $("progress").textContent = `${view.of} of ${view.of}`;
  words(make("h2", "Finished"), make("p", "All trials are answered. Thank you."));
  if (backend.file) $("stage").firstChild.append(saveButton(true));
}

function pause() {
  const go = make("button", "Go on now");
  go.className = "main";
  go.onclick = () => load();
  words(make("h2", `Session ${view.session}`), make("p", `The session before is complete. Please pause, best for ${view.pause_days} days, and go on then: this page finds its place again.`), go);
  if (backend.file) $("stage").firstChild.append(saveButton(false));
}

function saveButton(final) {
  const link = make("a", final ? "Save the answers" : "Save the answers so far", { download: backend.fileName, href: URL.createObjectURL(backend.file()) });
  const box = make("p");
  box.append(link, final ? ", and send the file back." : ".");
  return box;
}

function picture(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a picture did not arrive"));
    image.src = source;
  });
}

async function load() {
  say("Loading …");
  const mine = view;
  const row = make("div");
  row.className = "panels";
  for (const panel of view.panels) {
    const figure = make("figure");
    figure.className = ["input", "reference"].includes(panel.name) ? "context" : "judged";
    const canvas = make("canvas", "", { width: view.width, height: view.height, role: "img", "aria-label": panel.title, "data-panel": panel.name });
    canvas.style.setProperty("--aspect", view.width_mm / view.height_mm);
    const box = make("div");
    box.append(canvas);
    figure.append(make("figcaption", panel.title), box);
    row.append(figure);
  }
  $("stage").replaceChildren(row);
  try {
    const all = view.panels.map(async (panel) => {
      const slices = Array.from({ length: mine.slices }, (_, i) => picture(backend.source(mine, panel.name, i)));
      pictures[panel.name] = await Promise.all(slices);
    });
    await Promise.all(all);
  } catch (error) {
    if (mine === view) retry("Some pictures did not arrive.", refresh);
    return;
  }
  if (mine !== view) return;
  index = Math.floor(view.slices / 2);
  $("stage").onwheel = (event) => { event.preventDefault(); move(Math.sign(event.deltaY)); };
  controls();
  draw();
  say("");
  started = performance.now();
  ready = true;
  $("stage").focus();
}

function draw() {
  for (const canvas of $("stage").querySelectorAll("canvas")) {
    const context = canvas.getContext("2d");
    context.filter = `brightness(${bright}) contrast(${contrast})`;
    context.drawImage(pictures[canvas.dataset.panel][index], 0, 0);
    context.filter = "none";
    if (canvas.dataset.panel === "image") drawMarks(canvas, context);
  }
  const slider = $("slice");
  if (slider) { slider.value = index; $("slice-number").textContent = `${index + 1} of ${view.slices}`; }
}

function drawMarks(canvas, context) {
  context.lineWidth = Math.max(1, canvas.width / 250);
  context.font = `${Math.max(9, canvas.width / 22)}px sans-serif`;
  for (const mark of marks) {
    if (mark.slice !== index) continue;
    const [x, y, r] = [mark.x * canvas.width, mark.y * canvas.height, canvas.width / 40];
    context.strokeStyle = context.fillStyle = mark === marks[marks.length - 1] ? "#ffd27f" : "#7cc4f4";
    context.beginPath();
    context.arc(x, y, r, 0, 2 * Math.PI);
    context.stroke();
    context.fillText(String(mark.confidence), x + r * 1.2, y);
  }
}

function move(step) {
  index = Math.min(view.slices - 1, Math.max(0, index + step));
  draw();
}

function controls() {
  const box = $("controls");
  const slice = make("label", "Slice");
  const range = make("input", "", { id: "slice", type: "range", min: 0, max: view.slices - 1, step: 1 });
  range.oninput = () => { index = Number(range.value); draw(); };
  slice.append(range, make("span", "", { id: "slice-number" }));
  box.append(slice);
  if (view.window === "free") box.append(slider("Brightness", (v) => { bright = v; }, bright), slider("Contrast", (v) => { contrast = v; }, contrast));
  ({ choice: choiceControls, scores: scoreControls, search: searchControls })[view.task](box);
}

function slider(name, set, value) {
  const label = make("label", name);
  const range = make("input", "", { type: "range", min: 0.5, max: 2, step: 0.05, value });
  range.oninput = () => { set(Number(range.value)); draw(); };
  label.append(range);
  return label;
}

function button(text, act) {
  const element = make("button", text);
  element.className = "main";
  element.onclick = act;
  return element;
}

function choiceControls(box) {
  const set = make("div");
  set.className = "choice";
  set.append(make("span", "Which image shows the anatomy better?"), button("Left (1)", () => send({ choice: "left" })));
  if (view.ties) set.append(button("No difference (0)", () => send({ choice: "same" })));
  set.append(button("Right (2)", () => send({ choice: "right" })));
  box.append(set);
}

function scoreControls(box) {
  for (const scale of view.scales) {
    const set = make("fieldset", "", { "data-scale": scale });
    set.append(make("legend", scale));
    for (let grade = 1; grade <= view.grades; grade++) {
      const one = make("button", String(grade), { "aria-pressed": "false" });
      one.onclick = () => score(scale, grade);
      set.append(one);
    }
    box.append(set);
  }
  const done = button("Next (Enter)", sendScores);
  done.id = "next";
  box.append(done, make("span", "1 is bad, 5 is good"));
  markScores();
}

function markScores() {
  const open = view.scales.find((scale) => !(scale in scores));
  for (const set of $("controls").querySelectorAll("fieldset")) {
    set.classList.toggle("active", set.dataset.scale === open);
    for (const one of set.querySelectorAll("button")) one.setAttribute("aria-pressed", String(scores[set.dataset.scale] === Number(one.textContent)));
  }
  $("next").disabled = open !== undefined;
}

function score(scale, grade) {
  scores[scale] = grade;
  markScores();
}

function sendScores() {
  if (view.scales.every((scale) => scale in scores)) send({ scores });
}

function searchControls(box) {
  const canvas = $("stage").querySelector("canvas[data-panel=image]");
  canvas.classList.add("pointed");
  canvas.onclick = (event) => {
    const place = canvas.getBoundingClientRect();
    const share = (at, start, size) => Math.min(1, Math.max(0, (at - start) / size));
    marks.push({ slice: index, x: share(event.clientX, place.left, place.width), y: share(event.clientY, place.top, place.height), confidence: 3 });
    draw();
  };
  box.append(
    make("span", "Click on each lesion; 1 to 5 sets the confidence of the last mark, Backspace removes it."),
    button("No more lesions (Enter)", () => send({ marks })),
  );
}

async function send(value) {
  if (!ready) return;
  ready = false;
  if (view.window === "free") value.window = [bright, contrast];
  sending = { trial: view.trial, value, seconds: (performance.now() - started) / 1000, ticket: ticket() };
  await deliver();
}

async function deliver() {
  say("Saving …");
  try {
    await show(await backend.answer(sending));
  } catch (error) {
    await failed(error, deliver);
  }
}

async function failed(error, again) {
  if (error instanceof Stale) {
    await refresh();
    say(error.message);
  } else if (error instanceof Refused) {
    say(error.message);
    ready = sending !== null;
  } else {
    retry(`${backend.fault}. The answer is not saved yet.`, again);
  }
}

function retry(text, again) {
  say(`${text} `);
  const go = make("button", "Try again");
  go.onclick = again;
  $("message").append(go);
}

async function refresh() {
  try {
    await show(await backend.trial());
  } catch (error) {
    if (error instanceof Refused) say(error.message);
    else retry(`${backend.fault}.`, refresh);
  }
}

async function undo() {
  if (!view || !view.undo || sending) return;
  try {
    await show(await backend.undo(view.undo));
  } catch (error) {
    await failed(error, undo);
  }
}

$("undo").onclick = undo;

document.addEventListener("keydown", (event) => {
  if (!view || view.finished || event.ctrlKey || event.metaKey || event.altKey || event.repeat && !event.key.startsWith("Arrow")) return;
  if (event.key === "u" || event.key === "U") return undo();
  if (!ready) return;
  if (event.key === "ArrowUp" || event.key === "ArrowDown") {
    event.preventDefault();
    return move(event.key === "ArrowUp" ? -1 : 1);
  }
  keys[view.task](event);
});

const keys = {
  choice(event) {
    const choice = { 1: "left", 2: "right", 0: view.ties ? "same" : undefined }[event.key];
    if (choice) send({ choice });
  },
  scores(event) {
    const open = view.scales.find((scale) => !(scale in scores));
    if (/^[1-5]$/.test(event.key) && open) score(open, Number(event.key));
    else if (event.key === "Backspace") { delete scores[view.scales.filter((scale) => scale in scores).pop()]; markScores(); }
    else if (event.key === "Enter" && event.target.tagName !== "BUTTON") sendScores();
  },
  search(event) {
    if (/^[1-5]$/.test(event.key) && marks.length) marks[marks.length - 1].confidence = Number(event.key);
    else if (event.key === "Backspace") marks.pop();
    else if (event.key === "Enter" && event.target.tagName !== "BUTTON") return send({ marks });
    draw();
  },
};

window.addEventListener("beforeunload", (event) => { if (sending) event.preventDefault(); });
refresh();
