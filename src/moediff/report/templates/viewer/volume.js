// Volumes in the display's box, and their planes as pixels. Planes are radiological: columns run to the patient's left, or
// to the back in sagittal planes; rows run downwards. Positions are mm from the box's outer corner along x, y, z.

const PLANES = { axial: [0, 1, 2], coronal: [0, 2, 1], sagittal: [1, 2, 0] }; // across, up, through
const EDGES = { axial: ["R", "L", "A", "P"], coronal: ["R", "L", "S", "I"], sagittal: ["A", "P", "S", "I"] };
const LEVELS = 32768;

class Volume {
  constructor(entry, levels) {
    Object.assign(this, entry, { levels });
    this.strides = [1, entry.shape[0], entry.shape[0] * entry.shape[1]];
  }

  // The voxel along an axis that holds a position; -1 outside.
  index(axis, mm) {
    const index = Math.floor((mm - this.start_mm[axis]) / this.voxel_mm[axis] + 1e-6);
    return index >= 0 && index < this.shape[axis] ? index : -1;
  }

  // The axial plane nearest to a height.
  plane(mm) { return Math.min(this.shape[2] - 1, Math.max(0, Math.floor((mm - this.start_mm[2]) / this.voxel_mm[2]))); }

  // The level at a position; null outside.
  level(at) {
    const [i, j, k] = at.map((mm, axis) => this.index(axis, mm));
    return Math.min(i, j, k) < 0 ? null : this.levels[i + j * this.strides[1] + k * this.strides[2]];
  }

  ends(axis) {
    return [this.start_mm[axis], this.start_mm[axis] + this.shape[axis] * this.voxel_mm[axis]];
  }

  // One plane as ImageData: `table` holds red, green, blue and opacity of every level. Null outside the volume.
  pixels(plane, mm, table) {
    const [across, up, through] = PLANES[plane], index = this.index(through, mm);
    if (index < 0) return null;
    const width = this.shape[across], height = this.shape[up], image = new ImageData(width, height);
    const out = new Uint32Array(image.data.buffer), base = index * this.strides[through];
    for (let v = height - 1, to = 0; v >= 0; v--) {
      let from = base + v * this.strides[up] + (width - 1) * this.strides[across];
      for (let u = 0; u < width; u++, to++, from -= this.strides[across]) out[to] = table[this.levels[from]];
    }
    return image;
  }
}

// One 32-bit pixel of ImageData, whose bytes are red, green, blue and opacity.
const packPixel = (() => {
  const little = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
  return (r, g, b, a) => (little ? (a << 24) | (b << 16) | (g << 8) | r : (r << 24) | (g << 16) | (b << 8) | a) >>> 0;
})();

// Level -> grey in a window of intensities.
function greyTable({ low, step }, window, table) {
  const gain = 255 / Math.max(1e-12, window.high - window.low);
  for (let level = 0; level < LEVELS; level++) {
    const grey = Math.min(255, Math.max(0, Math.round((low + level * step - window.low) * gain)));
    table[level] = packPixel(grey, grey, grey, 255);
  }
  return table;
}

// Level -> colour of a map.
function colourTable(rgba) {
  const table = new Uint32Array(256);
  for (let level = 0; level < 256; level++) table[level] = packPixel(...rgba.slice(4 * level, 4 * level + 4));
  return table;
}

// Sides of pixels at which coloured areas end: column and row of where one begins, and whether it runs downwards.
function edgesOf(image) {
  const { width, height } = image, pixels = new Uint32Array(image.data.buffer), edges = [];
  const at = (column, row) => column >= 0 && row >= 0 && column < width && row < height && pixels[row * width + column] !== 0;
  for (let row = 0; row <= height; row++) {
    for (let column = 0; column <= width; column++) {
      const here = at(column, row);
      if (here !== at(column - 1, row)) edges.push([column, row, true]);
      if (here !== at(column, row - 1)) edges.push([column, row, false]);
    }
  }
  return edges;
}
