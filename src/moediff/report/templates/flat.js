// Draws planes on a plain canvas where the browser offers no WebGL 2; answers to the few calls that page.js makes of NiiVue.
const flatViewer = (() => {
  "use strict";
  const PLANES = [[0, 1, 2], [0, 2, 1], [1, 2, 0]]; // of NiiVue's slice types: across, up, through
  const EDGES = ["RLAP", "RLSI", "APSI"];

  // 256 colours as RGBA between the places that a colour map names.
  function table(map) {
    const found = new Uint8ClampedArray(1024);
    for (let value = 0; value < 256; value++) {
      let k = 0;
      while (k < map.I.length - 2 && map.I[k + 1] < value) k++;
      const part = (value - map.I[k]) / (map.I[k + 1] - map.I[k] || 1);
      ["R", "G", "B", "A"].forEach((c, i) => { found[4 * value + i] = map[c][k] + part * (map[c][k + 1] - map[c][k]); });
    }
    return found;
  }

  class Image {
    constructor(layer, voxels) {
      Object.assign(this, { layer, voxels, shape: layer.shape, cal_min: 0, cal_max: 255, opacity: 0.5, colours: null });
    }
    getValue(x, y, z) { return this.voxels[x + this.shape[0] * (y + this.shape[1] * z)]; }
    set colormap(map) { this.colours = table(map); }
    setColormapLabel(map) {
      this.colours = new Uint8ClampedArray(1024);
      map.I.forEach((value, k) => ["R", "G", "B", "A"].forEach((c, i) => { this.colours[4 * value + i] = map[c][k]; }));
    }
  }

  class Flat {
    constructor(canvas) {
      Object.assign(this, { canvas, volumes: [], others: [], type: 0, opts: { crosshairWidth: 1 }, onLocationChange() {} });
      this.scene = { crosshairPos: [0.5, 0.5, 0.5], pan2Dxyzmm: [0, 0, 0, 1] };
      this.inner = document.createElement("canvas");
      const press = (event) => { if (event.buttons === 1) this.pressed(event); };
      canvas.tabIndex = -1;
      canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); press(event); });
      canvas.addEventListener("pointermove", press);
      canvas.addEventListener("contextmenu", (event) => event.preventDefault());
      new ResizeObserver(() => this.drawScene()).observe(canvas);
    }
    get size() { const { layer } = this.volumes[0]; return layer.shape.map((n, i) => n * layer.spacing[i]); }
    frac2mm(frac) { return [...frac].map((f, i) => f * this.size[i]); }
    frac2vox(frac) { return [...frac].map((f, i) => Math.min(this.volumes[0].shape[i] - 1, Math.floor(f * this.volumes[0].shape[i]))); }
    vox2frac(vox) { return vox.map((v, i) => (v + 0.5) / this.volumes[0].shape[i]); }
    addVolume(image) { this.volumes.push(image); this.drawScene(); }
    removeVolume(image) { this.volumes = this.volumes.filter((v) => v !== image); this.drawScene(); }
    setOpacity(index, value) { this.volumes[index].opacity = value; this.drawScene(); }
    setSliceType(type) { this.type = type; this.drawScene(); }
    setPan2Dxyzmm(pan) { this.scene.pan2Dxyzmm = pan; this.drawScene(); }
    setCrosshairWidth(width) { this.opts.crosshairWidth = width; this.drawScene(); }
    updateGLVolume() { this.drawScene(); }
    resizeListener() { this.drawScene(); }
    broadcastTo(others) { this.others = others; }

    // How voxels of the plane land on the canvas: pixels a mm, and the pixel of the plane's corner; both axes run leftwards and upwards.
    place() {
      const [across, up] = PLANES[this.type], { width, height } = this.canvas, size = this.size, pan = this.scene.pan2Dxyzmm;
      const fit = Math.min(width / size[across], height / size[up]);
      const x = width / 2 + fit * (size[across] / 2 - pan[across]), y = height / 2 + fit * (size[up] / 2 - pan[up]);
      return { across, up, x, y, scale: fit * pan[3] };
    }
    pressed(event) {
      const { across, up, x, y, scale } = this.place(), density = this.canvas.width / this.canvas.clientWidth;
      const mm = this.frac2mm(this.scene.crosshairPos), box = this.canvas.getBoundingClientRect();
      const dx = (x - (event.clientX - box.left) * density) / scale, dy = (y - (event.clientY - box.top) * density) / scale;
      if (event.shiftKey) return this.panned(event, density);
      mm[across] = dx; mm[up] = dy;
      const frac = mm.map((v, i) => Math.min(1 - 1e-6, Math.max(0, v / this.size[i])));
      for (const view of [this, ...this.others]) { view.scene.crosshairPos = [...frac]; view.drawScene(); }
      this.onLocationChange();
    }
    panned(event, density) {
      const { across, up, scale } = this.place(), pan = [...this.scene.pan2Dxyzmm], unit = scale / pan[3] / density;
      pan[across] -= event.movementX / unit; pan[up] -= event.movementY / unit;
      for (const view of [this, ...this.others]) view.setPan2Dxyzmm([...pan]);
    }

    plane() {
      const [across, up, through] = PLANES[this.type], [scan, over] = this.volumes, at = this.frac2vox(this.scene.crosshairPos);
      const width = scan.shape[across], height = scan.shape[up], pixels = new ImageData(width, height), { data } = pixels;
      const steps = [1, scan.shape[0], scan.shape[0] * scan.shape[1]], gain = 255 / Math.max(1, scan.cal_max - scan.cal_min);
      const block = over ? over.layer.spacing.map((s, i) => Math.round(s / scan.layer.spacing[i])) : [1, 1, 1], vox = [...at];
      let to = 0;
      for (let v = height - 1; v >= 0; v--) {
        for (let u = width - 1; u >= 0; u--, to += 4) {
          const grey = (scan.voxels[u * steps[across] + v * steps[up] + at[through] * steps[through]] - scan.cal_min) * gain;
          data[to] = data[to + 1] = data[to + 2] = grey; data[to + 3] = 255;
          if (!over) continue;
          vox[across] = u; vox[up] = v;
          const colour = 4 * over.getValue(...vox.map((n, i) => Math.floor(n / block[i]))), alpha = (over.opacity * over.colours[colour + 3]) / 255;
          for (let c = 0; c < 3; c++) data[to + c] = (1 - alpha) * data[to + c] + alpha * over.colours[colour + c];
        }
      }
      return pixels;
    }
    drawScene() {
      const { canvas } = this, density = window.devicePixelRatio || 1;
      if (!this.volumes.length || !canvas.clientWidth) return;
      canvas.width = Math.round(canvas.clientWidth * density); canvas.height = Math.round(canvas.clientHeight * density);
      const draw = canvas.getContext("2d"), pixels = this.plane(), { across, up, x, y, scale } = this.place();
      Object.assign(this.inner, { width: pixels.width, height: pixels.height });
      this.inner.getContext("2d").putImageData(pixels, 0, 0);
      draw.imageSmoothingEnabled = false;
      const wide = this.size[across] * scale, high = this.size[up] * scale;
      draw.drawImage(this.inner, x - wide, y - high, wide, high);
      this.cross(draw, x, y, scale);
      draw.fillStyle = "#9a9a9a"; draw.font = `${12 * density}px sans-serif`; draw.textAlign = "center"; draw.textBaseline = "middle";
      const rim = 9 * density, middle = [canvas.width / 2, canvas.height / 2], [left, right, top, bottom] = EDGES[this.type];
      draw.fillText(left, rim, middle[1]); draw.fillText(right, canvas.width - rim, middle[1]);
      draw.fillText(top, middle[0], rim); draw.fillText(bottom, middle[0], canvas.height - rim);
    }
    cross(draw, x, y, scale) {
      if (!this.opts.crosshairWidth) return;
      const [across, up] = PLANES[this.type], mm = this.frac2mm(this.scene.crosshairPos), { width, height } = this.canvas;
      const cx = Math.round(x - mm[across] * scale) + 0.5, cy = Math.round(y - mm[up] * scale) + 0.5;
      draw.strokeStyle = "rgba(242, 191, 51, 0.7)";
      draw.beginPath(); draw.moveTo(cx, 0); draw.lineTo(cx, height); draw.moveTo(0, cy); draw.lineTo(width, cy); draw.stroke();
    }
  }
  return { Flat, Image };
})();
