// The row of tools, the slice slider and the words under the views. Every control shows the state and changes it.

const SIDES = [["R", "L"], ["A", "P"], ["S", "I"]];
const short = (value) => String(Number(value.toPrecision(4)));

// Selects, check boxes and sliders: id of the element -> what it changes, and what it shows.
function bindings(viewer) {
  const { data } = viewer;
  return {
    layout: [(value) => ({ layout: value, enlarged: -1 }), ({ layout }) => layout],
    plane: [(value) => ({ plane: value }), ({ plane }) => plane],
    scan: [(value) => ({ scan: value }), ({ scan }) => scan],
    against: [(value) => ({ against: value }), ({ against }) => against],
    window: [(value) => ({ window: { ...(data.windows.find(({ name }) => name === value) ?? viewer.state.window) } }), ({ window }) => window.name],
    overlay: [(value) => ({ overlay: value }), ({ overlay }) => overlay],
    opacity: [(value) => ({ opacity: value / 100 }), ({ opacity }) => Math.round(100 * opacity)],
    edge: [(value) => ({ edge: value / 100 }), ({ edge }) => Math.round(100 * edge)],
    drag: [(value) => ({ drag: value }), ({ drag }) => drag],
    cross: [(value) => ({ cross: value }), ({ cross }) => cross],
    smooth: [(value) => ({ smooth: value }), ({ smooth }) => smooth],
  };
}

// Tools that mean nothing in a layout leave the end of the row, so that the others stay where they are.
function usable(state) {
  const two = state.layout === "swipe" || state.layout === "blink";
  return { scan: state.layout !== "all", against: two, edge: state.layout === "swipe", opacity: state.overlay !== "" };
}

function connect(viewer) {
  const find = (id) => viewer.root.querySelector("#" + id), bound = bindings(viewer);
  for (const [id, [change]] of Object.entries(bound)) {
    find(id)?.addEventListener("input", ({ target }) => viewer.set(change(target.type === "checkbox" ? target.checked : target.value)));
  }
  for (const end of ["low", "high"]) {
    find(end).addEventListener("change", ({ target }) => {
      const window = { ...viewer.state.window, name: "own", [end]: Number(target.value) };
      if (Number.isFinite(window[end]) && window.low < window.high) viewer.set({ window });
      else viewer.later();
    });
  }
  find("slice").addEventListener("input", ({ target }) => viewer.toSlice(viewer.through(), Number(target.value) - 1));
  find("reset").addEventListener("click", () => viewer.reset());
  find("fill").addEventListener("click", () => fillScreen(viewer));
  find("keys").addEventListener("click", () => find("help").showModal());
  viewer.listeners.push(({ state }) => {
    for (const [id, [, value]] of Object.entries(bound)) {
      const control = find(id);
      if (!control) continue;
      control[control.type === "checkbox" ? "checked" : "value"] = value(state);
    }
    for (const [id, on] of Object.entries(usable(state))) if (find(id)) find(id).closest("label").hidden = !on;
    for (const end of ["low", "high"]) if (document.activeElement !== find(end)) find(end).value = short(state.window[end]);
    where(viewer, find);
    legend(viewer);
  });
}

function fillScreen({ root }) {
  if (document.fullscreenElement) document.exitFullscreen();
  else root.requestFullscreen?.();
}

// Slice number and millimetres, and the values under the cross.
function where(viewer, find) {
  const axis = viewer.through(), number = viewer.slice(axis) + 1, count = viewer.data.shape[axis], mm = viewer.world();
  const place = mm.map((value, i) => `${SIDES[i][value < 0 ? 1 : 0]} ${Math.abs(value).toFixed(1)}`);
  Object.assign(find("slice"), { max: count, value: number });
  find("slice").setAttribute("aria-valuetext", `${viewer.state.plane} slice ${number} of ${count}, ${place[axis]} mm`);
  find("position").textContent = `${viewer.state.plane} ${number}/${count} · ${place[axis]} mm`;
  if (viewer.unpacked < 1) {
    find("readout").textContent = `Unpacking the other slices: ${Math.round(100 * viewer.unpacked)} %`;
    return;
  }
  const values = viewer.data.scans.map(({ key, title }) => {
    const level = viewer.volumes[key]?.level(viewer.state.at);
    return `${title} ${level == null ? "–" : short(viewer.data.scans[0].low + level * viewer.data.scans[0].step)}`;
  });
  const over = viewer.maps[viewer.state.overlay];
  if (over) values.push(`${over.title} ${mapValue(over, over.level(viewer.state.at))}`);
  const zoom = viewer.state.zoom > 1 ? ` · zoom ${viewer.state.zoom.toFixed(1)}` : "";
  find("readout").textContent = `At the cross (${place.join(", ")} mm): ${values.join("; ")}${zoom}`;
}

function mapValue(map, level) {
  if (level === null) return "–";
  if (map.outline) return level ? "inside" : "outside";
  if (map.labels.length) return map.labels[level - 1]?.name ?? "none";
  return short(Number((map.signed ? ((level - 128) / 127) * map.high : (level / 255) * map.high).toPrecision(2)));
}

function legend(viewer) {
  for (const row of viewer.root.querySelectorAll("[data-map]")) row.hidden = row.dataset.map !== viewer.state.overlay;
}
