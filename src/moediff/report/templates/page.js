// Fills the page's views from its own data; without WebGL 2 the still pictures remain and the page says why.
(async function () {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const status = byId("status"), stage = byId("views"), stills = byId("stills");
  const PLANES = { axial: "AXIAL", coronal: "CORONAL", sagittal: "SAGITTAL" };
  const THROUGH = { axial: 2, coronal: 1, sagittal: 0 };
  const BLINK_MS = 700;
  window.addEventListener("beforeprint", () => { stills.open = true; });

  function missing() {
    if (typeof DecompressionStream === "undefined") return "this browser is too old to unpack the volumes";
    const canvas = document.createElement("canvas");
    const gl = canvas.getContext("webgl2");
    if (!gl) return "this browser offers no WebGL 2 (graphics may be blocked here)";
    gl.getExtension("WEBGL_lose_context")?.loseContext();
    return "";
  }

  async function unpack(text, stride) {
    const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
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
    const top = layer.key === "experts" ? layer.high : 255;
    Object.assign(made, { cal_min: 0, cal_max: top, robust_min: 0, robust_max: top });
    return made;
  }

  async function view(layer) {
    const nv = new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, isNearestInterpolation: true, dragAndDropEnabled: false,
      show3Dcrosshair: false, backColor: [0, 0, 0, 1], crosshairColor: [0.95, 0.75, 0.2, 0.7], crosshairWidth: 0.6,
      logLevel: "error", loadingText: "", isColorbar: false,
    });
    await nv.attachToCanvas(byId("canvas-" + layer.key));
    nv.addVolume(await image(layer));
    nv.setSliceType(niivue.SLICE_TYPE.AXIAL);
    return nv;
  }

  function link(views) {
    const nvs = Object.values(views);
    for (const nv of nvs) nv.broadcastTo(nvs.filter((other) => other !== nv), { "2d": true, "3d": false });
  }

  function moveTo(views, voxel) {
    for (const nv of Object.values(views)) {
      nv.scene.crosshairPos = nv.vox2frac(voxel);
      nv.drawScene();
    }
  }

  async function addMaps(nv, data) {
    nv.addColormap("moediffheat", data.heat);
    for (const layer of data.maps) {
      const made = await image(layer);
      made.opacity = 0;
      if (layer.key === "experts") {
        const shown = data.expertColours.slice(0, layer.high);
        const column = (c) => [0, ...shown.map((rgb) => rgb[c])];
        made.setColormapLabel({
          R: column(0), G: column(1), B: column(2), A: [0, ...shown.map(() => 255)],
          I: [0, ...shown.map((_, i) => i + 1)], labels: ["", ...data.experts],
        });
      } else made.colormap = "moediffheat";
      nv.addVolume(made);
    }
  }

  function overlays(nv, data) {
    const apply = () => {
      const chosen = document.querySelector("input[name=overlay]:checked").value;
      byId("opacity").disabled = !chosen;
      data.maps.forEach((layer, i) => nv.setOpacity(i + 1, layer.key === chosen ? byId("opacity").value / 100 : 0));
    };
    for (const input of all("input[name=overlay], #opacity")) input.addEventListener("input", apply);
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
    stage.addEventListener("keydown", (event) => {
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
    const views = {};
    for (const layer of data.scans) views[layer.key] = await view(layer);
    link(views);
    moveTo(views, data.centre);
    stills.open = false;
    status.textContent = "";
    await addMaps(views.enhanced, data);
    if (data.maps.length) overlays(views.enhanced, data);
    comparison(views);
    const grey = windowing(views);
    const plane = () => document.querySelector("input[name=plane]:checked").value;
    for (const input of all("input[name=plane]")) {
      input.addEventListener("input", () => {
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
