// The phase diagram: a band per row, a rectangle per cell, the 50 % points and the theory curves over them.
const known = (value) => value !== null && value !== undefined;

function byRow(panel) {
  const rows = panel.rows.map(() => []);
  for (const point of panel.points) rows[point.row].push(point);
  for (const row of rows) row.sort((a, b) => a.x - b.x);
  return rows;
}

function heading(panel, point) {
  const cell = data.cells[point.cell];
  if (cell.pooled) return Object.entries(cell.cell).map(([name, value]) => `${name} ${value}`).join("; ");
  const row = panel.row_label ? `${panel.row_label} = ${panel.row_names[point.row]}, ` : "";
  return `${row}${panel.x_label} = ${format(point.x)}`;
}

const longest = (names) => Math.max(0, ...names.map((name) => name.length));

function clipped(text, most = 14) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function fraction(rate) {
  return rate === 0 || rate === 1 ? String(rate) : Math.min(0.99, Math.max(0.01, rate)).toFixed(2).slice(1);
}

function drawDiagram(figure, panel, width, onPick) {
  const rows = byRow(panel), count = rows.length, names = panel.row_names.map((name) => clipped(name));
  const band = Math.min(64, Math.max(2, Math.floor((count > 12 ? 420 : 320) / count)));
  const box = { left: 30 + Math.max(2, longest(names)) * 7, right: width - 14, top: 8, bottom: 8 + band * count };
  const low = Math.min(...panel.points.map((p) => p.left)), high = Math.max(...panel.points.map((p) => p.right));
  const x = scale(panel.scale, low, high, box.left, box.right);
  const top = (row) => box.bottom - band * (row + 1);
  const drawing = svg("svg", {
    class: "chart on-cells", viewBox: `0 0 ${width} ${box.bottom + 48}`, tabindex: "0", role: "application",
    "aria-roledescription": "phase diagram",
    "aria-label": `Success rate over ${panel.row_label} and ${panel.x_label}${panel.title ? `, ${panel.title}` : ""}. Arrow keys go from cell to cell.`,
  });
  const cells = svg("g", { class: "cells" });
  const dense = panel.points.length > 1500 || band < 6;
  const room = dense || band < 14 ? [] : panel.points.filter((p) => x(p.right) - x(p.left) >= 18);
  const marks = rows.map((row) => row.map((point) => {
    const cell = data.cells[point.cell], left = x(point.left), right = x(point.right);
    const empty = cell.trials === 0;
    cells.append(svg("rect", {
      class: `cell${dense ? " dense" : ""}${empty ? " empty" : ""}`, x: left, y: top(point.row),
      width: Math.max(0.5, right - left), height: band, fill: empty ? null : colour(cell.rate),
    }));
    return {
      x: left, y: top(point.row), width: right - left, height: band,
      tell: () => describe(cell, heading(panel, point)), pick: () => onPick(point.row),
    };
  }));
  drawing.append(cells);
  const used = panel.transitions.map((t, row) => [t, row]).filter(([t]) => known(t.point) && t.point >= low && t.point <= high);
  const taken = panel.rows.map(() => []);
  for (const [t, row] of used) taken[row].push(x(t.point));
  for (const curve of panel.curves) {
    drawing.append(drawTheory(curve, x, box, top, band, taken));
  }
  for (const [t, row] of used) {
    const at = x(t.point);
    for (const name of ["half-casing", "half"]) drawing.append(svg("line", { class: name, x1: at, x2: at, y1: top(row), y2: top(row) + band }));
  }
  if (room.length * 2 >= panel.points.length) {
    for (const point of room) {
      const cell = data.cells[point.cell];
      if (cell.trials === 0) continue;
      const at = clear(taken[point.row], x(point.left), x(point.right), fraction(cell.rate).length * 3 + 4);
      if (at !== null) drawing.append(svg("text", { class: `fraction ${ink(cell.rate)}`, x: at, y: top(point.row) + band / 2 + 3.5, "text-anchor": "middle" }, fraction(cell.rate)));
    }
  }
  drawing.append(frame(box), xAxis(box, x, panel.x_label));
  const every = Math.ceil(count / Math.max(1, Math.floor((band * count) / 15)));
  drawing.append(yAxis(box, null, panel.row_label, names.map((name, row) => [top(row) + band / 2, name]).filter((_, row) => row % every === 0)));
  const outline = ["chosen", "chosen inner"].map((name) => svg("rect", { class: name }));
  drawing.append(...outline);
  figure.append(drawing);
  interactive(figure, drawing, box.bottom, marks, (px, py) => {
    const row = Math.floor((box.bottom - py) / band);
    const i = (marks[row] ?? []).findIndex((mark) => px >= mark.x && px <= mark.x + mark.width);
    return i < 0 ? null : [row, i];
  }, outline);
  figure.append(diagramLegend(panel, used.length > 0));
}

// The place nearest to a cell's middle where a word of this half width meets no line; null if there is none.
function clear(lines, left, right, half) {
  const middle = (left + right) / 2;
  const free = [middle, ...lines.flatMap((line) => [line - half, line + half])].filter((place) =>
    (place === middle || (place - half >= left - 2 && place + half <= right + 2)) && lines.every((line) => Math.abs(line - place) >= half - 0.01));
  return free.length ? free.reduce((best, place) => (Math.abs(place - middle) < Math.abs(best - middle) ? place : best)) : null;
}

// Upright in every band, joined at the seams; an arrow at the frame where it lies out of range.
function drawTheory(curve, x, box, top, band, taken) {
  const group = svg("g");
  let path = "", open = false;
  curve.values.forEach((value, row) => {
    if (!known(value) || value < x.low || value > x.high) {
      open = false;
      if (known(value)) {
        const right = value > x.high, edge = right ? box.right : box.left, y = top(row) + band / 2, d = right ? -7 : 7;
        group.append(svg("path", { class: `arrow arrow-${curve.style}`, d: `M${edge} ${y}l${d} -4.5v9z`, stroke: "#fff", "stroke-width": 0.8 }));
      }
      return;
    }
    const at = x(value);
    taken[row].push(at);
    path += `${open ? "L" : "M"}${at} ${top(row) + band}L${at} ${top(row)}`;
    open = true;
  });
  if (path) group.prepend(svg("path", { class: "casing", d: path }), svg("path", { class: `theory curve-${curve.style}`, d: path }));
  return group;
}

function key(...shapes) {
  return svg("svg", { viewBox: "0 0 34 14", "aria-hidden": "true" }, ...shapes);
}

function theoryKeys(panel, cased) {
  return panel.curves.map((curve) => el("span", { class: cased ? "on-cells" : null },
    key(cased ? svg("path", { class: "casing", d: "M1 7H33" }) : null, svg("path", { class: `theory curve-${curve.style}`, d: "M1 7H33" })), curve.label));
}

function diagramLegend(panel, half) {
  const legend = el("div", { class: "legend" }, el("span", {}, "success rate 0", el("span", { class: "ramp" }), "1"));
  if (half) legend.append(el("span", {}, key(svg("line", { class: "half-casing", x1: 17, x2: 17, y1: 0, y2: 14 }), svg("line", { class: "half", x1: 17, x2: 17, y1: 0, y2: 14 })), "50 % point"));
  legend.append(...theoryKeys(panel, true));
  return legend;
}
