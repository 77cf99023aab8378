// What all charts share: elements, numbers, scales, axes, and a tip that follows pointer, keyboard and finger.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  // Text nodes only: nothing from the run is ever read as markup.
  element.append(...children.filter((child) => child !== null));
  return element;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function format(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  const short = Number(value.toPrecision(4));
  return Math.abs(short) >= 1e-3 && Math.abs(short) < 1e6 ? String(short) : short.toExponential();
}
const percent = (share) => (share === null ? "–" : `${format(Math.round(share * 1000) / 10)} %`);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function mix(share) {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1), i = Math.min(Math.floor(place), RAMP.length - 2);
  const at = (colour, c) => parseInt(colour.slice(1 + 2 * c, 3 + 2 * c), 16);
  return [0, 1, 2].map((c) => Math.round(at(RAMP[i], c) + (place - i) * (at(RAMP[i + 1], c) - at(RAMP[i], c))));
}
const colour = (share) => `rgb(${mix(share).join(",")})`;

// Black or white, whichever stands out more (relative luminance as in the WCAG contrast rule).
function ink(share) {
  const linear = mix(share).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return 1.05 / (light + 0.05) > (light + 0.05) / 0.05 ? "white" : "black";
}

function scale(kind, low, high, from, to) {
  const warp = kind === "log" ? Math.log : (value) => value;
  const a = warp(low), b = warp(high) === a ? a + 1 : warp(high);
  const place = (value) => from + ((warp(value) - a) / (b - a)) * (to - from);
  return Object.assign(place, { kind, low, high, from, to });
}

function ticks(place, most) {
  const { low, high, kind } = place;
  if (kind === "log" && high / low > 2) {
    for (const marks of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      const found = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
        for (const m of marks) found.push(Number(`${m}e${e}`));
      }
      const inside = found.filter((t) => t >= low && t <= high);
      if (inside.length <= most && inside.length > 1) return inside;
    }
  }
  const rough = (high - low) / most || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((m) => m * power >= rough) ?? 10);
  const inside = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) inside.push(Number((k * step).toPrecision(12)));
  return inside;
}

function xAxis(box, place, label, values = null) {
  const group = svg("g", { "aria-hidden": "true" });
  for (const value of values ?? ticks(place, Math.max(2, Math.floor((box.right - box.left) / 60)))) {
    const x = place(value);
    group.append(svg("line", { class: "tick", x1: x, x2: x, y1: box.bottom, y2: box.bottom + 5 }));
    group.append(svg("text", { x, y: box.bottom + 19, "text-anchor": "middle" }, format(value)));
  }
  group.append(svg("text", { class: "label", x: (box.left + box.right) / 2, y: box.bottom + 39, "text-anchor": "middle" }, label));
  return group;
}

// names: [place in pixels, text], or null for ticks of a numeric scale.
function yAxis(box, place, label, names = null) {
  const group = svg("g", { "aria-hidden": "true" });
  const marks = names ?? ticks(place, Math.max(2, Math.floor((box.bottom - box.top) / 45))).map((value) => [place(value), format(value)]);
  for (const [y, text] of marks) {
    group.append(svg("line", { class: "tick", x1: box.left - 5, x2: box.left, y1: y, y2: y }));
    group.append(svg("text", { x: box.left - 8, y: y + 4, "text-anchor": "end" }, text));
  }
  const middle = (box.top + box.bottom) / 2;
  group.append(svg("text", { class: "label", x: 13, y: middle, transform: `rotate(-90 13 ${middle})`, "text-anchor": "middle" }, label));
  return group;
}

const frame = (box) => svg("rect", { class: "frame", x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top });

function list(pairs) {
  const made = el("dl");
  for (const [name, value] of pairs) made.append(el("dt", {}, name), el("dd", {}, value));
  return made;
}

// What is known about one cell.
function describe(cell, heading) {
  const axes = Object.entries(cell.cell).filter(([, value]) => value !== null);
  const pairs = cell.pooled ? [["pooled", `${cell.pooled} cells`]] : [["cell", axes.map(([name, value]) => `${name} = ${format(value)}`).join(", ")]];
  pairs.push(
    ["successes", `${cell.successes} of ${cell.trials} (${percent(cell.rate)})`],
    ["95 % interval", `${percent(cell.low)} to ${percent(cell.high)}`],
    ["statuses", Object.entries(cell.statuses).map(([name, count]) => `${count} ${name.toLowerCase().replaceAll("_", " ")}`).join(", ")],
  );
  const medians = Object.entries(cell.medians).filter(([, value]) => value !== null);
  if (medians.length) pairs.push(["medians", medians.map(([name, value]) => `${name} ${format(value)}`).join(", ")]);
  return [el("b", {}, heading), list(pairs)];
}

// Makes a chart answer to pointer, keyboard and touch. marks: rows of {x, y, width, height, tell() -> nodes, pick?()}, each
// row from left to right; bottom: of the frame; hit: (x, y) in the drawing's units -> [row, place] or null.
function interactive(figure, drawing, bottom, marks, hit, outline) {
  const tip = el("div", { class: "tip", role: "status", hidden: true });
  figure.append(tip);
  let at = null;
  const mark = () => marks[at[0]][at[1]];
  function show(place) {
    at = place;
    const found = mark();
    tip.replaceChildren(...found.tell());
    tip.hidden = false;
    for (const shape of outline) {
      for (const name of ["x", "y", "width", "height"]) shape.setAttribute(name, found[name]);
      shape.style.display = "";
    }
    const ratio = drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width || 1;
    const wide = figure.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(wide, (found.x + found.width / 2) * ratio - tip.offsetWidth / 2))}px`;
    // Below the frame, where it hides no cell; nearer where the window ends before that.
    const start = figure.getBoundingClientRect().top, above = drawing.getBoundingClientRect().top - start;
    const under = above + bottom * ratio + 8, beside = above + (found.y + found.height) * ratio + 10;
    tip.style.top = `${Math.max(beside, Math.min(under, window.innerHeight - start - tip.offsetHeight - 6))}px`;
  }
  function hide() {
    tip.hidden = true;
    for (const shape of outline) shape.style.display = "none";
  }
  function place(event) {
    const seen = drawing.getBoundingClientRect(), ratio = drawing.viewBox.baseVal.width / seen.width;
    return hit((event.clientX - seen.left) * ratio, (event.clientY - seen.top) * ratio);
  }
  hide();
  drawing.addEventListener("pointermove", (event) => {
    const found = place(event);
    if (found) show(found);
    else if (event.pointerType === "mouse") hide();
  });
  drawing.addEventListener("pointerdown", (event) => {
    const found = place(event);
    if (found) show(found);
    else hide();
  });
  drawing.addEventListener("click", (event) => {
    const found = place(event);
    if (found) marks[found[0]][found[1]].pick?.();
  });
  drawing.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  drawing.addEventListener("blur", hide);
  drawing.addEventListener("focus", () => drawing.matches(":focus-visible") && show(at ?? first()));
  const first = () => [marks.findIndex((row) => row.length), 0];
  const centre = (found) => found.x + found.width / 2;
  drawing.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    if ((event.key === "Enter" || event.key === " ") && at) {
      event.preventDefault();
      return mark().pick?.();
    }
    const [row, i] = at ?? first();
    const across = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: marks[row].length - 1 }[event.key];
    const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (across === undefined && step === undefined) return;
    event.preventDefault();
    if (at === null || tip.hidden) return show([row, i]);
    if (across !== undefined) return show([row, Math.max(0, Math.min(marks[row].length - 1, across))]);
    let next = row + step;
    while (marks[next] && !marks[next].length) next += step;
    if (!marks[next]) return;
    const here = centre(mark()), far = marks[next].map((other) => Math.abs(centre(other) - here));
    show([next, far.indexOf(Math.min(...far))]);
  });
}
