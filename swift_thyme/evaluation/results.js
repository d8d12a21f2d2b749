
// The numbers of an evaluation, in front of its trajectories.
(() => {
  const sheet = JSON.parse(document.getElementById("sheet-data").textContent);
  const { el, only } = window.thymePage;
  const $ = (id) => document.getElementById(id);
  const front = $("sheet");
  const trajectories = document.querySelector("main");
  const minus = (text) => text.replace("-", "\u2212");
  const percent = (share) => minus((100 * share).toFixed(1));
  const signed = (share) => (share > 0 ? "+" : "") + percent(share);

  function place(node, from, to) {
    node.style.left = `${from}%`;
    node.style.width = `${to - from}%`;
    return node;
  }

  function parts(line, heading) {
    const node = el("div", { cls: "parts" });
    for (const part of line.parts) {
      const button = el(
        "button",
        { type: "button", title: "Show these trajectories", onclick: () => behind(part.members, `${heading}, ${line.title}: ${part.words}`) },
        `${part.words} `, el("b", { text: part.count }),
      );
      button.disabled = !part.members.length;
      node.append(button);
    }
    return node;
  }

  function valueOf(line, write, unit) {
    if (line.mean === null) return el("div", { cls: "value", text: "no trajectory" });
    const interval = `[${write(line.low)}, ${write(line.high)}]`;
    return el("div", { cls: "value" }, el("b", { text: `${write(line.mean)}${unit}` }), " ", el("span", { text: interval }));
  }

  function drawn(line, track, value, heading) {
    return el("div", { cls: "line" }, el("div", { cls: "who", text: line.title }), value, track, parts(line, heading));
  }

  function bar(line, heading) {
    const track = el("div", { cls: "track", "aria-hidden": "true" });
    if (line.mean !== null) {
      track.append(place(el("i", { cls: `bar-fill ${line.arm}` }), 0, 100 * line.mean), place(el("i", { cls: "whisker" }), 100 * line.low, 100 * line.high));
    }
    return drawn(line, track, valueOf(line, percent, " %"), heading);
  }

  function effect(line, heading) {
    // -100 to 100 points.
    const at = (share) => 50 + 50 * share;
    const track = el("div", { cls: "track", "aria-hidden": "true" }, el("i", { cls: "zero" }));
    if (line.mean !== null) {
      const ends = [at(0), at(line.mean)].sort((a, b) => a - b);
      track.append(place(el("i", { cls: `bar-fill ${line.mean < 0 ? "worse" : "better"}` }), ...ends), place(el("i", { cls: "whisker" }), at(line.low), at(line.high)));
    }
    return drawn(line, track, valueOf(line, signed, ""), heading);
  }

  function scale(...marks) {
    return el("div", { cls: "line", "aria-hidden": "true" }, el("div", { cls: "scale" }, ...marks.map((text) => el("span", { text }))));
  }

  // The marks stand once, under the first chart.
  function group(values, heading, marked) {
    const chart = el("div", { cls: "chart" }, ...values.bars.map((line) => bar(line, heading)));
    if (marked) chart.append(scale("0", "25", "50", "75", "100 %"));
    chart.append(...values.effects.map((line) => effect(line, heading)));
    if (marked && values.effects.length) chart.append(scale("\u2212100", "\u221250", "0", "+50", "+100"));
    return chart;
  }

  function benchmark(values) {
    const node = el("section", { cls: "benchmark", "aria-label": values.name }, el("h2", { text: values.name }));
    if (values.unusable) node.append(el("p", { cls: "warning", text: `${values.unusable} rows cannot be used; report.json names them.` }));
    if (values.missing) node.append(el("p", { cls: "warning", text: `${values.missing} trajectories are missing and are counted nowhere.` }));
    node.append(group(values.whole, values.name, true));
    for (const column of values.columns) {
      const fold = el("details", {}, el("summary", { text: `By ${column.name}` }));
      // Dozens of values would bury what follows.
      fold.open = column.groups.length <= 8;
      for (const one of column.groups) {
        fold.append(el("h3", { text: one.label }), group(one, `${values.name}, ${one.label}`, false));
      }
      node.append(fold);
    }
    return node;
  }

  function show(inFront) {
    front.hidden = !inFront;
    trajectories.hidden = inFront;
    $("summary").hidden = inFront;
    $("sheet-button").textContent = inFront ? "Trajectories" : sheet.name;
  }

  function behind(indices, words) {
    const all = el("button", { type: "button", text: "Show all", onclick: () => { only(null); $("only").hidden = true; } });
    $("only").replaceChildren(el("span", { text: words }), all);
    $("only").hidden = false;
    show(false);
    only(indices);
    $("list").focus();
  }

  front.setAttribute("aria-label", sheet.name);
  const note = sheet.complete ? sheet.note : `${sheet.note} Numbers are of all rows; the page holds the trajectories of evenly spaced ones.`;
  front.replaceChildren(el("p", { cls: "note", text: note }), ...sheet.benchmarks.map(benchmark));
  $("sheet-button").hidden = false;
  $("sheet-button").addEventListener("click", () => show(front.hidden));
  window.addEventListener("hashchange", () => show(false));
  show(!location.hash);
})();
