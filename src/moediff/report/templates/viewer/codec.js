// Brings back the volumes that codec.py packed, block by block.

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const pause = () => new Promise((done) => setTimeout(done));

// A packed volume; `levels` (NIfTI order) are 0 in blocks of planes that are not unpacked yet.
class Unpacking {
  constructor(entry, text) {
    const [x, y, z] = entry.shape;
    Object.assign(this, { entry, plane: x * y, texts: text.split(" "), left: new Set() });
    this.levels = new Uint16Array(this.plane * z);
    this.texts.forEach((_, block) => this.left.add(block));
    this.lead = this.plane + x + 1; // zeros stand for the neighbours that the first voxels lack
    this.scratch = new Uint16Array(this.lead + this.plane * entry.block_planes);
  }

  // The block that is left to unpack and lies nearest to a plane.
  nearest(plane) {
    const { block_planes: planes } = this.entry, away = (block) => Math.abs((block + 0.5) * planes - plane - 0.5);
    return [...this.left].reduce((a, b) => (away(b) < away(a) ? b : a));
  }

  async unpack(block) {
    const { levels, plane, entry: { weights, first_weights, block_planes } } = this, start = block * block_planes * plane;
    const bytes = await inflate(bytesOf(this.texts[block])), count = bytes.length / 2;
    this.predict(bytes, 0, plane, first_weights);
    this.predict(bytes, plane, count, weights);
    levels.set(this.scratch.subarray(this.lead, this.lead + count), start);
    this.texts[block] = "";
    this.left.delete(block);
  }

  predict(bytes, from, to, [a, b, c, d, e, f, g, h]) {
    const { scratch: levels, lead, plane, entry: { shape: [x] } } = this, count = bytes.length / 2;
    for (let i = from, at = lead + from; i < to; i++, at++) {
      const above = at - x, before = at - plane;
      let level = (a * levels[at - 1] + b * levels[above] + c * levels[before] + d * levels[above - 1] + e * levels[above + 1]
        + f * levels[before - 1] + g * levels[before - x] + h * levels[before - x - 1] + 128) >> 8;
      if (level < 0) level = 0; else if (level > 32767) level = 32767;
      const folded = bytes[i] | (bytes[count + i] << 8);
      levels[at] = level + ((folded >>> 1) ^ -(folded & 1));
    }
  }
}

// A whole volume.
async function unpackAll(unpacking) {
  for (const block of [...unpacking.left]) {
    await unpacking.unpack(block);
    await pause();
  }
  return unpacking.levels;
}
