// One view: a canvas with its name, orientation letters and scale bar. It draws what the shared state says.

const BAR_MM = [100, 50, 20, 10, 5, 2, 1], BAR_SHARE = 0.3; // of the width, at most

function element(kind, className, parent) {
  const made = document.createElement(kind);
  made.className = className;
  parent.append(made);
  return made;
}

class View {
  constructor(parent, box) {
    this.box = box; // its size along x, y, z, mm
    this.figure = element("figure", "view", parent);
    this.canvas = element("canvas", "", this.figure);
    this.canvas.setAttribute("role", "img");
    this.buffer = document.createElement("canvas");
    this.name = element("figcaption", "name", this.figure);
    this.other = element("span", "name other", this.figure);
    this.letters = ["left", "right", "top", "bottom"].map((side) => element("span", "letter " + side, this.figure));
    this.bar = element("span", "bar", this.figure);
  }

  resize() {
    this.density = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * this.density));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * this.density));
  }

  // Pixels a mm, and the pixel of the box's corner; both axes run against the pixels.
  geometry({ zoom, centre }) {
    const [across, up] = PLANES[this.plane], { width, height } = this.canvas;
    const scale = zoom * Math.min(width / this.box[across], height / this.box[up]);
    return { across, up, scale, x: width / 2 + scale * centre[across], y: height / 2 + scale * centre[up] };
  }

  // The position under a point of the window; along the axis through the plane it is the cross's.
  positionAt(clientX, clientY, state) {
    const { across, up, scale, x, y } = this.geometry(state), box = this.canvas.getBoundingClientRect(), at = [...state.at];
    at[across] = (x - (clientX - box.left) * this.density) / scale;
    at[up] = (y - (clientY - box.top) * this.density) / scale;
    return at;
  }

  place(image, volume, state, smooth) {
    if (!image) return;
    const { across, up, scale, x, y } = this.geometry(state), [left, right] = volume.ends(across), [low, high] = volume.ends(up);
    Object.assign(this.buffer, { width: image.width, height: image.height });
    this.buffer.getContext("2d").putImageData(image, 0, 0);
    const draw = this.canvas.getContext("2d");
    draw.imageSmoothingEnabled = smooth;
    draw.imageSmoothingQuality = "high";
    draw.drawImage(this.buffer, x - right * scale, y - high * scale, (right - left) * scale, (high - low) * scale);
  }

  scan(volume, state, table) {
    this.place(volume.pixels(this.plane, state.at[PLANES[this.plane][2]], table), volume, state, state.smooth);
  }

  // A map, cut to where the scan under it is shown.
  map(volume, state) {
    const image = volume.pixels(this.plane, state.at[PLANES[this.plane][2]], volume.table), draw = this.canvas.getContext("2d");
    if (!image) return;
    draw.globalAlpha = volume.outline ? Math.min(1, 1.6 * state.opacity) : state.opacity;
    if (volume.outline) this.outline(image, volume, state);
    else this.place(image, volume, state, !volume.labels.length);
    draw.globalAlpha = 1;
  }

  // Thin lines along the edges of voxels, so that a small lesion is not covered by its outline.
  outline(image, volume, state) {
    const { across, up, scale, x, y } = this.geometry(state), right = volume.ends(across)[1], high = volume.ends(up)[1];
    const [wide, tall] = [volume.voxel_mm[across] * scale, volume.voxel_mm[up] * scale], draw = this.canvas.getContext("2d");
    const [red, green, blue] = volume.labels[0].colour;
    draw.strokeStyle = `rgb(${red}, ${green}, ${blue})`;
    draw.lineWidth = 1.5 * this.density;
    draw.beginPath();
    for (const [column, row, down] of edgesOf(image)) {
      const left = x - right * scale + column * wide, top = y - high * scale + row * tall;
      draw.moveTo(left, top);
      draw.lineTo(left + (down ? 0 : wide), top + (down ? tall : 0));
    }
    draw.stroke();
  }

  // `scans`: one, or the one on the left of the edge and the one on its right. `over`: a map on the last of them, or null.
  draw(scans, over, state, table) {
    const draw = this.canvas.getContext("2d"), { width, height } = this.canvas;
    draw.fillStyle = "#000";
    draw.fillRect(0, 0, width, height);
    if (!scans.every(Boolean)) return;
    this.scan(scans[0], state, table);
    const last = scans[scans.length - 1];
    draw.save();
    if (scans.length === 2) {
      const edge = Math.round(state.edge * width);
      draw.beginPath();
      draw.rect(edge, 0, width - edge, height);
      draw.clip();
      draw.fillStyle = "#000";
      draw.fillRect(edge, 0, width - edge, height);
      this.scan(last, state, table);
    }
    if (over) this.map(over, state);
    draw.restore();
    if (scans.length === 2) this.edge(state);
    if (state.cross) this.cross(state);
    this.words(scans, state);
  }

  edge(state) {
    const draw = this.canvas.getContext("2d"), { width, height } = this.canvas;
    draw.fillStyle = "#fff";
    draw.fillRect(Math.round(state.edge * width) - this.density, 0, 2 * this.density, height);
  }

  // Thin lines that leave the place itself free.
  cross(state) {
    const draw = this.canvas.getContext("2d"), { across, up, scale, x, y } = this.geometry(state), { width, height } = this.canvas;
    const cx = Math.round(x - state.at[across] * scale), cy = Math.round(y - state.at[up] * scale), gap = 14 * this.density, thin = Math.max(1, Math.round(this.density / 1.5));
    draw.fillStyle = "rgba(255, 214, 74, 0.75)";
    draw.fillRect(cx, 0, thin, Math.max(0, cy - gap));
    draw.fillRect(cx, cy + gap, thin, height);
    draw.fillRect(0, cy, Math.max(0, cx - gap), thin);
    draw.fillRect(cx + gap, cy, width, thin);
  }

  words(scans, state) {
    const titles = scans.map((scan) => `${scan.title}, ${scan.voxel_size}`), last = titles[titles.length - 1];
    this.name.textContent = titles[0];
    this.other.textContent = titles.length === 2 ? last : "";
    this.canvas.setAttribute("aria-label", `${titles.join(" and ")}; ${this.plane} plane`);
    this.letters.forEach((letter, i) => { letter.textContent = EDGES[this.plane][i]; });
    const pixel = this.geometry(state).scale / this.density, most = BAR_SHARE * this.canvas.clientWidth;
    const mm = BAR_MM.find((length) => length * pixel <= most) ?? 1;
    this.bar.style.width = `${mm * pixel}px`;
    this.bar.textContent = mm >= 10 ? `${mm / 10} cm` : `${mm} mm`;
  }
}
