// The 50 % point of every row with its band, and success along one row.
function interval(transition) {
  if (!known(transition.low) && !known(transition.high)) return "not bracketed";
  return `${known(transition.low) ? format(transition.low) : "below the cells"} to ${known(transition.high) ? format(transition.high) : "above the cells"}`;
}

function tellTransition(panel, row) {
  const t = panel.transitions[row];
  const pairs = [["50 % point", known(t.point) ? format(t.point) : "not bracketed"], ["95 % interval", interval(t)]];
  if (t.note) pairs.push(["note", t.note]);
  for (const curve of panel.curves) pairs.push([curve.label, format(curve.values[row])]);
  return [el("b", {}, `${panel.row_label} = ${panel.row_names[row]}`), list(pairs)];
}

function drawTransitions(figure, panel, width) {
  const cellsLow = Math.min(...panel.points.map((p) => p.left)), cellsHigh = Math.max(...panel.points.map((p) => p.right));
  const wanted = panel.transitions.flatMap((t) => [t.point, t.low, t.high]).concat(panel.curves.flatMap((c) => c.values))
    .filter((value) => known(value)).map((value) => Math.min(cellsHigh, Math.max(cellsLow, value)));
  const open = panel.transitions.some((t) => t.note);
  const least = Math.min(...wanted, open ? cellsLow : Infinity), most = Math.max(...wanted);
  const room = panel.scale === "log" ? [least / (most / least) ** 0.06, most * (most / least) ** 0.06] : [least - 0.06 * (most - least), most + 0.06 * (most - least)];
  const ends = wanted.length && most > least ? [Math.max(cellsLow, room[0]), Math.min(cellsHigh, room[1])] : [cellsLow, cellsHigh];
  const box = { left: 58, right: width - 14, top: 8, bottom: 328 };
  const y = scale(panel.scale, ends[0], ends[1], box.bottom, box.top);
  const numbers = panel.rows.every((row) => typeof row === "number");
  const where = numbers ? panel.rows : panel.rows.map((_, i) => i);
  const gap = (where.at(-1) - where[0]) / Math.max(1, where.length - 1) / 2;
  const logarithmic = numbers && where[0] > 0 && where.at(-1) / where[0] >= 20;
  const x = scale(logarithmic ? "log" : "linear", logarithmic ? where[0] / 1.1 : where[0] - gap, logarithmic ? where.at(-1) * 1.1 : where.at(-1) + gap, box.left, box.right);
  const drawing = svg("svg", {
    class: "chart", viewBox: `0 0 ${width} ${box.bottom + 48}`, tabindex: "0", role: "application", "aria-roledescription": "curve",
    "aria-label": `50 percent point of ${panel.x_label} for every ${panel.row_label}, with its 95 percent band. Arrow keys go from row to row.`,
  });
  const id = `clip-${Math.random().toString(36).slice(2)}`;
  drawing.append(svg("clipPath", { id }, svg("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top })));
  const inside = svg("g", { "clip-path": `url(#${id})` });
  drawing.append(inside);
  const low = (t) => y(known(t.low) ? t.low : ends[0]), high = (t) => y(known(t.high) ? t.high : ends[1]);
  // Rows in which success was never or always seen leave a gap, and between rows with names there is nothing to join.
  const runs = [[]];
  if (numbers) panel.transitions.forEach((t, i) => (known(t.point) || known(t.low) || known(t.high) ? runs.at(-1).push(i) : runs.push([])));
  for (const run of runs.filter((run) => run.length > 1)) {
    const up = run.map((i) => `${x(where[i])} ${high(panel.transitions[i])}`), down = run.map((i) => `${x(where[i])} ${low(panel.transitions[i])}`);
    inside.append(svg("path", { class: "band", d: `M${up.join("L")}L${down.reverse().join("L")}Z` }));
  }
  for (const curve of panel.curves) {
    const places = curve.values.map((value, i) => (known(value) ? `${x(where[i])} ${y(value)}` : null)).filter((place) => place !== null);
    if (places.length) inside.append(svg("path", { class: `theory curve-${curve.style}`, d: `M${places.join("L")}` }));
  }
  const line = panel.transitions.map((t, i) => (known(t.point) ? `${x(where[i])} ${y(t.point)}` : null)).filter((place) => place !== null);
  if (line.length > 1 && runs.filter((run) => run.length).length === 1) inside.append(svg("path", { class: "path", d: `M${line.join("L")}` }));
  const crowded = where.length > 40;
  const marks = panel.transitions.map((t, i) => {
    const px = x(where[i]);
    if (known(t.point)) {
      inside.append(svg("line", { class: "bar", x1: px, x2: px, y1: low(t), y2: high(t) }));
      for (const [end, at] of [[t.low, low(t)], [t.high, high(t)]]) {
        if (known(end) && !crowded) inside.append(svg("line", { class: "bar", x1: px - 4, x2: px + 4, y1: at, y2: at }));
      }
      inside.append(svg("circle", { class: "dot", cx: px, cy: y(t.point), r: crowded ? 2.5 : 4.5 }));
    } else {
      inside.append(svg("text", { x: px, y: box.bottom - 8, "text-anchor": "middle" }, "?"));
    }
    const py = known(t.point) ? y(t.point) : box.bottom - 14;
    return { x: px - 9, y: py - 9, width: 18, height: 18, tell: () => tellTransition(panel, i) };
  });
  drawing.append(frame(box), yAxis(box, y, panel.x_label));
  const every = Math.ceil(where.length / Math.max(2, Math.floor((box.right - box.left) / 45)));
  if (numbers && where.length > 12) drawing.append(xAxis(box, x, panel.row_label));
  else {
    const group = xAxis(box, x, panel.row_label, []);
    where.forEach((value, i) => i % every === 0 && group.append(
      svg("line", { class: "tick", x1: x(value), x2: x(value), y1: box.bottom, y2: box.bottom + 5 }),
      svg("text", { x: x(value), y: box.bottom + 19, "text-anchor": "middle" }, clipped(panel.row_names[i], 10))));
    drawing.append(group);
  }
  const outline = [svg("rect", { class: "chosen", rx: 9 })];
  drawing.append(...outline);
  figure.append(drawing);
  interactive(figure, drawing, box.bottom, [marks], (px) => {
    const far = marks.map((mark) => Math.abs(mark.x + mark.width / 2 - px));
    const i = far.indexOf(Math.min(...far));
    return far[i] <= 40 ? [0, i] : null;
  }, outline);
  figure.append(el("div", { class: "legend" },
    el("span", {}, key(svg("rect", { class: "band", x: 0, y: 1, width: 34, height: 12 }), svg("path", { class: "path", d: "M1 7H33" }), svg("circle", { class: "dot", cx: 17, cy: 7, r: 4 })), "50 % point, 95 % interval"),
    panel.transitions.every((t) => known(t.point)) ? null : el("span", {}, "? not bracketed"),
    ...theoryKeys(panel, false)));
}

function drawRow(figure, panel, row, width) {
  const points = byRow(panel)[row], t = panel.transitions[row];
  const box = { left: 58, right: width - 14, top: 10, bottom: 270 };
  const low = Math.min(...panel.points.map((p) => p.left)), high = Math.max(...panel.points.map((p) => p.right));
  const x = scale(panel.scale, low, high, box.left, box.right), y = scale("linear", 0, 1, box.bottom, box.top);
  const drawing = svg("svg", {
    class: "chart", viewBox: `0 0 ${width} ${box.bottom + 48}`, tabindex: "0", role: "application", "aria-roledescription": "curve",
    "aria-label": `Success rate against ${panel.x_label}${panel.row_label ? ` for ${panel.row_label} = ${panel.row_names[row]}` : ""}. Arrow keys go from cell to cell.`,
  });
  const inside = (value) => known(value) && value >= low && value <= high;
  for (const share of [0.25, 0.5, 0.75]) drawing.append(svg("line", { class: share === 0.5 ? "half-line" : "grid", x1: box.left, x2: box.right, y1: y(share), y2: y(share) }));
  if (known(t.point)) {
    const from = x(t.low ?? low), to = x(t.high ?? high);
    drawing.append(svg("rect", { class: "band", x: Math.min(from, to), y: box.top, width: Math.abs(to - from), height: box.bottom - box.top }));
  }
  for (const curve of panel.curves) {
    const value = curve.values[row];
    if (inside(value)) drawing.append(svg("path", { class: `theory curve-${curve.style}`, d: `M${x(value)} ${box.bottom}V${box.top}` }));
  }
  const run = points.filter((p) => data.cells[p.cell].trials > 0);
  if (run.length > 1) drawing.append(svg("path", { class: "path", d: `M${run.map((p) => `${x(p.x)} ${y(data.cells[p.cell].rate)}`).join("L")}` }));
  const marks = run.map((point) => {
    const cell = data.cells[point.cell], px = x(point.x), py = y(cell.rate);
    drawing.append(svg("line", { class: "bar", x1: px, x2: px, y1: y(cell.low), y2: y(cell.high) }));
    for (const end of [cell.low, cell.high]) drawing.append(svg("line", { class: "bar", x1: px - 3, x2: px + 3, y1: y(end), y2: y(end) }));
    return { x: px - 8, y: py - 8, width: 16, height: 16, tell: () => describe(cell, heading(panel, point)) };
  });
  for (const mark of marks) drawing.append(svg("circle", { class: "dot", cx: mark.x + 8, cy: mark.y + 8, r: marks.length > 60 ? 2.5 : 4 }));
  drawing.append(frame(box), xAxis(box, x, panel.x_label), yAxis(box, y, "success rate"));
  const outline = [svg("rect", { class: "chosen", rx: 8 })];
  drawing.append(...outline);
  figure.append(drawing);
  interactive(figure, drawing, box.bottom, [marks], (px) => {
    const far = marks.map((mark) => Math.abs(mark.x + 8 - px));
    const i = far.indexOf(Math.min(...far));
    return far[i] <= 40 ? [0, i] : null;
  }, outline);
}
