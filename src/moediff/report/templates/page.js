// Fills the page's views from its own data; without WebGL 2 the still pictures remain and the page says why.
(async function () {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const status = byId("status"), stage = byId("views"), stills = byId("stills");
  const PLANES = { axial: "AXIAL", coronal: "CORONAL", sagittal: "SAGITTAL", solid: "RENDER" };
  const TURN = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10] };
  const THROUGH = { axial: 2, coronal: 1, sagittal: 0 };
  const BLINK_MS = 700;
  window.addEventListener("beforeprint", () => { stills.open = true; });

  function missing() {
    if (typeof DecompressionStream === "undefined") return "this browser is too old to unpack the volumes";
    const gl = byId("canvas-enhanced").getContext("webgl2", { alpha: true, antialias: false }); // the viewer goes on with it
    return gl ? "" : "this browser offers no WebGL 2 (graphics may be blocked here)";
  }

  function bytes(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const plain = atob(text), found = new Uint8Array(plain.length);
    for (let i = 0; i < plain.length; i++) found[i] = plain.charCodeAt(i);
    return found;
  }

  async function unpack(text, stride) {
    const packed = bytes(text);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const voxels = new Uint8Array(await new Response(stream).arrayBuffer());
    for (let i = stride; i < voxels.length; i++) voxels[i] += voxels[i - stride]; // differences were stored
    return voxels;
  }

  async function image(layer) {
    const { NVImage } = niivue;
    const voxels = await unpack(layer.data, layer.stride);
    const file = NVImage.createNiftiArray(layer.shape, layer.spacing, layer.affine, 2, voxels);
    const made = await NVImage.new(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength), layer.key + ".nii");
    const top = layer.labels.length ? layer.high : 255;
    Object.assign(made, { cal_min: 0, cal_max: top, robust_min: 0, robust_max: top });
    return made;
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

  async function view(layer, voxels) {
    const nv = new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, isNearestInterpolation: true, dragAndDropEnabled: false,
      show3Dcrosshair: false, backColor: [0, 0, 0, 1], crosshairColor: [0.95, 0.75, 0.2, 0.7], crosshairWidth: 0.6,
      logLevel: "error", loadingText: "", isColorbar: false,
      sliceType: niivue.SLICE_TYPE.AXIAL, // from the first drawing on: the default holds a 3-D view, slow without a GPU
    });
    await nv.attachToCanvas(byId("canvas-" + layer.key));
    onlyWhenSolid(nv);
    nv.addVolume(await voxels);
    byId("view-" + layer.key).dataset.drawn = Math.round(performance.now());
    return nv;
  }

  function link(views) {
    const nvs = Object.values(views);
    for (const nv of nvs) nv.broadcastTo(nvs.filter((other) => other !== nv), { "2d": true, "3d": true });
  }

  function moveTo(views, voxel) {
    for (const nv of Object.values(views)) {
      nv.scene.crosshairPos = nv.vox2frac(voxel);
      nv.drawScene();
    }
  }

  async function mapImage(layer) {
    const made = await image(layer);
    const column = (c) => [0, ...layer.labels.map((label) => label.colour[c])];
    if (layer.labels.length) {
      made.setColormapLabel({
        R: column(0), G: column(1), B: column(2), A: [0, ...layer.labels.map(() => 255)],
        I: [0, ...layer.labels.map((_, i) => i + 1)], labels: ["", ...layer.labels.map((label) => label.name)],
      });
    } else made.colormap = "moediffheat";
    return made;
  }

  // A map is unpacked when it is first chosen, and only one lies over the scan: all of them at once would fill memory.
  function overlays(nv, data) {
    nv.addColormap("moediffheat", data.heat);
    let busy = Promise.resolve(), over = "";
    const show = async () => {
      const chosen = solid ? "" : document.querySelector("input[name=overlay]:checked").value;
      byId("opacity").disabled = !chosen;
      if (over !== chosen) {
        while (nv.volumes.length > 1) nv.removeVolume(nv.volumes[1]);
        if (chosen) nv.addVolume(await mapImage(data.maps.find((layer) => layer.key === chosen)));
        over = chosen;
      }
      if (chosen) nv.setOpacity(1, byId("opacity").value / 100);
      stage.dataset.overlay = chosen;
      for (const bar of all("#scale [data-map]")) bar.hidden = bar.dataset.map !== chosen;
    };
    const apply = () => { busy = busy.then(show); };
    for (const input of all("input[name=overlay], #opacity")) input.addEventListener("input", apply);
    return apply;
  }

  function comparison(views) {
    const under = byId("view-input") || byId("view-interpolated"), over = byId("view-enhanced"), edge = byId("edge");
    if (!edge) return;
    if (!under) { edge.closest("label").remove(); return; }
    under.classList.add("paired");
    over.classList.add("paired", "over");
    let timer = 0;
    const apply = () => {
      const how = document.querySelector("input[name=compare]:checked").value;
      stage.dataset.compare = how;
      edge.disabled = how !== "swipe";
      stage.style.setProperty("--edge", edge.value + "%");
      clearInterval(timer);
      over.classList.remove("off");
      if (how === "blink") timer = setInterval(() => over.classList.toggle("off"), BLINK_MS);
      for (const nv of Object.values(views)) nv.resizeListener();
    };
    for (const input of all("input[name=compare], #edge")) input.addEventListener("input", apply);
  }

  function windowing(views) {
    const apply = () => {
      const low = Number(byId("low").value), high = Math.max(low + 1, Number(byId("high").value));
      for (const nv of Object.values(views)) {
        Object.assign(nv.volumes[0], { cal_min: low, cal_max: high });
        nv.updateGLVolume();
      }
    };
    for (const id of ["low", "high"]) byId(id).addEventListener("input", apply);
    return apply;
  }

  function keyboard(views, data, plane) {
    const first = Object.values(views)[0];
    const turn = (event) => {
      for (const nv of Object.values(views)) {
        const [aside, up] = TURN[event.key], { renderAzimuth, renderElevation } = nv.scene;
        nv.setRenderAzimuthElevation(renderAzimuth + aside, Math.max(-90, Math.min(90, renderElevation + up)));
      }
    };
    stage.addEventListener("keydown", (event) => {
      if (plane() === "solid") {
        if (!(event.key in TURN)) return;
        event.preventDefault();
        event.stopPropagation();
        turn(event);
        return;
      }
      const across = plane() === "sagittal" ? 1 : 0, up = plane() === "axial" ? 1 : 2;
      const steps = {
        ArrowLeft: [across, 1], ArrowRight: [across, -1], ArrowUp: [up, 1], ArrowDown: [up, -1],
        PageUp: [THROUGH[plane()], 1], PageDown: [THROUGH[plane()], -1],
      };
      if (!(event.key in steps)) return;
      event.preventDefault();
      event.stopPropagation();
      const [axis, step] = steps[event.key], voxel = [...first.frac2vox(first.scene.crosshairPos)];
      voxel[axis] = Math.min(data.shape[axis] - 1, Math.max(0, voxel[axis] + step));
      moveTo(views, voxel);
    }, true);
  }

  async function start(data) {
    byId("viewer").hidden = false;
    const views = {}, voxels = {};
    for (const layer of data.scans) voxels[layer.key] = image(layer); // unpacked side by side
    const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    for (const layer of [...data.scans].sort((a, b) => (b.key === "enhanced") - (a.key === "enhanced"))) {
      const nv = await view(layer, voxels[layer.key]);
      moveTo({ nv }, data.centre);
      views[layer.key] = nv;
      await frame(); // let each picture appear before the next is made
    }
    for (const layer of data.scans) { const nv = views[layer.key]; delete views[layer.key]; views[layer.key] = nv; }
    link(views);
    stills.open = false;
    status.textContent = "";
    const overlay = data.maps.length ? overlays(views.enhanced, data) : () => {};
    comparison(views);
    const grey = windowing(views);
    const plane = () => document.querySelector("input[name=plane]:checked").value;
    for (const input of all("input[name=plane]")) {
      input.addEventListener("input", () => {
        if (solid !== (plane() === "solid")) {
          solid = !solid;
          overlay(); // colours hide the surface in 3-D
          if (solid) for (const nv of Object.values(views)) nv.updateGLVolume();
        }
        for (const nv of Object.values(views)) nv.setSliceType(niivue.SLICE_TYPE[PLANES[plane()]]);
      });
    }
    keyboard(views, data, plane);
    byId("reset").addEventListener("click", () => {
      byId("low").value = 0;
      byId("high").value = 255;
      grey();
      for (const nv of Object.values(views)) nv.setPan2Dxyzmm([0, 0, 0, 1]);
      moveTo(views, data.centre);
    });
    window.moediffViews = views;
  }

  const reason = missing();
  try {
    if (reason) throw new Error(reason);
    await start(JSON.parse(byId("data").textContent));
  } catch (error) {
    byId("viewer").hidden = true;
    stills.open = true;
    status.textContent = "Still pictures are shown instead of the viewer: " + error.message + ".";
  }
  document.documentElement.dataset.ready = "yes";
})();
