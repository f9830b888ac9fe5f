// Opens the viewer: unpacks the enhanced scan first, then the others; says why where it cannot.

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
    for (const entry of [...viewer.data.scans].sort((a, b) => (b.key === "enhanced") - (a.key === "enhanced"))) {
      viewer.volumes[entry.key] = new Volume(entry, await unpack(entry, packedText(entry.key)));
      document.getElementById("pack-" + entry.key).remove(); // its memory is no longer needed
      viewer.draw();
      performance.mark("drawn " + entry.key);
      await pause();
    }
    status.textContent = "";
    window.moediffViewer = viewer;
  } catch (error) {
    root.hidden = true;
    stills.open = true;
    status.textContent = `Still pictures are shown instead of the viewer: ${error.message}.`;
  }
  document.documentElement.dataset.ready = "yes";
}

open();
