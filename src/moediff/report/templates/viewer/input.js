// Mouse, fingers, wheel and keys.

const NOTCH = 30, PINCH_LEAST = 8, SLICE_DRAG = 5; // pixels

function keysOf(viewer) {
  const { state, data } = viewer, [across, up, through] = PLANES[state.plane], to = (changes) => () => viewer.set(changes);
  const next = (list, now, by = 1) => list[(list.indexOf(now) + by + list.length) % list.length];
  const scans = data.scans.map(({ key }) => key), windows = data.windows.map(({ name }) => name), maps = ["", ...data.maps.map(({ key }) => key)];
  const layouts = LAYOUTS.filter((layout) => viewer.root.querySelector(`#layout option[value=${layout}]`));
  return {
    ArrowLeft: () => viewer.step(across, 1), ArrowRight: () => viewer.step(across, -1),
    ArrowUp: () => viewer.step(up, 1), ArrowDown: () => viewer.step(up, -1),
    "Shift+ArrowLeft": () => viewer.pan(state.plane, -8 / state.zoom, 0), "Shift+ArrowRight": () => viewer.pan(state.plane, 8 / state.zoom, 0),
    "Shift+ArrowUp": () => viewer.pan(state.plane, 0, -8 / state.zoom), "Shift+ArrowDown": () => viewer.pan(state.plane, 0, 8 / state.zoom),
    PageUp: () => viewer.step(through, 1), PageDown: () => viewer.step(through, -1),
    Home: () => viewer.toSlice(through, data.shape[through]), End: () => viewer.toSlice(through, 0),
    a: to({ plane: "axial" }), c: to({ plane: "coronal" }), s: to({ plane: "sagittal" }),
    ...Object.fromEntries(layouts.map((layout, i) => [String(i + 1), to({ layout, enlarged: -1 })])),
    n: to({ scan: next(scans, state.scan) }), " ": () => viewer.swap(),
    w: to({ window: { ...data.windows.find(({ name }) => name === next(windows, state.window.name)) } }),
    "[": () => viewer.changeWindow(0.05, 0), "]": () => viewer.changeWindow(-0.05, 0),
    "{": () => viewer.changeWindow(0, 0.1), "}": () => viewer.changeWindow(0, -0.1),
    o: to({ overlay: next(maps, state.overlay) }), O: to({ overlay: next(maps, state.overlay, -1) }),
    "<": to({ opacity: limit(state.opacity - 0.1, 0, 1) }), ">": to({ opacity: limit(state.opacity + 0.1, 0, 1) }),
    ",": to({ edge: limit(state.edge - 0.05, 0, 1) }), ".": to({ edge: limit(state.edge + 0.05, 0, 1) }),
    "+": () => viewer.zoom(1.25), "=": () => viewer.zoom(1.25), "-": () => viewer.zoom(0.8), 0: () => viewer.zoom(0),
    x: to({ cross: !state.cross }), v: to({ smooth: !state.smooth }), e: () => viewer.enlarge(state.enlarged + 1),
    Escape: to({ enlarged: -1 }), f: () => fillScreen(viewer), r: () => viewer.reset(), "?": () => viewer.root.querySelector("#help").showModal(),
  };
}

// Keys work all over the page, but for those that a control or a link needs itself.
function ownKey(target, key) {
  if (target.closest("dialog[open], input[type=number]")) return true;
  if (target.closest("button, a, summary") && (key === " " || key === "Enter")) return true;
  if (target.closest("select")) return key.length === 1 || key.startsWith("Arrow") || ["Home", "End", "PageUp", "PageDown", "Escape"].includes(key);
  if (target.closest("input[type=range]")) return key.startsWith("Arrow") || ["Home", "End", "PageUp", "PageDown"].includes(key);
  if (target.closest("input[type=checkbox]")) return key === " ";
  const scrolls = key.startsWith("Arrow") || [" ", "Home", "End", "PageUp", "PageDown"].includes(key);
  return scrolls && !target.closest("#viewer") && target !== document.body;
}

function onKeys(viewer) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || ownKey(event.target, event.key)) return;
    const keys = keysOf(viewer), act = event.shiftKey && event.key.startsWith("Arrow") ? keys["Shift+" + event.key] : keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

// A pointer that is held belongs to the stage, so what lies under it is asked for.
function viewOf(viewer, { clientX, clientY }) {
  const under = document.elementFromPoint(clientX, clientY);
  return viewer.views.find((view) => view.figure.contains(under));
}

function onPointers(viewer) {
  const down = new Map(); // pointer -> where it was last
  const tool = (event) => {
    if (event.pointerType !== "mouse") return viewer.state.drag;
    if (event.buttons & 2) return "window";
    return event.buttons & 4 || event.shiftKey ? "pan" : viewer.state.drag;
  };
  const act = (held, event, dx, dy) => {
    const { view } = held, { scale } = view.geometry(viewer.state), what = tool(event);
    if (what === "cross") viewer.moveTo(view.positionAt(event.clientX, event.clientY, viewer.state));
    if (what === "pan") viewer.pan(view.plane, (dx * view.density) / scale, (dy * view.density) / scale);
    if (what === "window") viewer.changeWindow(dy / 300, dx / 200);
    if (what === "slices") drag(held, dy);
  };
  const drag = (held, dy) => {
    held.gathered += dy;
    const slices = Math.trunc(held.gathered / SLICE_DRAG);
    held.gathered -= slices * SLICE_DRAG;
    if (slices) viewer.step(viewer.through(held.view.plane), -slices);
  };
  viewer.stage.addEventListener("pointerdown", (event) => {
    const view = viewOf(viewer, event);
    if (!view) return;
    viewer.stage.focus({ preventScroll: true });
    if (viewer.state.plane !== view.plane) viewer.set({ plane: view.plane }); // the slider follows the view that is used
    viewer.stage.setPointerCapture(event.pointerId);
    down.set(event.pointerId, { x: event.clientX, y: event.clientY, view, edge: onEdge(viewer, view, event), gathered: 0 });
    const held = down.get(event.pointerId);
    if (event.buttons === 1 && !event.shiftKey && viewer.state.drag === "cross" && !held.edge) act(held, event, 0, 0);
  });
  viewer.stage.addEventListener("pointermove", (event) => {
    const last = down.get(event.pointerId);
    if (!last) return;
    if (down.size === 2) pinch(viewer, down, event);
    else if (last.edge) viewer.set({ edge: limit((event.clientX - last.view.canvas.getBoundingClientRect().left) / last.view.canvas.clientWidth, 0, 1) });
    else act(last, event, event.clientX - last.x, event.clientY - last.y);
    Object.assign(last, { x: event.clientX, y: event.clientY });
  });
  for (const end of ["pointerup", "pointercancel"]) viewer.stage.addEventListener(end, (event) => down.delete(event.pointerId));
  viewer.stage.addEventListener("contextmenu", (event) => event.preventDefault());
  viewer.stage.addEventListener("dblclick", (event) => {
    const view = viewOf(viewer, event);
    if (view && viewer.views.length > 1) viewer.enlarge(viewer.views.indexOf(view));
  });
}

const onEdge = (viewer, view, event) => viewer.state.layout === "swipe"
  && Math.abs(event.clientX - view.canvas.getBoundingClientRect().left - viewer.state.edge * view.canvas.clientWidth) < 16;

// Two fingers zoom about their middle, and move the picture with it.
function pinch(viewer, down, event) {
  const [moved, still] = [down.get(event.pointerId), [...down.entries()].find(([id]) => id !== event.pointerId)[1]];
  const apart = (x, y) => Math.hypot(x - still.x, y - still.y), before = apart(moved.x, moved.y), after = apart(event.clientX, event.clientY);
  const { view } = moved, { scale } = view.geometry(viewer.state);
  viewer.pan(view.plane, ((event.clientX - moved.x) / 2) * (view.density / scale), ((event.clientY - moved.y) / 2) * (view.density / scale));
  if (before > PINCH_LEAST) viewer.zoom(after / before, view.positionAt((event.clientX + still.x) / 2, (event.clientY + still.y) / 2, viewer.state));
}

// A wheel may tell many small movements; a slice is as much as one notch.
function onWheel(viewer) {
  let gathered = 0;
  viewer.stage.addEventListener("wheel", (event) => {
    const view = viewOf(viewer, event);
    if (!view) return;
    event.preventDefault();
    gathered += event.deltaY * (event.deltaMode === 0 ? 1 : 33);
    if (Math.abs(gathered) < NOTCH) return;
    const by = -Math.sign(gathered);
    gathered = 0;
    if (event.ctrlKey) viewer.zoom(by > 0 ? 1.15 : 1 / 1.15, view.positionAt(event.clientX, event.clientY, viewer.state));
    else viewer.step(viewer.through(view.plane), by);
  }, { passive: false });
}
