// Tables: one that sorts by its headings, and the rows' transitions.
// A browser lays out so many rows at once without a pause.
const FIRST_ROWS = 100, MORE_ROWS = 500;

function compare(a, b) {
  if (!known(a) || !known(b)) return known(b) - known(a); // what is missing comes last, whichever way
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

// columns: {title, value(item), text?(item), name?: true for a row's heading}
function sortable(items, columns, caption, most = FIRST_ROWS) {
  let order = items.slice(), sorted = -1, rising = true, shown = Math.min(most, items.length);
  const body = el("tbody"), more = el("button", { type: "button", class: "more" });
  const line = (item) => el("tr", {}, ...columns.map((column) => {
    const value = column.value(item);
    return el("td", { class: typeof value === "number" || value === null ? "number" : null }, column.text ? column.text(item) : format(value));
  }));
  function fillBody(from = 0) {
    if (from === 0) body.replaceChildren();
    body.append(...order.slice(from, shown).map(line));
    more.hidden = shown >= items.length;
    more.textContent = `${shown} of ${items.length} rows: show ${Math.min(MORE_ROWS, items.length - shown)} more`;
  }
  const heads = columns.map((column, i) => {
    const button = el("button", { type: "button" }, column.title);
    const head = el("th", { scope: "col", "aria-sort": "none", class: items.every((item) => typeof column.value(item) !== "string") ? "number" : null }, button);
    button.addEventListener("click", () => {
      rising = sorted === i ? !rising : true;
      sorted = i;
      const missing = (item) => !known(column.value(item));
      order = items.slice().sort((a, b) => (missing(a) || missing(b) ? compare(column.value(a), column.value(b)) : (rising ? 1 : -1) * compare(column.value(a), column.value(b))));
      heads.forEach((other, j) => other.setAttribute("aria-sort", j !== i ? "none" : rising ? "ascending" : "descending"));
      fillBody();
    });
    return head;
  });
  more.addEventListener("click", () => {
    const from = shown;
    shown = Math.min(items.length, shown + MORE_ROWS);
    fillBody(from);
  });
  fillBody();
  return [
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      el("table", {}, el("caption", { class: "visually-hidden" }, caption), el("thead", {}, el("tr", {}, ...heads)), body)),
    more,
  ];
}

function cellTable(section) {
  const cells = data.cells.slice(0, data.listed);
  if (!cells.length) return;
  const names = data.varying.length ? data.varying : data.axes.slice(0, 1);
  const fixed = data.axes.filter((name) => !names.includes(name) && cells[0].cell[name] !== null);
  if (fixed.length) section.append(el("p", { class: "hint" }, `In all cells: ${fixed.map((name) => `${name} = ${format(cells[0].cell[name])}`).join(", ")}.`));
  section.append(...sortable(cells, [
    ...names.map((name) => ({ title: name, value: (c) => c.cell[name] })),
    { title: "successes", value: (c) => c.successes },
    { title: "trials", value: (c) => c.trials },
    { title: "rate", value: (c) => c.rate },
    { title: "95 % interval", value: (c) => c.low, text: (c) => `${c.low.toFixed(3)} to ${c.high.toFixed(3)}` },
    { title: "statuses", value: (c) => Object.entries(c.statuses).map(([name, count]) => `${count} ${name.toLowerCase().replaceAll("_", " ")}`).join(", ") },
    ...data.medians.map((name) => ({ title: `median ${name}`, value: (c) => c.medians[name] ?? null })),
  ], "all cells"));
  section.hidden = false;
}

function transitionTable(panel) {
  const items = panel.rows.map((row, i) => ({ row, i, t: panel.transitions[i] }));
  return el("details", {}, el("summary", {}, "50 % points as a table"), el("p", { class: "hint" }, `In units of ${panel.x_label}.`), ...sortable(items, [
    { title: panel.row_label || "row", value: (item) => item.row, text: (item) => panel.row_names[item.i] },
    { title: "50 % point", value: (item) => item.t.point, text: (item) => (known(item.t.point) ? format(item.t.point) : "not bracketed") },
    { title: "95 % interval", value: (item) => item.t.low, text: (item) => interval(item.t) },
    { title: "note", value: (item) => item.t.note },
    ...panel.curves.map((curve) => ({ title: curve.label, value: (item) => curve.values[item.i] })),
  ], `50 percent points ${panel.title}`));
}
