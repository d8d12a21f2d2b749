"use strict";
// Everything shown here was written by a model: text goes into the page as text, never as markup.
(() => {
  const ROW = 60;
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = data.trajectories;
  const byId = new Map(all.map((t, index) => [t.id, index]));
  const $ = (id) => document.getElementById(id);
  const questions = thymeQuestions(all);
  // view: "one" trajectory, all samples of its "group", the question's two "ends", or "curves".
  const state = { shown: [], selected: -1, terms: [], exact: false, view: "one" };

  // Characters that reorder or hide the text around them are spelled out.
  const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/;
  const spelled = (c) => `\u27e8${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  const visible = (text) => text.replace(new RegExp(CONTROLS, "g"), spelled);

  function el(tag, options = {}, ...children) {
    const node = document.createElement(tag);
    const { cls, text, ...rest } = options;
    if (cls) node.className = cls;
    if (text !== undefined) node.textContent = visible(String(text));
    for (const [name, value] of Object.entries(rest)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== null) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  const count = (n, noun, many = noun + "s") => `${n.toLocaleString("en")} ${n === 1 ? noun : many}`;
  const number = (x, digits = 2) => (x === null || x === undefined ? "\u2013" : x.toFixed(digits).replace("-", "\u2212"));
  const words = (name) => name.replaceAll("_", " ");
  const seconds = (s) => (s < 1 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(1)} s`);

  // ---- filters ----------------------------------------------------------------------------

  const rewards = all.map((t) => t.reward).filter((r) => r !== null);
  const steps = all.map((t) => t.step).filter((s) => s !== null);
  // One pass: a spread of a long list can overflow the stack.
  const extent = (values) => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  const [lowest, highest] = rewards.length ? extent(rewards) : [0, 0];
  const [firstStep, lastStep] = steps.length ? extent(steps) : [0, 0];
  const largestTotal = Math.max(Math.abs(lowest), Math.abs(highest));
  const pictured = all.some((t) => t.thumbnail);
  const failed = (t) => t.statuses.some((s) => s !== "ok");

  const TOOLS = {
    any: ["any", () => true],
    used: ["used", (t) => t.tool],
    unused: ["not used", (t) => !t.tool],
    failed: ["code failed", failed],
    images: ["returned pictures", (t) => t.segments.some((s) => s.images && s.images.length)],
  };
  const descending = (key) => (a, b) => (key(all[b]) ?? -Infinity) - (key(all[a]) ?? -Infinity) || a - b;
  const ascending = (key) => (a, b) => (key(all[a]) ?? Infinity) - (key(all[b]) ?? Infinity) || a - b;
  const ORDERS = {
    file: ["as recorded", null],
    high: ["highest reward", descending((t) => t.reward)],
    low: ["lowest reward", ascending((t) => t.reward)],
    late: ["latest step", descending((t) => t.step)],
    long: ["longest", descending((t) => t.sampledTokens ?? t.segments.reduce((n, s) => n + String(s.text).length, 0))],
    turns: ["most turns", descending((t) => t.turns)],
  };

  function fill(select, entries) {
    select.replaceChildren(...entries.map(([value, text]) => el("option", { value, text })));
  }
  function tally(values) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]);
  }
  const ends = tally(all.map((t) => t.end || "unknown"));
  fill($("end"), [["", "any"], ...ends.map(([v, n]) => [v, `${words(v)} (${n})`])]);
  $("end-label").hidden = ends.length < 2;
  fill($("tool"), Object.entries(TOOLS).map(([v, [text, test]]) => [v, v === "any" ? text : `${text} (${all.filter(test).length})`]));
  fill($("order"), Object.entries(ORDERS).map(([v, [text]]) => [v, text]));
  const runs = tally(all.map((t) => t.run));
  fill($("run"), [["", "any"], ...runs.map(([v, n]) => [v, `${v || "unnamed"} (${n})`])]);
  $("run-label").hidden = runs.length < 2;
  $("step-range").hidden = firstStep === lastStep;
  $("reward-range").hidden = lowest === highest;
  for (const [id, value] of [["step-min", firstStep], ["step-max", lastStep]]) {
    Object.assign($(id), { min: firstStep, max: lastStep, defaultValue: value });
  }
  for (const [id, value] of [["reward-min", 0], ["reward-max", 100]]) {
    Object.assign($(id), { min: 0, max: 100, step: 1, defaultValue: value });
  }
  const BINS = 40;
  const bins = new Array(BINS).fill(0);
  for (const r of rewards) bins[Math.min(BINS - 1, Math.floor(((r - lowest) / (highest - lowest || 1)) * BINS))] += 1;
  const tallest = Math.max(...bins, 1);
  const bars = bins.map((n) => {
    const bar = el("i");
    // Square root: a single one stays visible next to a thousand.
    bar.style.height = n ? `${10 + Math.sqrt(n / tallest) * 90}%` : "0";
    return bar;
  });
  $("histogram").append(...bars);

  const haystacks = new Array(all.length);
  function haystack(index) {
    if (haystacks[index] === undefined) {
      const t = all[index];
      const parts = [t.id, t.question, t.prompt, t.answer || "", ...t.reference];
      for (const s of t.segments) parts.push(Array.isArray(s.text) ? s.text.join("") : s.text);
      haystacks[index] = parts.join("\n").toLowerCase();
    }
    return haystacks[index];
  }

  function readFilters() {
    let [low, high] = [Number($("reward-min").value), Number($("reward-max").value)];
    if (low > high) [low, high] = [high, low];
    const scale = (x) => lowest + (x / 100) * (highest - lowest);
    const step = (id, otherwise) => ($(id).value === "" ? otherwise : Number($(id).value));
    return {
      terms: $("search").value.toLowerCase().split(/\s+/).filter(Boolean),
      end: $("end").value,
      tool: TOOLS[$("tool").value][1],
      run: runs.length < 2 ? "" : $("run").value,
      order: ORDERS[$("order").value][1],
      low, high,
      reward: [scale(low) - 1e-9, scale(high) + 1e-9],
      // A trajectory without a reward or a step is in no range, but in the absence of one.
      everyReward: low === 0 && high === 100,
      step: [step("step-min", firstStep), step("step-max", lastStep)],
    };
  }

  function apply() {
    const f = readFilters();
    const everyStep = f.step[0] <= firstStep && f.step[1] >= lastStep;
    state.terms = f.terms;
    state.shown = [];
    all.forEach((t, index) => {
      if (behind && !behind.has(index)) return;
      if (f.end && (t.end || "unknown") !== f.end) return;
      if (f.run && t.run !== f.run) return;
      if (!f.tool(t)) return;
      if (!f.everyReward && !(t.reward !== null && t.reward >= f.reward[0] && t.reward <= f.reward[1])) return;
      if (!everyStep && !(t.step !== null && t.step >= f.step[0] && t.step <= f.step[1])) return;
      if (f.terms.length) {
        const text = haystack(index);
        if (!f.terms.every((term) => text.includes(term))) return;
      }
      state.shown.push(index);
    });
    if (f.order) state.shown.sort(f.order);
    $("reward-text").textContent = `${number(Math.max(f.reward[0], lowest))} to ${number(Math.min(f.reward[1], highest))}`;
    bars.forEach((bar, i) => bar.classList.toggle("in", ((i + 1) / BINS) * 100 > f.low && (i / BINS) * 100 < f.high));
    summarise();
    drawnFrom = -1;
    rows.style.height = `${state.shown.length * ROW}px`;
    drawRows();
  }

  function summarise() {
    const shown = state.shown.map((index) => all[index]);
    const facts = [["", `${shown.length.toLocaleString("en")} of ${all.length.toLocaleString("en")}`]];
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    const names = [...new Set(shown.flatMap((t) => Object.keys(t.rewards)))];
    const totals = shown.map((t) => t.reward).filter((r) => r !== null);
    if (totals.length) facts.push(["reward", number(mean(totals))]);
    if (names.length > 1 && names.length < 6) {
      for (const name of names) {
        const known = shown.map((t) => t.rewards[name]).filter((r) => r !== null && r !== undefined);
        if (known.length) facts.push([name, number(mean(known))]);
      }
    }
    if (shown.length) facts.push(["tool used", `${Math.round(mean(shown.map((t) => Number(t.tool))) * 100)} %`]);
    const ran = shown.flatMap((t) => t.statuses);
    if (ran.length) facts.push(["code ok", `${Math.round(mean(ran.map((s) => Number(s === "ok"))) * 100)} %`]);
    if (data.found > all.length) facts.push(["of all recorded", data.found.toLocaleString("en")]);
    if (data.textOnly) facts.push(["without pictures", data.textOnly.toLocaleString("en")]);
    $("summary").replaceChildren(...facts.map(([name, value]) => el("span", {}, name ? `${name} ` : "", el("b", { text: value }))));
  }

  // ---- list: only the rows in view exist --------------------------------------------------

  const list = $("list");
  const rows = $("rows");
  list.classList.toggle("plain", !pictured);
  let drawnFrom = -1;
  let drawnTo = -1;

  function drawRows() {
    const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
    const to = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 6);
    if (from === drawnFrom && to === drawnTo) return;
    [drawnFrom, drawnTo] = [from, to];
    const nodes = [];
    for (let place = from; place < to; place += 1) nodes.push(row(place));
    if (!state.shown.length) nodes.push(el("p", { cls: "empty", text: "No trajectory passes these filters." }));
    rows.replaceChildren(...nodes);
    markSelected();
  }

  function row(place) {
    const index = state.shown[place];
    const t = all[index];
    const facts = el("div", { cls: "facts" });
    if (t.step !== null) facts.append(el("span", { text: `${runs.length > 1 && t.run ? `${t.run} ` : "step "}${t.step}` }));
    const saysWhy = t.end && t.end !== "answer";
    if (t.answer !== null || !saysWhy) facts.append(el("span", { cls: "reply", text: t.answer === null ? "no answer" : t.answer || "(empty)" }));
    if (t.reference.length) facts.append(el("span", { cls: "reference", text: `ref ${t.reference[0]}` }));
    if (t.statuses.length) facts.append(dots(t.statuses));
    if (saysWhy) facts.append(el("span", { cls: "chip odd", text: words(t.end) }));
    const score = el("div", { cls: "score" });
    if (rewards.length) score.append(number(t.reward), ...(t.reward === null ? [] : [meter(t.reward, largestTotal)]));
    const thumb = pictured ? el("img", { cls: "thumb", alt: "" }) : null;
    if (t.thumbnail) thumb.src = t.thumbnail;
    else if (thumb) thumb.style.visibility = "hidden";
    const node = el(
      "div",
      {
        cls: "row", role: "option", id: `row-${place}`, "data-index": index,
        "aria-setsize": state.shown.length, "aria-posinset": place + 1, "aria-selected": "false",
        onclick: () => select(index),
      },
      thumb,
      el("div", { cls: "main" }, el("div", { cls: "title", text: t.question || t.prompt || t.id }), facts),
      score,
    );
    node.style.top = `${place * ROW}px`;
    return node;
  }

  function dots(statuses) {
    const label = statuses.map((s, i) => `block ${i + 1} ${words(s)}`).join(", ");
    const node = el("span", { cls: "dots", role: "img", "aria-label": label, title: label });
    for (const status of statuses.slice(0, 12)) node.append(el("i", { cls: status === "ok" ? "" : "failed" }));
    return node;
  }

  function meter(value, most) {
    const bar = el("i", { cls: value < 0 ? "negative" : "" });
    bar.style.width = `${most > 0 ? Math.min(100, (Math.abs(value) / most) * 100) : 0}%`;
    return el("span", { cls: "meter", "aria-hidden": "true" }, bar);
  }

  function markSelected() {
    list.removeAttribute("aria-activedescendant");
    for (const node of rows.children) {
      const on = Number(node.dataset.index) === state.selected && node.id !== "";
      if (node.id) node.setAttribute("aria-selected", String(on));
      if (on) list.setAttribute("aria-activedescendant", node.id);
    }
  }

  // ---- detail: drawn when it is opened ----------------------------------------------------

  function select(index, { scroll = true, hash = true, view = "one" } = {}) {
    state.selected = index;
    state.view = view;
    const place = state.shown.indexOf(index);
    if (scroll && place >= 0) {
      const top = place * ROW;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    }
    drawRows();
    markSelected();
    const address = `#${encodeURIComponent(all[index].id)}`;
    if (hash && location.hash !== address) history.replaceState(null, "", address);
    drawDetail();
  }

  function move(by) {
    if (!state.shown.length) return;
    const place = state.shown.indexOf(state.selected);
    const next = place < 0 ? 0 : Math.min(state.shown.length - 1, Math.max(0, place + by));
    select(state.shown[next]);
  }

  function addText(node, text) {
    for (const piece of text.split(new RegExp(`(${CONTROLS.source})`))) {
      if (piece.length === 1 && CONTROLS.test(piece)) node.append(el("span", { cls: "control", text: spelled(piece) }));
      else if (piece) node.append(piece);
    }
    return node;
  }
  const pre = (text) => addText(el("pre"), text);

  // Where crops lie on a picture, in its own pixels: [x, y, width, height, number].
  function outlines(image, boxes) {
    const { shape } = thymeCurves;
    const svg = shape("svg", { viewBox: `0 0 ${image.width} ${image.height}`, class: "outlines", "aria-hidden": "true" });
    for (const [x, y, width, height, ordinal] of boxes) {
      for (const cls of ["edge", `line tone${(ordinal - 1) % 8}`]) svg.append(shape("rect", { x, y, width, height, class: cls }));
    }
    return svg;
  }
  const boxLabel = (boxes) => (boxes.length ? ` \u00b7 outlined: ${boxes.length === 1 ? "image" : "images"} ${boxes.map((b) => b[4]).join(", ")}` : "");

  function picture(reference, caption, boxes = []) {
    const [numberOf, name] = reference;
    const image = data.images[numberOf];
    const label = visible([caption, name && name.split("/").pop()].filter(Boolean).join(": "));
    if (!image) return el("div", { cls: "lost", text: `${label}: the file is missing or cannot be read` });
    const source = `data:${image.mime};base64,${$(`image-${numberOf}`).textContent}`;
    const size = `${image.width}\u00d7${image.height}`;
    const img = el("img", { alt: label, src: source, decoding: "async" });
    const drawn = () => (boxes.length ? outlines(image, boxes) : null);
    const text = `${label}, ${size}${image.reduced ? ", reduced for this page" : ""}`;
    const button = el("button", { type: "button", title: "Enlarge", onclick: () => zoom(source, text, drawn()) }, img, drawn());
    return el("figure", {}, button, el("figcaption", { text: `${label} \u00b7 ${size}${boxLabel(boxes)}` }));
  }

  function zoom(source, text, drawn) {
    $("zoom-frame").querySelector("svg")?.remove();
    if (drawn) $("zoom-frame").append(drawn);
    $("zoom-image").src = source;
    $("zoom-image").alt = text;
    $("zoom-text").textContent = text;
    $("zoom").showModal();
  }

  function prose(text) {
    const node = el("div", { cls: "prose" });
    let answer = false;
    for (const piece of text.split(/(<\/?(?:think|answer)>)/i)) {
      if (/^<\/?(?:think|answer)>$/i.test(piece)) {
        answer = piece.toLowerCase() === "<answer>";
        node.append(el("span", { cls: "tag", text: piece }));
      } else if (piece.trim()) {
        addText(answer ? node.appendChild(el("span", { cls: "final" })) : node, piece);
      } else node.append(piece);
    }
    return node;
  }

  function codeBlock(segment, ordinal) {
    const [, body] = segment.text;
    const code = el("pre");
    let position = 0;
    for (const [, kind, length] of segment.runs.matchAll(/([a-z])(\d+)/g)) {
      const piece = body.slice(position, position + Number(length));
      position += Number(length);
      addText(kind === "p" ? code : code.appendChild(el("span", { cls: kind })), piece);
    }
    addText(code, body.slice(position));
    const lines = body.replace(/\n$/, "").split("\n").length;
    const bar = el("div", { cls: "bar" }, el("b", { text: `Code ${ordinal}` }), el("span", { text: count(lines, "line") }));
    if (segment.tokens !== null) bar.append(el("span", { text: count(segment.tokens, "token") }));
    const copy = el("button", {
      type: "button", cls: "push", text: "Copy",
      onclick: () => navigator.clipboard.writeText(body).then(() => { copy.textContent = "Copied"; }, () => { copy.textContent = "Not allowed"; }),
    });
    bar.append(copy);
    // Wide lines scroll sideways, with the keyboard too.
    return el("section", { cls: "block", "aria-label": `Code block ${ordinal}` }, bar, el("div", { cls: "code", tabindex: "0" }, code));
  }

  function outputBlock(segment, ordinal, firstImage) {
    const tone = segment.status === "ok" ? "good" : segment.status ? "bad" : "";
    const bar = el("div", { cls: "bar" }, el("b", { text: "Output" }));
    if (segment.status) bar.append(el("span", { cls: `chip ${tone}`, text: words(segment.status) }));
    if (segment.seconds !== null) bar.append(el("span", { text: seconds(segment.seconds) }));
    if (segment.tokens !== null) bar.append(el("span", { text: count(segment.tokens, "token") }));
    for (const repair of segment.repairs) bar.append(el("span", { cls: "chip odd", text: `repaired: ${words(repair)}` }));
    const printed = el("div", { cls: "printed" });
    const inner = segment.text.replace(/^<sandbox_output>/i, "").replace(/<\/sandbox_output>$/i, "");
    let used = 0;
    for (const piece of inner.split(/(<image>)/)) {
      if (piece === "<image>") {
        if (printed.lastElementChild?.className !== "pictures") printed.append(el("div", { cls: "pictures" }));
        const reference = segment.images[used];
        used += 1;
        const name = `image ${firstImage + used}`;
        printed.lastElementChild.append(reference ? picture(reference, name) : el("div", { cls: "lost", text: `${name} was not kept` }));
      } else if (piece.trim()) printed.append(pre(piece.replace(/^\n|\n$/g, "")));
    }
    return el("section", { cls: `block output ${tone}`, "aria-label": `Output ${ordinal}` }, bar, printed);
  }

  function flow(t) {
    const nodes = [];
    let [blocks, images] = [0, 0];
    t.segments.forEach((segment, position) => {
      if (segment.kind === "code") {
        blocks += 1;
        const node = codeBlock(segment, blocks);
        if (t.segments[position + 1]?.kind === "observation") node.classList.add("joined");
        nodes.push(node);
      } else if (segment.kind === "observation") {
        nodes.push(outputBlock(segment, blocks, images));
        images += segment.images.length;
      }
      else nodes.push(prose(segment.text));
    });
    nodes.push(el("p", { cls: "closing", text: t.end ? `ended: ${words(t.end)}` : "end" }));
    return nodes;
  }

  const largest = {};
  for (const t of all) for (const [name, value] of Object.entries(t.rewards)) largest[name] = Math.max(largest[name] || 0, Math.abs(value || 0));

  function rewardRow(name, value, most, extra = "") {
    return el(
      "div", { cls: `reward ${extra}` },
      el("span", { cls: "name", text: name }),
      value === null ? el("span", {}, el("span", { cls: "chip odd", text: "not scored" })) : meter(value, most),
      el("span", { cls: "value", text: number(value, 3) }),
    );
  }

  const promptPictures = (t) => t.images.map((image, i) => picture(
    image,
    t.images.length > 1 ? `prompt image ${i + 1}` : "prompt image",
    t.boxes.filter((box) => box[0] === i).map((box) => box.slice(1)),
  ));

  function scores(t) {
    const entries = Object.entries(t.rewards);
    const node = el("div", { cls: "rewards", "aria-label": "Rewards", role: "group" }, ...entries.map(([name, value]) => rewardRow(name, value, largest[name])));
    if (t.reward !== null && !(entries.length === 1 && entries[0][1] === t.reward)) node.append(rewardRow("Reward", t.reward, largestTotal, "total"));
    return node.childElementCount ? node : null;
  }

  function answersOf(t) {
    const answer = t.answer === null ? el("span", { cls: "none", text: "none" }) : t.answer === "" ? el("span", { cls: "none", text: "empty" }) : null;
    const node = el("dl", { cls: "answers" }, el("dt", { text: "Answer" }), answer ? el("dd", {}, answer) : addText(el("dd", { cls: "reply" }), t.answer));
    if (t.reference.length) node.append(el("dt", { text: "Reference" }), addText(el("dd"), t.reference.join(" or ")));
    return node;
  }

  function overview(t) {
    const card = el("section", { cls: "overview", "aria-label": "Prompt, answer and rewards" });
    if (t.images.length) card.append(el("div", { cls: "pictures" }, ...promptPictures(t)));
    card.append(el("div", { cls: "outcome" }, answersOf(t), scores(t)));
    const fold = el("details", {}, el("summary", { text: "Prompt as the model reads it" }));
    if (t.system) fold.append(el("p", { cls: "role", text: "system" }), pre(t.system));
    fold.append(el("p", { cls: "role", text: "user" }), pre(t.prompt || t.question));
    card.append(fold);
    return card;
  }

  function factsLine(t) {
    const line = el("div", { cls: "facts-line" });
    const facts = [];
    if (t.run) facts.push(el("span", { text: t.run }));
    if (t.step !== null) facts.push(el("span", { text: `step ${t.step}` }));
    if (t.end) facts.push(el("span", { cls: `chip ${t.end === "answer" ? "good" : "odd"}`, text: words(t.end) }));
    facts.push(el("span", { cls: `chip ${t.tool ? "good" : ""}`, text: t.tool ? "tool used" : "tool not used" }));
    if (t.turns) facts.push(el("span", { text: count(t.turns, "turn") }));
    if (t.promptTokens !== null) facts.push(el("span", { text: `prompt ${count(t.promptTokens, "token")}` }));
    if (t.sampledTokens !== null) facts.push(el("span", { text: `sampled ${count(t.sampledTokens, "token")}` }));
    for (const [name, value] of Object.entries(t.timings)) facts.push(el("span", { text: `${words(name.replace(/_s$/, ""))} ${seconds(value)}` }));
    facts.push(el("a", { href: `#${encodeURIComponent(t.id)}`, title: "Link to this trajectory", text: t.id }));
    line.append(...facts);
    return line;
  }

  // ---- the same question: samples of one step, first and last step ---------------------------

  const MOST_CARDS = 16;
  function sampleCard(index) {
    const t = all[index];
    const node = el(
      "button", { type: "button", cls: "sample", "aria-current": index === state.selected ? "true" : null, onclick: () => select(index) },
      el("span", { cls: "score" }, number(t.reward)),
      t.reward === null ? null : meter(t.reward, largestTotal),
      el("span", { cls: "reply", text: t.answer === null ? "no answer" : t.answer || "(empty)" }),
      el("span", { cls: "marks" }, t.statuses.length ? dots(t.statuses) : "no code", t.end && t.end !== "answer" ? el("span", { cls: "chip odd", text: words(t.end) }) : null),
    );
    return node;
  }

  function related(t) {
    const group = questions.group(state.selected);
    const ends = questions.ends(state.selected);
    if (group.length < 2 && !ends) return null;
    const known = group.map((index) => all[index].reward).filter((r) => r !== null);
    const facts = [count(group.length, "sample")];
    if (known.length > 1) facts.push(`reward ${number(Math.min(...known))} to ${number(Math.max(...known))}`);
    const bar = el("div", { cls: "bar" }, el("b", { text: t.step === null ? "This question" : `This question at step ${t.step}` }), el("span", { text: facts.join(", ") }));
    if (group.length > 1) bar.append(el("button", { type: "button", id: "side-by-side", title: "Samples side by side (g)", text: "Side by side", onclick: () => show("group") }));
    if (ends) bar.append(el("button", { type: "button", id: "before-after", title: "First and last step (b)", text: `Step ${all[ends.first[0]].step} and step ${all[ends.last[0]].step}`, onclick: () => show("ends") }));
    const cards = el("div", { cls: "samples" }, ...group.slice(0, MOST_CARDS).map(sampleCard));
    if (group.length > MOST_CARDS) cards.append(el("span", { cls: "more", text: `and ${group.length - MOST_CARDS} more` }));
    return el("section", { cls: "related", "aria-label": "Samples of this question" }, bar, group.length > 1 ? cards : null);
  }

  function column(index, label) {
    const t = all[index];
    return el(
      "section", { cls: "column", "aria-label": label },
      el("div", { cls: "column-head" }, el("b", { text: label }), el("span", { cls: `chip ${t.end === "answer" ? "good" : "odd"}`, text: words(t.end || "unknown") }), el("button", { type: "button", text: "Open", onclick: () => select(index) })),
      t.boxes.length ? el("div", { cls: "pictures" }, ...promptPictures(t)) : null,
      answersOf(t), scores(t), ...flow(t),
    );
  }

  function comparison() {
    if (state.view === "group") {
      const group = questions.group(state.selected).slice(0, MOST_CARDS);
      return group.length > 1 ? group.map((index, i) => column(index, `Sample ${i + 1}`)) : null;
    }
    const ends = questions.ends(state.selected);
    const side = (indices, word) => indices.slice(0, 4).map((index) => column(index, `${word}: step ${all[index].step}`));
    return ends && [...side(ends.first, "First"), ...side(ends.last, "Last")];
  }

  function show(view) {
    state.view = state.view === view ? "one" : view;
    drawDetail();
  }

  function curvesSheet() {
    const toStep = (step) => {
      const near = steps.reduce((best, s) => (Math.abs(s - step) < Math.abs(best - step) ? s : best), steps[0] ?? step);
      $("step-min").value = $("step-max").value = near;
      apply();
    };
    return el(
      "div", { cls: "sheet wide" },
      el("div", { cls: "head" }, el("h2", { text: "Curves" }), el("div", { cls: "moves" }, backButton())),
      el("p", { cls: "hint", text: "Dots and dashes are evaluations. A dotted line is where the run was resumed. A click lists the trajectories that were kept nearest to that step." }),
      ...thymeCurves.curves(el, data.curves, toStep),
    );
  }
  const backButton = () => el("button", { type: "button", id: "back", text: "Back", title: "Back to the trajectory", onclick: () => show("one") });

  function exactText(t) {
    const text = t.segments.map((s) => (Array.isArray(s.text) ? s.text.join("") : s.text)).join("");
    return el("section", { cls: "exact", "aria-label": "Exact text" }, pre(text));
  }

  const detail = $("detail");
  function drawDetail() {
    const t = all[state.selected];
    $("curves-button").setAttribute("aria-pressed", String(state.view === "curves"));
    if (state.view === "curves") {
      detail.replaceChildren(curvesSheet());
      detail.scrollTop = 0;
      return;
    }
    if (!t) {
      detail.replaceChildren();
      return;
    }
    if (state.view !== "one") {
      const columns = comparison();
      if (columns) {
        detail.replaceChildren(el(
          "div", { cls: "sheet wide" },
          el("div", { cls: "head" }, addText(el("h2"), t.question || t.prompt || t.id), el("div", { cls: "moves" }, backButton())),
          el("div", { cls: "columns" }, ...columns),
        ));
        detail.scrollTop = 0;
        markFound();
        return;
      }
      state.view = "one";
    }
    const place = state.shown.indexOf(state.selected);
    const heading = el("h2");
    addText(heading, t.question || t.prompt || t.id);
    const step = (text, title, by, off) => {
      const button = el("button", { type: "button", text, title, "aria-label": title, onclick: () => move(by) });
      button.disabled = off;
      return button;
    };
    const exact = el("button", { type: "button", text: state.exact ? "Laid out" : "Exact text", title: "Switch (r)", onclick: toggleExact });
    const sheet = el(
      "div", { cls: "sheet" },
      el("div", { cls: "head" }, heading, el("div", { cls: "moves" }, exact, step("\u2191", "Previous trajectory (k)", -1, place <= 0), step("\u2193", "Next trajectory (j)", 1, place < 0 || place === state.shown.length - 1))),
      factsLine(t), overview(t), ...[related(t)].filter(Boolean),
      ...(state.exact ? [exactText(t)] : flow(t)),
    );
    if (Object.keys(t.meta).length) {
      sheet.append(el("details", {}, el("summary", { text: "Further facts" }), pre(JSON.stringify(t.meta, null, 2))));
    }
    detail.replaceChildren(sheet);
    detail.scrollTop = 0;
    markFound();
  }

  function toggleExact() {
    state.exact = !state.exact;
    state.view = "one";
    drawDetail();
  }

  function markFound() {
    if (!("highlights" in CSS)) return;
    CSS.highlights.delete("found");
    if (!state.terms.length) return;
    const ranges = [];
    const walker = document.createTreeWalker(detail, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node && ranges.length < 1000; node = walker.nextNode()) {
      const text = node.data.toLowerCase();
      for (const term of state.terms) {
        for (let at = text.indexOf(term); at >= 0 && ranges.length < 1000; at = text.indexOf(term, at + term.length)) {
          // Lower case can be longer than the text; such a place is not marked.
          if (at + term.length > node.length) break;
          const range = new Range();
          range.setStart(node, at);
          range.setEnd(node, at + term.length);
          ranges.push(range);
        }
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges));
  }

  // ---- keys, theme, address ---------------------------------------------------------------

  const filters = $("filters");
  let waiting = 0;
  const soon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { apply(); markFound(); if (state.selected < 0) move(0); }, 60);
  };
  filters.addEventListener("input", soon);
  filters.addEventListener("reset", () => setTimeout(() => { list.scrollTop = 0; apply(); markFound(); }));
  filters.addEventListener("submit", (event) => event.preventDefault());
  let frame = 0;
  list.addEventListener("scroll", () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(drawRows);
  });
  new ResizeObserver(drawRows).observe(list);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && typing) {
      // A search field would also empty itself; its words stay until they are cleared.
      event.preventDefault();
      event.target.blur();
    }
    if (typing || document.querySelector("dialog[open]")) return;
    const inList = event.target === list;
    const actions = {
      j: () => move(1),
      k: () => move(-1),
      r: toggleExact,
      g: () => show("group"),
      b: () => show("ends"),
      ...(data.curves.length && { c: () => show("curves") }),
      "/": () => $("search").select(),
      "?": () => $("help").showModal(),
      ...(inList && { ArrowDown: () => move(1), ArrowUp: () => move(-1), Home: () => move(-all.length), End: () => move(all.length) }),
    };
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (action) {
      event.preventDefault();
      action();
    }
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }
  $("curves-button").hidden = !data.curves.length;
  $("curves-button").addEventListener("click", () => show("curves"));
  $("help-button").addEventListener("click", () => $("help").showModal());

  const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };
  let theme = "auto";
  const store = {
    // A page opened from a file may be denied storage; the theme is then not remembered.
    get() { try { return localStorage.getItem("thyme-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("thyme-theme", value); } catch { /* not remembered */ } },
  };
  function setTheme(name) {
    theme = Object.hasOwn(THEMES, name) ? name : "auto";
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").textContent = THEMES[theme];
    $("theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
  }
  $("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    setTheme(names[(names.indexOf(theme) + 1) % names.length]);
    store.set(theme);
  });
  setTheme(store.get());

  function fromAddress() {
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { /* a mangled link opens the first */ }
    const index = byId.get(id);
    if (index !== undefined && index !== state.selected) select(index, { hash: false });
    return index !== undefined;
  }
  // For a sheet in front of the trajectories: it can narrow the list to those behind one of its numbers.
  let behind = null;
  function only(indices) {
    behind = indices && new Set(indices);
    list.scrollTop = 0;
    apply();
    if (state.shown.length && !state.shown.includes(state.selected)) select(state.shown[0]);
  }
  window.thymePage = { el, only };
  window.addEventListener("hashchange", fromAddress);
  apply();
  if (!fromAddress() && state.shown.length) select(state.shown[0], { hash: false });
  document.documentElement.dataset.ready = "true";
})();
