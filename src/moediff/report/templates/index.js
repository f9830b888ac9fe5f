// Sorts the table by the heading that is clicked; a second click turns the order round. Unknown values stay last.
(function () {
  "use strict";
  const table = document.getElementById("scans"), body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];

  function compare(a, b) {
    const x = Number(a), y = Number(b);
    return a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y) ? x - y : a.localeCompare(b);
  }

  headings.forEach((heading, column) => {
    heading.querySelector("button")?.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows], value = (row) => row.cells[column].dataset.value;
      rows.sort((a, b) => {
        if ((value(a) === "") !== (value(b) === "")) return value(a) === "" ? 1 : -1;
        return (down ? -1 : 1) * compare(value(a), value(b));
      });
      body.append(...rows);
    });
  });
  document.documentElement.dataset.ready = "yes";
})();
