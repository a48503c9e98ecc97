// On a phone, a table of sentences that is wider than the page is read as a list: each row a block, each cell under the
// name of its column. Tables of numbers and symbols stay what they are, and scroll. Without this script all of them do.
(() => {
  const SENTENCE = 32; // characters: a cell as long as that is read, not looked up
  const narrow = matchMedia("(max-width: 576px)");
  const roles = [["table", "table"], ["tbody", "rowgroup"], ["tr", "row"], ["td", "cell"]];

  const columns = (table) => [...(table.tHead?.rows[0]?.cells ?? [])]; // the corner, too: it may be a td
  const namedBy = ({ innerHTML }) => Object.assign(document.createElement("span"), { className: "column", innerHTML });
  const prose = (table) => [...table.querySelectorAll("td")].some((cell) => cell.textContent.length > SENTENCE);

  // The names are written into the cells once, before formulas are set, and shown only in a list.
  const name = (table) => {
    for (const row of table.querySelectorAll("tbody tr"))
      [...row.cells].forEach((cell, i) => {
        const head = columns(table)[i];
        if (i && /^[\s–]*$/.test(cell.textContent)) cell.classList.add("nothing");
        else if (i && head?.textContent.trim()) cell.prepend(namedBy(head));
      });
  };
  const fit = (table) => {
    table.classList.remove("stacked");
    const room = Math.min(table.clientWidth, table.parentElement.clientWidth); // the theme's frame scrolls, or the table
    const stacked = narrow.matches && table.scrollWidth > room + 2;
    table.classList.toggle("stacked", stacked);
    for (const [tag, role] of roles) // as blocks they would lose their meaning for those who listen
      for (const part of [table, ...table.querySelectorAll(tag)].filter((each) => each.matches(tag)))
        stacked ? part.setAttribute("role", role) : part.removeAttribute("role");
  };

  addEventListener("DOMContentLoaded", () => {
    const tables = [...document.querySelectorAll(".bd-article table:not(.dataframe)")].filter(
      (table) => !table.closest(".explorer") && columns(table).length > 1 && prose(table)
    );
    const all = () => tables.forEach(fit);
    tables.forEach(name);
    all();
    narrow.addEventListener("change", all);
    for (const fold of document.querySelectorAll("details")) fold.addEventListener("toggle", all); // no width while shut
  });
})();
