// Fills the page's views from its own data: with NiiVue, or plane by plane where the browser has no WebGL 2; says why then.
(async function () {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const chosen = (name) => document.querySelector(`input[name=${name}]:checked`)?.value ?? "";
  const status = byId("status"), stage = byId("views"), stills = byId("stills");
  const PLANES = { axial: 0, coronal: 1, sagittal: 2, solid: 4 }; // NiiVue's slice types
  const TURN = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10] };
  const THROUGH = { axial: 2, coronal: 1, sagittal: 0 };
  const BLINK_MS = 700, CROSS = 0.6, NARROW = window.matchMedia("(max-width: 520px)").matches;
  const plane = () => chosen("plane");
  window.addEventListener("beforeprint", () => { for (const part of all("#stills, #settings")) part.open = true; });

  // In the order of the page, once all are drawn.
  let views = {}, data = null, blank = "";

  // Why nothing can be drawn, and why not with WebGL; empty where it can.
  function missing() {
    return typeof DecompressionStream === "undefined" ? "this browser is too old to unpack the volumes" : "";
  }

  function withoutGl() {
    const gl = byId("canvas-enhanced").getContext("webgl2", { alpha: true, antialias: false }); // the viewer goes on with it
    return gl ? "" : "this browser offers no WebGL 2 (graphics may be blocked here)";
  }

  function bytes(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const plain = atob(text), found = new Uint8Array(plain.length);
    for (let i = 0; i < plain.length; i++) found[i] = plain.charCodeAt(i);
    return found;
  }

  const inflate = (text) => new Response(new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate")));

  // NiiVue lies packed in the page. The page's policy knows its hash, and lets run nothing else that is put there.
  async function loadNiivue() {
    const script = document.createElement("script");
    script.textContent = await inflate(byId("niivue").textContent).text();
    document.head.append(script);
    if (typeof niivue === "undefined") throw new Error("the viewer in this page is damaged");
  }

  async function unpack(text, stride) {
    const voxels = new Uint8Array(await inflate(text).arrayBuffer());
    for (let i = stride; i < voxels.length; i++) voxels[i] += voxels[i - stride]; // differences were stored
    return voxels;
  }

  async function image(layer, voxels) {
    if (blank) return new flatViewer.Image(layer, voxels);
    const { NVImage } = niivue;
    const file = NVImage.createNiftiArray(layer.shape, layer.spacing, layer.affine, 2, voxels);
    const made = await NVImage.new(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength), layer.key + ".nii");
    const top = layer.labels.length ? layer.high : 255;
    return Object.assign(made, { cal_min: 0, cal_max: top, robust_min: 0, robust_max: top });
  }

  // NiiVue filters a gradient for 3-D shading whenever a volume changes: seconds without a GPU, and planes never use it.
  let solid = false;
  function onlyWhenSolid(nv) {
    const { gl } = nv, use = gl.useProgram.bind(gl), draw = gl.drawArrays.bind(gl);
    const shading = [nv.blurShader, nv.sobelFirstOrderShader, nv.sobelSecondOrderShader].map((shader) => shader?.program);
    let skip = false;
    gl.useProgram = (program) => { skip = !solid && shading.includes(program); use(program); };
    gl.drawArrays = (...what) => { if (!skip) draw(...what); };
  }

  // NiiVue's own keys turn a single view to another plane or to 3-D, where a face may show, and its double click resets
  // a single view's grey scale: all of them are off, so that views stay alike.
  async function niivueIn(canvas) {
    const { DRAG_MODE } = niivue;
    const nv = new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, isNearestInterpolation: true, dragAndDropEnabled: false,
      show3Dcrosshair: false, backColor: [0, 0, 0, 1], crosshairColor: [0.95, 0.75, 0.2, 0.7], crosshairWidth: CROSS,
      logLevel: "error", loadingText: "", isColorbar: false, showAllOrientationMarkers: true, dragMode: DRAG_MODE.none,
      viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
      sliceType: PLANES.axial, // from the first drawing on: the default holds a 3-D view, slow without a GPU
    });
    nv.opts.mouseEventConfig = {
      leftButton: { primary: DRAG_MODE.crosshair, withShift: DRAG_MODE.pan, withCtrl: DRAG_MODE.crosshair },
      rightButton: DRAG_MODE.none, centerButton: DRAG_MODE.pan,
    };
    nv.opts.touchEventConfig = { singleTouch: DRAG_MODE.crosshair, doubleTouch: DRAG_MODE.none };
    for (const own of ["resetBriCon", "keyUpListener", "keyDownListener"]) nv[own] = () => {};
    await nv.attachToCanvas(canvas);
    onlyWhenSolid(nv);
    return nv;
  }

  // A plain picture that stands in a view until NiiVue, slow without a GPU, has drawn there.
  async function preview(layer, voxels) {
    const canvas = document.createElement("canvas"), flat = new flatViewer.Flat(canvas);
    byId("canvas-" + layer.key).after(canvas);
    canvas.className = "preview";
    flat.addVolume(new flatViewer.Image(layer, await voxels));
    moveTo(data.centre, [flat]);
  }

  async function view(layer, voxels) {
    const canvas = byId("canvas-" + layer.key), figure = byId("view-" + layer.key);
    const nv = blank ? new flatViewer.Flat(canvas) : await niivueIn(canvas);
    nv.addVolume(await image(layer, await voxels));
    nv.onLocationChange = tell;
    moveTo(data.centre, [nv]);
    figure.querySelector(".preview")?.remove();
    figure.dataset.drawn = Math.round(performance.now());
    return nv;
  }

  const every = () => Object.values(views);

  function link() {
    for (const nv of every()) nv.broadcastTo(every().filter((other) => other !== nv), { "2d": true, "3d": true, zoomPan: true });
  }

  function moveTo(voxel, nvs = every()) {
    for (const nv of nvs) {
      nv.scene.crosshairPos = nv.vox2frac(voxel);
      nv.drawScene();
    }
    tell();
  }

  const where = () => { const [nv] = every(); return [...nv.frac2vox(nv.scene.crosshairPos)].map(Math.round); };

  function step(axis, by) {
    const voxel = where();
    voxel[axis] = Math.min(data.shape[axis] - 1, Math.max(0, voxel[axis] + by));
    moveTo(voxel);
  }

  // What lies under the cross, in the scan's units as far as 8 bits tell.
  function tell() {
    if (every().length < data.scans.length) return;
    const voxel = where(), short = (value) => String(Number(value.toPrecision(3)));
    const parts = data.scans.map((layer) => {
      const level = views[layer.key].volumes[0].getValue(...voxel), value = short(layer.low + (level / 255) * (layer.high - layer.low));
      return `${layer.title} ${level === 255 ? "over " : ""}${value}`;
    });
    const [scan] = data.scans, over = views.enhanced.volumes[1], layer = data.maps.find((map) => map.key === stage.dataset.overlay);
    if (over && layer) {
      const level = over.getValue(...voxel.map((v, i) => Math.floor(v / Math.round(layer.spacing[i] / scan.spacing[i]))));
      const amount = layer.signed ? ((level - 128) / 127) * layer.high : (level / 255) * layer.high;
      parts.push(layer.title + ": " + (layer.labels.length ? layer.labels[level - 1]?.name ?? "none" : short(amount)));
    }
    byId("readout").textContent = "At the cross, about: " + parts.join("; ");
  }

  async function mapImage(layer) {
    const made = await image(layer, await unpack(layer.data, layer.stride));
    const column = (c) => [0, ...layer.labels.map((label) => label.colour[c])];
    if (layer.labels.length) {
      made.setColormapLabel({
        R: column(0), G: column(1), B: column(2), A: [0, ...layer.labels.map(() => 255)],
        I: [0, ...layer.labels.map((_, i) => i + 1)], labels: ["", ...layer.labels.map((label) => label.name)],
      });
    } else {
      const which = layer.signed ? "signed" : "heat";
      made.colormap = blank ? data[which] : "moediff" + which;
    }
    return made;
  }

  // A map is unpacked when it is first chosen, and only one lies over the scan: all of them at once would fill memory.
  function overlays() {
    const nv = views.enhanced;
    for (const which of ["heat", "signed"]) nv.addColormap?.("moediff" + which, data[which]);
    let busy = Promise.resolve(), over = "";
    const show = async () => {
      const wanted = solid ? "" : chosen("overlay");
      byId("opacity").disabled = !wanted;
      if (over !== wanted) {
        while (nv.volumes.length > 1) nv.removeVolume(nv.volumes[1]);
        if (wanted) nv.addVolume(await mapImage(data.maps.find((layer) => layer.key === wanted)));
        over = wanted;
      }
      if (wanted) nv.setOpacity(1, byId("opacity").value / 100);
      stage.dataset.overlay = wanted;
      for (const bar of all("#scale [data-map]")) bar.hidden = bar.dataset.map !== wanted;
      tell();
    };
    const apply = () => { busy = busy.then(show); };
    for (const input of all("input[name=overlay], #opacity")) input.addEventListener("input", apply);
    return apply;
  }

  function comparison() {
    const under = byId("view-input") || byId("view-interpolated"), over = byId("view-enhanced"), edge = byId("edge");
    if (!edge) return;
    if (!under) { for (const input of all("#edge, input[name=compare]:not([value=side])")) input.closest("label").remove(); return; }
    under.classList.add("paired");
    over.classList.add("paired", "over");
    let timer = 0;
    const apply = () => {
      const how = chosen("compare"), changed = stage.dataset.compare !== how;
      stage.dataset.compare = how;
      edge.disabled = how !== "swipe";
      stage.style.setProperty("--edge", edge.value + "%");
      if (!changed) return;
      clearInterval(timer);
      over.classList.remove("off");
      if (how === "blink") timer = setInterval(() => over.classList.toggle("off"), BLINK_MS);
      for (const nv of every()) nv.resizeListener();
    };
    for (const input of all("input[name=compare], #edge")) input.addEventListener("input", apply);
    const divider = byId("divider"), box = () => over.querySelector(".frame").getBoundingClientRect();
    divider.addEventListener("pointerdown", (event) => { divider.setPointerCapture(event.pointerId); event.preventDefault(); });
    divider.addEventListener("pointermove", (event) => {
      if (event.buttons !== 1) return;
      edge.value = Math.round((100 * (event.clientX - box().left)) / box().width);
      apply();
    });
  }

  // One window for all views, always the one that the sliders tell.
  function windowing() {
    const low = byId("low"), high = byId("high");
    const apply = () => {
      const from = Number(low.value), to = Math.max(from + 1, Number(high.value));
      for (const nv of every()) {
        Object.assign(nv.volumes[0], { cal_min: from, cal_max: to });
        nv.updateGLVolume();
      }
    };
    for (const slider of [low, high]) slider.addEventListener("input", apply);
    let waiting = false;
    stage.addEventListener("pointermove", (event) => {
      if (!(event.buttons & 2) || plane() === "solid") return;
      const centre = (Number(low.value) + Number(high.value)) / 2 + event.movementY / 2;
      const half = Math.max(4, (high.value - low.value) / 2 + event.movementX / 2);
      low.value = Math.round(centre - half);
      high.value = Math.round(centre + half);
      if (!waiting) requestAnimationFrame(() => { waiting = false; apply(); });
      waiting = true;
    }, true);
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    return apply;
  }

  // The cross keeps its place on the screen; at 1 the whole head is shown.
  function zooming() {
    const slider = byId("zoom");
    const apply = () => {
      const zoom = Number(slider.value);
      for (const nv of every()) {
        const [x, y, z, old] = nv.scene.pan2Dxyzmm, at = nv.frac2mm(nv.scene.crosshairPos), more = old - zoom;
        nv.setPan2Dxyzmm(zoom === 1 ? [0, 0, 0, 1] : [x + more * at[0], y + more * at[1], z + more * at[2], zoom]);
      }
    };
    slider.addEventListener("input", apply);
    return (by) => { slider.value = by ? Number(slider.value) + by : 1; apply(); };
  }

  function turn([aside, up]) {
    for (const nv of every()) {
      const { renderAzimuth, renderElevation } = nv.scene;
      nv.setRenderAzimuthElevation(renderAzimuth + aside, Math.max(-90, Math.min(90, renderElevation + up)));
    }
  }

  function keyboard(zoom) {
    stage.addEventListener("keydown", (event) => {
      const across = plane() === "sagittal" ? 1 : 0, up = plane() === "axial" ? 1 : 2, through = THROUGH[plane()];
      const acts = solid ? Object.fromEntries(Object.keys(TURN).map((key) => [key, () => turn(TURN[key])])) : {
        ArrowLeft: () => step(across, 1), ArrowRight: () => step(across, -1), ArrowUp: () => step(up, 1), ArrowDown: () => step(up, -1),
        PageUp: () => step(through, 1), PageDown: () => step(through, -1),
        "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(-0.5), 0: () => zoom(0),
      };
      if (!(event.key in acts) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      acts[event.key]();
    });
  }

  // A wheel may tell many small movements; a slice is as much as one notch.
  function wheel(zoom) {
    let gathered = 0;
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      event.stopPropagation();
      gathered += event.deltaY * (event.deltaMode === 0 ? 1 : 33);
      if (Math.abs(gathered) < 30) return;
      const by = -Math.sign(gathered);
      gathered = 0;
      if (solid) for (const nv of every()) nv.setScale(Math.max(0.5, Math.min(2, nv.scene.volScaleMultiplier + by / 10)));
      else if (event.ctrlKey) zoom(by / 4);
      else step(THROUGH[plane()], by);
    }, { capture: true, passive: false });
  }

  function planes(overlay) {
    for (const input of all("input[name=plane]")) {
      input.addEventListener("input", () => {
        if (solid !== (plane() === "solid")) {
          solid = !solid;
          overlay(); // colours hide the surface in 3-D
          if (solid) for (const nv of every()) nv.updateGLVolume();
        }
        for (const nv of every()) nv.setSliceType(PLANES[plane()]);
      });
    }
  }

  function controls() {
    const overlay = data.maps.length ? overlays() : () => {};
    comparison();
    const grey = windowing(), zoom = zooming();
    planes(overlay);
    keyboard(zoom);
    wheel(zoom);
    byId("cross").addEventListener("input", (event) => {
      for (const nv of every()) nv.setCrosshairWidth(event.target.checked ? CROSS : 0);
    });
    byId("reset").addEventListener("click", () => {
      byId("low").value = 0;
      byId("high").value = 255;
      grey();
      zoom(0);
      moveTo(data.centre);
    });
  }

  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

  // The still pictures are seen before any heavy work; a page in the background is never painted, so wait no longer than this.
  const painted = () => new Promise((done) => {
    new PerformanceObserver(done).observe({ type: "paint", buffered: true });
    setTimeout(done, 1000);
  });

  async function start() {
    await painted();
    blank = withoutGl();
    byId("viewer").hidden = false;
    if (blank) {
      byId("canvas-enhanced").replaceWith(byId("canvas-enhanced").cloneNode());
      document.querySelector("input[name=plane][value=solid]")?.closest("label").remove();
      status.textContent = `Planes are drawn without the graphics processor, and there is no 3-D view: ${blank}.`;
    }
    const made = {}, voxels = {};
    for (const layer of data.scans) voxels[layer.key] = unpack(layer.data, layer.stride); // side by side
    if (!blank) {
      await Promise.all(data.scans.map((layer) => preview(layer, voxels[layer.key])));
      await frame();
      await loadNiivue();
    }
    for (const layer of [...data.scans].sort((a, b) => (b.key === "enhanced") - (a.key === "enhanced"))) {
      made[layer.key] = await view(layer, voxels[layer.key]);
      await frame(); // let each picture appear before the next is made
    }
    for (const layer of data.scans) views[layer.key] = made[layer.key];
    link();
    controls();
    tell();
    if (!blank) status.textContent = "";
    stills.open = Boolean(blank);
    window.moediffViews = views;
  }

  if (NARROW) byId("settings").open = false;
  try {
    data = JSON.parse(byId("data").textContent);
    if (missing()) throw new Error(missing());
    await start();
  } catch (error) {
    byId("viewer").hidden = true;
    stills.open = true;
    status.textContent = "Still pictures are shown instead of the viewer: " + error.message + ".";
  }
  document.documentElement.dataset.ready = "yes";
})();
