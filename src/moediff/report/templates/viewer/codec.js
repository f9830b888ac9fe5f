// Brings back the volumes that codec.py packed.

const PAUSE_PLANES = 48; // after so many planes the page gets a chance to draw and to answer

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

// Levels in NIfTI order. `lead` zeros stand for the neighbours that the first voxels lack.
async function unpack({ shape, weights }, base64) {
  const bytes = await inflate(bytesOf(base64)), [x, y, z] = shape, plane = x * y, count = plane * z;
  const lead = plane + x + 1, levels = new Uint16Array(lead + count), [a, b, c, d, e, f, g, h] = weights;
  for (let k = 0; k < z; k++) {
    for (let i = k * plane, at = lead + i; i < (k + 1) * plane; i++, at++) {
      const above = at - x, before = at - plane;
      let level = (a * levels[at - 1] + b * levels[above] + c * levels[before] + d * levels[above - 1] + e * levels[above + 1]
        + f * levels[before - 1] + g * levels[before - x] + h * levels[before - x - 1] + 128) >> 8;
      if (level < 0) level = 0; else if (level > 32767) level = 32767;
      const folded = bytes[i] | (bytes[count + i] << 8);
      levels[at] = level + ((folded >>> 1) ^ -(folded & 1));
    }
    if (k % PAUSE_PLANES === PAUSE_PLANES - 1) await pause();
  }
  return levels.subarray(lead);
}
