"use strict";
// The curves of a run. Names of metrics are data: they go in as text.
const thymeCurves = (() => {
  const [WIDTH, HEIGHT] = [340, 168];
  const PLOT = { left: 40, right: 8, top: 8, bottom: 20 };
  const COLOURS = 8;

  function shape(tag, attributes) {
    // The page names no address, and so no namespace: it is read off a drawing that is there.
    const node = document.createElementNS(document.getElementById("shapes").namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  }
  const short = (x) => (Math.abs(x) >= 1000 ? `${+(x / 1000).toPrecision(3)}k` : String(+x.toPrecision(3))).replace("-", "\u2212");

  // Round numbers that lie in a range, three or four of them.
  function ticks(low, high) {
    const rough = (high - low) / 3;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
    return found;
  }

  function draw(el, panel, resumed, onStep) {
    const points = panel.series.flatMap((line) => line.points);
    const steps = points.map((p) => p[0]);
    const values = points.map((p) => p[1]);
    let [first, last] = [Math.min(...steps), Math.max(...steps)];
    let [low, high] = panel.unit === "share" ? [0, 1] : [Math.min(...values), Math.max(...values)];
    if (low === high) [low, high] = [low - 0.5, high + 0.5];
    if (first === last) [first, last] = [first - 0.5, last + 0.5];
    const margin = (high - low) * 0.06;
    [low, high] = [low - margin, high + margin];
    const x = (step) => PLOT.left + ((step - first) / (last - first)) * (WIDTH - PLOT.left - PLOT.right);
    const y = (value) => HEIGHT - PLOT.bottom - ((value - low) / (high - low)) * (HEIGHT - PLOT.top - PLOT.bottom);

    const title = panel.unit ? `${panel.title} (${panel.unit})` : panel.title;
    const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img", "aria-label": `${title}, steps ${short(Math.min(...steps))} to ${short(Math.max(...steps))}` });
    for (const value of ticks(low, high)) {
      svg.append(shape("line", { x1: PLOT.left, x2: WIDTH - PLOT.right, y1: y(value), y2: y(value), class: "grid" }));
      const label = shape("text", { x: PLOT.left - 5, y: y(value) + 3, "text-anchor": "end" });
      label.textContent = short(value);
      svg.append(label);
    }
    for (const step of ticks(first, last).filter(Number.isInteger)) {
      const label = shape("text", { x: x(step), y: HEIGHT - 6, "text-anchor": "middle" });
      label.textContent = short(step);
      svg.append(label);
    }
    for (const step of resumed) {
      const mark = shape("line", { x1: x(step), x2: x(step), y1: PLOT.top, y2: HEIGHT - PLOT.bottom, class: "resumed" });
      mark.append(shape("title", {}));
      mark.firstChild.textContent = `resumed after step ${step}`;
      svg.append(mark);
    }
    const names = [...new Set(panel.series.map((line) => line.name))];
    const tone = (line) => `tone${names.indexOf(line.name) % COLOURS}`;
    for (const line of panel.series) {
      const places = line.points.map(([step, value]) => `${x(step).toFixed(1)} ${y(value).toFixed(1)}`);
      svg.append(shape("path", { d: `M${places.join("L")}`, class: `curve ${tone(line)} ${line.heldOut ? "held" : ""}` }));
      if (line.heldOut || line.points.length === 1) {
        for (const [step, value] of line.points) svg.append(shape("circle", { cx: x(step), cy: y(value), r: 2.8, class: `dot ${tone(line)}` }));
      }
    }
    const cursor = shape("line", { y1: PLOT.top, y2: HEIGHT - PLOT.bottom, class: "cursor", visibility: "hidden" });
    svg.append(cursor);

    const keys = panel.series.map((line) => {
      const value = el("b");
      const node = el("span", { cls: `key ${line.heldOut ? "held" : ""}` }, el("i", { cls: tone(line) }), el("span", { text: line.heldOut ? `${line.name}, held out` : line.name }), " ", value);
      return { line, value, node };
    });
    const at = el("span", { cls: "at" });
    const known = [...new Set(steps)].sort((a, b) => a - b);
    const closest = (list, step) => list.reduce((best, s) => (Math.abs(s - step) < Math.abs(best - step) ? s : best));
    function under(event) {
      const box = svg.getBoundingClientRect();
      const place = ((event.clientX - box.left) / box.width) * WIDTH;
      return closest(known, first + ((place - PLOT.left) / (WIDTH - PLOT.left - PLOT.right)) * (last - first));
    }
    function read(step) {
      at.textContent = `step ${short(step)}`;
      for (const { line, value } of keys) {
        const near = line.points[line.points.map((p) => p[0]).indexOf(closest(line.points.map((p) => p[0]), step))];
        value.textContent = near[0] === step ? short(near[1]) : "";
      }
    }
    svg.addEventListener("pointermove", (event) => {
      const step = under(event);
      cursor.setAttribute("x1", x(step));
      cursor.setAttribute("x2", x(step));
      cursor.setAttribute("visibility", "visible");
      read(step);
    });
    const rest = () => {
      cursor.setAttribute("visibility", "hidden");
      at.textContent = "";
      for (const { line, value } of keys) value.textContent = short(line.points[line.points.length - 1][1]);
    };
    svg.addEventListener("pointerleave", rest);
    svg.addEventListener("click", (event) => onStep(Math.round(under(event))));
    rest();
    return el("figure", { cls: "panel" }, el("figcaption", {}, el("b", { text: title }), at), svg, el("div", { cls: "keys" }, ...keys.map((key) => key.node)));
  }

  // One section a run. onStep is called with the step that was clicked.
  const curves = (el, runs, onStep) => runs.map((run) => el(
    "section", { cls: "curves", "aria-label": "Curves of a run" },
    el("p", { cls: "run-name", text: run.resumed.length ? `${run.run}, resumed after step ${run.resumed.join(", ")}` : run.run }),
    el("div", { cls: "panels" }, ...run.panels.map((panel) => draw(el, panel, run.resumed, onStep))),
  ));
  return { curves, shape };
})();
