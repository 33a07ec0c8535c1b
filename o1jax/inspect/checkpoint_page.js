"use strict";
// Find: rows of the tables that sort whose array's name holds the text.
const find = document.getElementById("find");
const named = [...document.querySelectorAll("table:not(.tree) tbody tr")]
  .filter((row) => row.querySelector("code"));
find.hidden = named.length === 0;
find.addEventListener("input", () => {
  const text = find.value.toLowerCase();
  for (const row of named) {
    row.hidden = !row.querySelector("code").textContent.toLowerCase().includes(text);
  }
});

// Sort by a column: largest numbers first, then smallest; texts from a to z.
for (const head of document.querySelectorAll("table:not(.tree) th")) {
  head.tabIndex = 0;
  head.addEventListener("click", () => sort(head));
  head.addEventListener("keydown", (event) => {
    if (event.key === "Enter") sort(head);
  });
}

function sort(head) {
  const column = head.cellIndex;
  const body = head.closest("table").tBodies[0];
  const rows = [...body.rows];
  const isNumber = rows.some((row) => "n" in row.cells[column].dataset);
  const first = isNumber ? "descending" : "ascending";
  const other = isNumber ? "ascending" : "descending";
  const order = head.ariaSort === first ? other : first;
  for (const one of head.parentNode.cells) one.removeAttribute("aria-sort");
  head.ariaSort = order;
  const sign = order === "ascending" ? 1 : -1;
  const key = (row) => row.cells[column].dataset.n;
  const text = (row) => row.cells[column].textContent;
  rows.sort((a, b) => {
    if (!isNumber) return sign * text(a).localeCompare(text(b));
    if (key(a) === undefined || key(b) === undefined) {
      return (key(a) === undefined) - (key(b) === undefined);  // empty cells last
    }
    return sign * (Number(key(a)) - Number(key(b)));
  });
  body.append(...rows);
}
