// Opens the viewer: unpacks what is shown first, then the rest; says why where it cannot.

// Unpacks the block of each scan that lies nearest to the slice on show, then the next ones, drawing after each round.
async function unpackScans(viewer, drawn) {
  const scans = [...viewer.data.scans].sort((a, b) => (b.key === "enhanced") - (a.key === "enhanced"));
  const waiting = scans.map((entry) => {
    const unpacking = new Unpacking(entry, packedText(entry.key));
    document.getElementById("pack-" + entry.key).remove(); // its memory is no longer needed
    viewer.volumes[entry.key] = new Volume(entry, unpacking.levels);
    return unpacking;
  });
  const blocks = () => waiting.reduce((sum, { left }) => sum + left.size, 0), all = blocks();
  while (blocks()) {
    for (const unpacking of waiting) {
      if (!unpacking.left.size) continue;
      await unpacking.unpack(unpacking.nearest(viewer.volumes[unpacking.entry.key].plane(viewer.state.at[2])));
    }
    viewer.unpacked = 1 - blocks() / all;
    viewer.draw();
    drawn();
    await pause();
  }
}

async function open() {
  const status = document.getElementById("status"), stills = document.getElementById("stills"), root = document.getElementById("viewer");
  addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("#stills, #settings")) part.open = true; });
  try {
    if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old to unpack the volumes");
    const viewer = new Viewer(root, JSON.parse(document.getElementById("data").textContent));
    root.hidden = false;
    viewer.tabulate();
    viewer.arrange();
    connect(viewer);
    onKeys(viewer);
    onPointers(viewer);
    onWheel(viewer);
    stills.open = false;
    await unpackScans(viewer, () => {
      if (status.textContent) performance.mark("drawn");
      status.textContent = "";
    });
    window.moediffViewer = viewer;
  } catch (error) {
    root.hidden = true;
    stills.open = true;
    status.textContent = `Still pictures are shown instead of the viewer: ${error.message}.`;
  }
  document.documentElement.dataset.ready = "yes";
}

open();
