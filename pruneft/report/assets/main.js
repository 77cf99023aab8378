// Lays out the panels, and draws them again when the width of the page changes.
function section(panel, number) {
  const id = `panel-${number}`;
  const made = el("section", { "aria-labelledby": id }, el("h2", { id }, panel.title || (panel.rows.length > 1 ? "Phase diagram" : "Success curve")));
  const figures = [];
  const add = (parent, title, draw, ...extra) => {
    const figure = el("figure", {}, el("h3", {}, title), ...extra);
    parent.append(figure);
    let width = 0;
    const redraw = (force) => {
      const now = Math.max(260, Math.floor(figure.clientWidth));
      if (!force && Math.abs(now - width) < 3) return;
      width = now;
      for (const old of figure.querySelectorAll(":scope > svg, :scope > .tip, :scope > .legend")) old.remove();
      draw(figure, now);
    };
    figures.push(redraw);
    return redraw;
  };
  const many = panel.rows.length > 1;
  let row = Math.max(0, panel.transitions.findIndex((t) => known(t.point)));
  let choice = null, redrawRow = () => {};
  const pick = (next) => {
    row = next;
    if (choice) choice.value = String(next);
    redrawRow(true);
  };
  if (many) {
    const pair = el("div", { class: "pair" });
    made.append(pair);
    add(pair, "Success rate", (figure, width) => drawDiagram(figure, panel, width, pick));
    add(pair, "Transition", (figure, width) => drawTransitions(figure, panel, width));
    made.append(el("p", { class: "hint" },
      "Point at a cell, tap it, or go through the cells with the arrow keys to see its counts; a click or Enter shows its row below. " + data.method));
    choice = el("select", { id: `${id}-row` }, ...panel.row_names.map((name, i) => el("option", { value: String(i) }, name)));
    choice.value = String(row);
    choice.addEventListener("change", () => pick(Number(choice.value)));
    redrawRow = add(made, "Success along one row", (figure, width) => drawRow(figure, panel, row, width),
      el("p", {}, el("label", { for: `${id}-row` }, `${panel.row_label} `), choice));
  } else {
    add(made, "Success rate", (figure, width) => drawRow(figure, panel, 0, width));
    const t = panel.transitions[0];
    made.append(el("p", {}, known(t.point) ? `50 % point: ${panel.x_label} = ${format(t.point)}, 95 % interval ${interval(t)}.` : `50 % point: not bracketed, ${t.note}.`));
  }
  made.append(transitionTable(panel));
  return [made, figures];
}

const place = document.getElementById("panels"), redraws = [];
data.panels.forEach((panel, number) => {
  const [made, figures] = section(panel, number);
  place.append(made);
  redraws.push(...figures);
});
cellTable(document.getElementById("cells"));
const redrawAll = () => redraws.forEach((redraw) => redraw(false));
redrawAll();
let later = 0;
new ResizeObserver(() => {
  clearTimeout(later);
  later = setTimeout(redrawAll, 120); // once, when the window has come to rest
}).observe(place);
