// The viewer: what is shown (`state`), which views there are, and drawing them all alike.

const LAYOUTS = ["all", "planes", "swipe", "blink"], BLINK_MS = 800, MOST_ZOOM = 16;
const limit = (value, low, high) => Math.min(high, Math.max(low, value));

class Viewer {
  constructor(root, data) {
    Object.assign(this, { root, data, stage: root.querySelector("#views"), volumes: {}, maps: {}, views: [], waiting: false, unpacked: 0 });
    this.spacing = data.spacing;
    this.box = data.shape.map((n, axis) => n * data.spacing[axis]);
    this.greys = new Uint32Array(LEVELS);
    const keys = data.scans.map((scan) => scan.key);
    this.state = {
      layout: "all", plane: "axial", scan: "enhanced", against: keys.find((key) => key !== "enhanced") ?? "enhanced",
      window: { ...data.windows[0] }, overlay: "", opacity: 0.6, drag: "cross", cross: false, smooth: true, edge: 0.5,
      zoom: 1, centre: this.box.map((mm) => mm / 2), at: this.middle(data.centre), enlarged: -1, blinked: false,
    };
    this.listeners = [];
    new ResizeObserver(() => { this.arrange(); this.draw(); }).observe(this.stage);
  }

  middle(voxel) { return voxel.map((n, axis) => (n + 0.5) * this.spacing[axis]); }

  // Changes the state; everything that shows it follows.
  set(changes) {
    const before = this.state;
    this.state = { ...before, ...changes };
    if (["layout", "enlarged", "plane"].some((key) => before[key] !== this.state[key])) this.arrange();
    if (before.layout !== this.state.layout) this.blinking();
    if (before.window !== this.state.window) this.tabulate();
    if (before.overlay !== this.state.overlay) this.loadMap();
    this.later();
  }

  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.draw(); });
  }

  tabulate() { greyTable(this.data.scans[0], this.state.window, this.greys); }

  // What each view shows: its plane, and the scan (two in swipe; one after the other in blink).
  wanted() {
    const { layout, plane, scan, against, blinked } = this.state, keys = this.data.scans.map((entry) => entry.key);
    if (layout === "planes") return Object.keys(PLANES).map((name) => ({ plane: name, scans: [scan] }));
    if (layout === "swipe") return [{ plane, scans: [against, scan] }];
    if (layout === "blink") return [{ plane, scans: [blinked ? against : scan] }];
    return keys.map((key) => ({ plane, scans: [key] }));
  }

  // As many rows and columns as make the views largest.
  arrange() {
    const wanted = this.wanted(), { enlarged } = this.state, count = enlarged < 0 ? wanted.length : 1;
    while (this.views.length < wanted.length) this.views.push(new View(this.stage, this.box));
    while (this.views.length > wanted.length) this.views.pop().figure.remove();
    const { clientWidth: width, clientHeight: height } = this.stage;
    const size = (columns) => Math.min(...wanted.map(({ plane }) => {
      const [across, up] = PLANES[plane];
      return Math.min(width / columns / this.box[across], height / Math.ceil(count / columns) / this.box[up]);
    }));
    let columns = 1;
    for (let n = 2; n <= count; n++) if (size(n) > size(columns) * 1.001) columns = n;
    this.stage.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    this.stage.style.gridTemplateRows = `repeat(${Math.ceil(count / columns)}, minmax(0, 1fr))`;
    this.stage.dataset.layout = this.state.layout;
    this.views.forEach((view, i) => {
      view.plane = wanted[i].plane;
      view.figure.hidden = enlarged >= 0 && i !== enlarged;
      if (!view.figure.hidden) view.resize();
    });
  }

  draw() {
    const { layout, scan, overlay } = this.state;
    this.wanted().forEach(({ scans }, i) => {
      const view = this.views[i], shown = scans[scans.length - 1];
      if (!view || view.figure.hidden) return;
      const over = overlay && (layout === "all" ? shown === "enhanced" : shown === scan) ? this.maps[overlay] : null;
      view.draw(scans.map((key) => this.volumes[key]), over ?? null, this.state, this.greys);
    });
    for (const tell of this.listeners) tell(this);
  }

  blinking() {
    clearInterval(this.timer);
    if (this.state.layout !== "blink") return;
    this.timer = setInterval(() => { if (!document.hidden) this.set({ blinked: !this.state.blinked }); }, BLINK_MS);
  }

  // A map is unpacked when it is first chosen.
  async loadMap() {
    const key = this.state.overlay, entry = this.data.maps.find((map) => map.key === key);
    if (!entry || this.maps[key]) return;
    const volume = new Volume(entry, await unpackAll(new Unpacking(entry, packedText(key))));
    volume.table = colourTable(entry.table);
    this.maps[key] = volume;
    this.later();
  }

  through(plane = this.state.plane) { return PLANES[plane][2]; }

  // The number of the slice along an axis, from 0.
  slice(axis) { return limit(Math.floor(this.state.at[axis] / this.spacing[axis]), 0, this.data.shape[axis] - 1); }

  moveTo(at) {
    this.set({ at: at.map((mm, axis) => limit(mm, this.spacing[axis] / 2, this.box[axis] - this.spacing[axis] / 2)) });
  }

  toSlice(axis, number) {
    const at = [...this.state.at];
    at[axis] = (limit(number, 0, this.data.shape[axis] - 1) + 0.5) * this.spacing[axis];
    this.set({ at });
  }

  step(axis, by) { this.toSlice(axis, this.slice(axis) + by); }

  // Zooms all views so that a position keeps its place.
  zoom(factor, fixed = this.state.at) {
    const zoom = limit(this.state.zoom * factor, 1, MOST_ZOOM), share = this.state.zoom / zoom;
    const centre = zoom === 1 ? this.box.map((mm) => mm / 2) : this.state.centre.map((mm, axis) => fixed[axis] + (mm - fixed[axis]) * share);
    this.set({ zoom, centre });
  }

  // Moves all pictures by mm along two axes.
  pan(plane, across_mm, up_mm) {
    const [across, up] = PLANES[plane], centre = [...this.state.centre];
    centre[across] = limit(centre[across] + across_mm, 0, this.box[across]);
    centre[up] = limit(centre[up] + up_mm, 0, this.box[up]);
    this.set({ centre });
  }

  // Brighter or darker, and more or less contrast, in parts of the window.
  changeWindow(level, width) {
    const { low, high } = this.state.window, wide = Math.max(1e-6, high - low), centre = (low + high) / 2 + level * wide;
    const least = (this.data.windows[0].high - this.data.windows[0].low) / 100, half = Math.max(least, wide * (1 + width)) / 2;
    this.set({ window: { name: "own", low: centre - half, high: centre + half } });
  }

  enlarge(index) { this.set({ enlarged: this.state.enlarged === index || index >= this.views.length ? -1 : index }); }

  swap() {
    const { layout, scan, against } = this.state;
    if (layout === "blink") this.set({ blinked: !this.state.blinked });
    else if (layout !== "all") this.set({ scan: against, against: scan });
  }

  reset() {
    this.set({ window: { ...this.data.windows[0] }, zoom: 1, centre: this.box.map((mm) => mm / 2), at: this.middle(this.data.centre), enlarged: -1, edge: 0.5 });
  }

  // The cross in the scanner's coordinates, mm to the right, front and top.
  world() {
    const voxel = this.state.at.map((mm, axis) => mm / this.spacing[axis] - 0.5);
    return this.data.affine.slice(0, 3).map(([a, b, c, d]) => a * voxel[0] + b * voxel[1] + c * voxel[2] + d);
  }
}

const packedText = (key) => document.getElementById("pack-" + key).textContent;
