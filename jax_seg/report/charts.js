// Draws the charts that jax_seg/report/charts.py describes, as SVG with values shown under the pointer.
"use strict";

const SIZE = { width: 360, height: 236, left: 66, right: 12, top: 10, bottom: 42 };
const LANE = 13; // height of a row of marks above the plot
const MARKS = { // an icon in a square of 10, centred on the origin, and its meaning
  restart: ["M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0-8.4 0z", "learning-rate restart"],
  intervention: ["M0-5 5 4h-10z", "intervention"],
  rollback: ["M-5 0 4-5v10z", "rollback"],
  substantial_progress: ["M0-5 5 4h-10zM0-2-2.4 2.6h4.8z", "plateau without intervention"],
  stage: ["M0-5 5 0 0 5-5 0z", "stage starts"],
  swa: ["M-4.5-4.5h9v3h-9zm0 6h9v3h-9z", "weight averaging starts"],
  early_stop: ["M-4-4h8v8h-8z", "early stop"],
  used: ["M-4-4 0 4 4-4z", "threshold in use"],
};

function svg(name, attributes = {}, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function html(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const color = (number) => `var(--series-${number % 8})`;

function figure(value, axis = {}) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (axis.percent) return `${+(100 * value).toPrecision(3)} %`;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) {
    return value.toExponential(2).replace(/\.?0*e/, "e").replace("e-", "e−").replace("e+", "e");
  }
  return String(+value.toPrecision(4)).replace("-", "−");
}

function linearTicks(low, high, wanted, integer) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.75);
  if (integer) step = Math.max(1, Math.round(step));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) {
    ticks.push(+(i * step).toPrecision(12));
  }
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const m of Math.log10(high / low) > 2.5 ? [1] : [1, 2, 5]) {
      const tick = m * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks;
}

// A map from data to pixels, with its ticks, for all visible values.
function makeScale(values, axis, from, to, wanted) {
  const finite = values.filter((v) => v !== null && Number.isFinite(v) && (!axis.log || v > 0));
  let low = axis.min ?? Math.min(...finite);
  let high = axis.max ?? Math.max(...finite);
  if (!finite.length && axis.min === undefined) [low, high] = axis.log ? [0.1, 1] : [0, 1];
  if (axis.log) {
    [low, high] = [low / 1.25, high * 1.25];
    const ratio = Math.log(high / low);
    const scale = (v) => from + ((to - from) * Math.log(Math.max(v, low) / low)) / ratio;
    return Object.assign(scale, { ticks: logTicks(low, high) });
  }
  if (axis.zero) low = Math.min(low, 0);
  const room = high > low ? high - low : Math.abs(high) || 1;
  if (axis.min === undefined && !axis.zero) low -= 0.04 * room;
  if (axis.max === undefined) high += 0.06 * room;
  const scale = (v) => from + ((to - from) * (v - low)) / (high - low);
  return Object.assign(scale, { ticks: linearTicks(low, high, wanted, axis.integer) });
}

function drawAxes(drawing, chart, x, y, plot) {
  for (const tick of y.ticks) {
    drawing.append(
      svg("line", { class: "grid", x1: plot.left, x2: plot.right, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "tick", x: plot.left - 7, y: y(tick) + 4, "text-anchor": "end" },
        figure(tick, chart.y)),
    );
  }
  for (const tick of x.ticks) {
    drawing.append(
      svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: plot.bottom, y2: plot.bottom + 4 }),
      svg("text", { class: "tick", x: x(tick), y: plot.bottom + 17, "text-anchor": "middle" },
        x.say ? x.say(tick) : figure(tick, chart.x)),
    );
  }
  const middle = (plot.top + plot.bottom) / 2;
  drawing.append(
    svg("line", { class: "axis", x1: plot.left, x2: plot.right, y1: plot.bottom, y2: plot.bottom }),
    svg("text", { class: "label", x: (plot.left + plot.right) / 2, y: SIZE.height - 8,
      "text-anchor": "middle" }, chart.x.label),
    svg("text", { class: "label", "text-anchor": "middle",
      transform: `translate(11 ${middle}) rotate(-90)` }, chart.y.label),
  );
}

function icon(kind, x, y, fill) {
  return svg("path", { class: `mark ${kind}`, d: MARKS[kind][0], style: `fill:${fill}`,
    transform: `translate(${x} ${y})` });
}

function drawMarks(drawing, chart, x, plot) {
  const lanes = [...new Set(chart.marks.map((mark) => mark.color))];
  for (const mark of chart.marks) {
    const fill = lanes.length > 1 || chart.several ? color(mark.color) : "var(--mark)";
    const height = plot.top - LANE * (lanes.length - lanes.indexOf(mark.color)) + LANE / 2 - 1;
    const together = chart.marks.filter((m) => m.x === mark.x && m.color === mark.color);
    const shift = 11 * (together.indexOf(mark) - (together.length - 1) / 2);
    drawing.append(
      svg("line", { class: "mark-line", x1: x(mark.x), x2: x(mark.x), y1: height + 5,
        y2: plot.bottom, style: `stroke:${fill}` }),
      icon(mark.kind, x(mark.x) + shift, height, fill),
    );
  }
}

// The pieces of a series between missing values, as a path.
function path(points, x, y) {
  let d = "", pen = "M";
  for (const [px, py] of points) {
    if (py === null || px === null) { pen = "M"; continue; }
    d += `${pen}${x(px).toFixed(1)} ${y(py).toFixed(1)}`;
    pen = "L";
  }
  return d;
}

function drawSeries(drawing, series, x, y) {
  const group = svg("g", { class: "series", style: `--c:${color(series.color)}` });
  const known = series.points.filter(([, py]) => py !== null);
  if (series.band) {
    const edges = series.points.map(([px, py], i) => [px, py, series.band[i]])
      .filter(([, py]) => py !== null);
    const upper = edges.map(([px, py, error]) => [px, py + error]);
    const lower = edges.map(([px, py, error]) => [px, py - error]).reverse();
    group.append(svg("path", { class: "band", d: `${path([...upper, ...lower], x, y)}Z` }));
  }
  if (!series.dots) {
    group.append(svg("path", { class: "curve", d: path(series.points, x, y),
      "stroke-dasharray": series.dash || "none" }));
  }
  if (series.dots || known.length <= 16) {
    const r = series.dots ? 4.5 : 2.2;
    for (const [px, py] of known) group.append(svg("circle", { cx: x(px), cy: y(py), r }));
  }
  drawing.append(group);
  return group;
}

function drawLines(drawing, chart, plot) {
  const values = chart.series.flatMap((s) => s.points);
  const ys = chart.series.flatMap((s) => s.points.flatMap(([, py], i) =>
    s.band && py !== null ? [py - s.band[i], py + s.band[i]] : [py]));
  const marks = chart.marks ?? [];
  const lines = chart.lines ?? [];
  const xs = [...values.map((p) => p[0]), ...marks.map((m) => m.x)];
  if (chart.diagonal && chart.x.max === undefined) { // both axes alike, from zero
    const most = 1.08 * Math.max(...xs, ...ys);
    for (const axis of [chart.x, chart.y]) Object.assign(axis, { min: 0, max: most });
  }
  const x = makeScale(xs, chart.x, plot.left, plot.right, chart.x.percent ? 4 : 6);
  const y = makeScale([...ys, ...lines.map((l) => l.y)], chart.y, plot.bottom, plot.top, 5);
  for (const region of chart.regions ?? []) {
    const [from, to] = [Math.max(x(region.from), plot.left), Math.min(x(region.to), plot.right)];
    if (to <= from) continue;
    drawing.append(
      svg("rect", { class: "region", x: from, y: plot.top, width: to - from,
        height: plot.bottom - plot.top }),
      svg("text", { class: "note", x: from + 4, y: plot.bottom - 6 }, region.name),
    );
  }
  drawAxes(drawing, chart, x, y, plot);
  if (chart.diagonal) {
    const most = chart.x.max;
    drawing.append(svg("path", { class: "diagonal",
      d: path([[0, 0], [most, most]], x, y) }));
  }
  for (const line of lines) {
    drawing.append(
      svg("line", { class: "limit", x1: plot.left, x2: plot.right, y1: y(line.y), y2: y(line.y),
        style: chart.several ? `stroke:${color(line.color)}` : "" }),
      svg("text", { class: "note", x: plot.right, "text-anchor": "end",
        y: y(line.y) + (y(line.y) < plot.top + 18 ? 14 : -5) }, line.name),
    );
  }
  drawMarks(drawing, { ...chart, marks }, x, plot);
  const groups = chart.series.map((series) => drawSeries(drawing, series, x, y));
  const cross = svg("line", { class: "cross", y1: plot.top, y2: plot.bottom, visibility: "hidden" });
  drawing.append(cross);
  const single = chart.series.some((s) => s.points.some((p) => p.length > 2));
  return { groups, cross, read: (px, py) => (single ? nearestPoint : nearestColumn)(
    chart, groups, x, y, px, py) };
}

function nearestPoint(chart, groups, x, y, px, py) {
  let best = null;
  chart.series.forEach((series, i) => {
    if (groups[i].classList.contains("off")) return;
    for (const point of series.points) {
      const distance = Math.hypot(x(point[0]) - px, y(point[1]) - py);
      if (!best || distance < best.distance) best = { distance, point, series };
    }
  });
  if (!best || best.distance > 40) return null;
  const { point, series } = best;
  return { x: x(point[0]), title: point[2] ?? series.name, rows: [
    [series.color, series.name, ""],
    [null, chart.x.label, figure(point[0], chart.x)],
    [null, chart.y.label, figure(point[1], chart.y)],
  ] };
}

function nearestColumn(chart, groups, x, y, px) {
  const visible = chart.series.filter((_, i) => !groups[i].classList.contains("off"));
  const xs = visible.flatMap((s) => s.points.map((p) => p[0]));
  if (!xs.length) return null;
  const at = xs.reduce((a, b) => (Math.abs(x(b) - px) < Math.abs(x(a) - px) ? b : a));
  const rows = visible.flatMap((s) => s.points.flatMap(([sx, sy], i) => sx !== at || sy === null
    ? [] : [[s.color, s.name, figure(sy, chart.y) +
      (s.band ? ` ± ${figure(s.band[i], chart.y)}` : "")]]));
  const marks = (chart.marks ?? []).filter((mark) => mark.x === at);
  return { x: x(at), title: `${chart.x.label} ${figure(at, chart.x)}`,
    rows: [...rows, ...marks.map((mark) => [mark.color, mark.name, ""])] };
}

function drawBars(drawing, chart, plot) {
  const values = chart.series.flatMap((s) => s.values);
  const y = makeScale(values, chart.y, plot.bottom, plot.top, 5);
  const slot = (plot.right - plot.left) / chart.categories.length;
  const every = Math.ceil(42 / slot);
  const x = (i) => plot.left + (i + 0.5) * slot;
  x.ticks = chart.categories.map((_, i) => i).filter((i) => i % every === 0);
  x.say = (i) => chart.categories[i];
  drawAxes(drawing, chart, x, y, plot);
  const width = Math.min((0.8 * slot) / chart.series.length, 40);
  const groups = chart.series.map((series, s) => {
    const group = svg("g", { class: "series", style: `--c:${color(series.color)}` });
    series.values.forEach((value, i) => group.append(svg("rect", { class: "bar", width,
      x: x(i) + (s - chart.series.length / 2) * width, y: y(value),
      height: plot.bottom - y(value) })));
    drawing.append(group);
    return group;
  });
  return { groups, read: (px) => {
    const i = Math.floor((px - plot.left) / slot);
    if (i < 0 || i >= chart.categories.length) return null;
    return { x: x(i), title: `${chart.categories[i]} %`,
      rows: chart.series.map((s) => [s.color, s.name, String(s.values[i])]) };
  } };
}

function drawHeat(drawing, chart, plot) {
  const [columns, rows] = [0, 1].map((k) => [...new Set(chart.cells.map((c) => c[k]))]
    .sort((a, b) => a - b));
  const scores = chart.cells.map((cell) => cell[2]);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const width = (plot.right - plot.left) / columns.length;
  const height = (plot.bottom - plot.top) / rows.length;
  const x = (v) => plot.left + (columns.indexOf(v) + 0.5) * width;
  const y = (v) => plot.bottom - (rows.indexOf(v) + 0.5) * height;
  x.ticks = columns.filter((_, i) => i % Math.ceil(columns.length / 7) === 0);
  y.ticks = rows.filter((_, i) => i % Math.ceil(rows.length / 7) === 0);
  drawAxes(drawing, chart, x, y, plot);
  let best = null;
  for (const [cx, cy, score] of chart.cells) {
    // The top scores lie close together: the fourth power spreads them.
    const strength = high > low ? ((score - low) / (high - low)) ** 4 : 1;
    const cell = svg("rect", { class: "cell", "shape-rendering": "crispEdges", x: x(cx) - width / 2, y: y(cy) - height / 2, width,
      height, "fill-opacity": 0.05 + 0.95 * strength });
    drawing.append(cell);
    if (score === high) best = [cell, `best ${figure(score)}: low ${cy}, high ${cx}`];
  }
  best[0].classList.add("best");
  drawing.append(best[0]); // above its neighbours
  // There is no cell in this corner, since the low threshold is never above the high one.
  drawing.append(svg("text", { class: "note strong", x: plot.left + 4, y: plot.top + 12 }, best[1]));
  return { groups: [], read: (px, py) => {
    const cell = chart.cells.find(([cx, cy]) =>
      Math.abs(x(cx) - px) <= width / 2 && Math.abs(y(cy) - py) <= height / 2);
    return cell && { x: px, title: `low ${cell[1]}, high ${cell[0]}`,
      rows: [[0, "Dice", figure(cell[2])]] };
  } };
}

function showTip(event, found) {
  const tip = document.getElementById("tip");
  tip.hidden = !found;
  if (!found) return;
  tip.replaceChildren(html("strong", {}, found.title), ...found.rows.map(([c, name, value]) => {
    const swatch = html("i", { style: c === null ? "" : `background:${color(c)}` });
    return html("div", {}, swatch, html("span", {}, name), html("b", {}, value));
  }));
  const room = 12;
  const left = event.clientX + room + tip.offsetWidth < innerWidth
    ? event.clientX + room : event.clientX - room - tip.offsetWidth;
  tip.style.left = `${Math.max(left, 4)}px`;
  tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - room)}px`;
}

function drawChart(place, chart) {
  const lanes = new Set((chart.marks ?? []).map((mark) => mark.color)).size;
  const plot = { left: SIZE.left, right: SIZE.width - SIZE.right,
    top: SIZE.top + LANE * lanes, bottom: SIZE.height - SIZE.bottom };
  const drawing = svg("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img",
    "aria-label": chart.title });
  const draw = { line: drawLines, bars: drawBars, heat: drawHeat }[chart.kind];
  const { groups, cross, read } = draw(drawing, chart, plot);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const zoom = SIZE.width / box.width;
    const found = read((event.clientX - box.left) * zoom, (event.clientY - box.top) * zoom);
    showTip(event, found);
    if (cross) {
      cross.setAttribute("visibility", found ? "visible" : "hidden");
      if (found) for (const end of ["x1", "x2"]) cross.setAttribute(end, found.x);
    }
  });
  drawing.addEventListener("pointerleave", () => {
    document.getElementById("tip").hidden = true;
    cross?.setAttribute("visibility", "hidden");
  });
  const legend = html("div", { class: "legend" });
  (chart.series ?? []).forEach((series, i) => {
    if (!series.name) return;
    const line = svg("svg", { viewBox: "0 0 26 10", width: 26, height: 10 });
    line.append(series.values || series.dots
      ? svg("circle", { cx: 13, cy: 5, r: 4.5, style: `fill:${color(series.color)}` })
      : svg("line", { x1: 1, x2: 25, y1: 5, y2: 5, "stroke-width": 2.4,
        "stroke-dasharray": series.dash || "none", style: `stroke:${color(series.color)}` }));
    const button = html("button", { type: "button", "aria-pressed": "true",
      title: "Show or hide this curve" }, line, series.name);
    button.addEventListener("click", () => {
      const off = groups[i].classList.toggle("off");
      button.setAttribute("aria-pressed", String(!off));
    });
    legend.append(button);
  });
  if (chart.diagonal) legend.append(html("span", { class: "plain" }, `dotted: ${chart.diagonal}`));
  place.append(html("figcaption", {}, chart.title), drawing, legend);
}

// The key to the icons above a group's charts.
function drawKey(place, charts) {
  const kinds = new Set(charts.flatMap((chart) => (chart.marks ?? []).map((mark) => mark.kind)));
  for (const kind of Object.keys(MARKS).filter((k) => kinds.has(k))) {
    const drawing = svg("svg", { viewBox: "-7 -7 14 14", width: 14, height: 14 });
    drawing.append(icon(kind, 0, 0, "var(--mark)"));
    place.append(html("span", {}, drawing, MARKS[kind][1]));
  }
}
