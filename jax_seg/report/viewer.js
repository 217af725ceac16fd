// Three orthogonal slices of a volume, painted from the tiles of jax_seg/report/sprites.py.
"use strict";

const AXES = ["Depth", "Height", "Width"];
const STEP = 3; // of sprites.STEP
const MASKED_CODE = 2; // of sprites.MASKED_CODE
const MASKED_OF_SEVERAL = 85; // above sprites.MOST_CLASSES
const CANVAS = 480; // pixels along a slice, at least
// Okabe and Ito's green, orange and sky blue: distinct to colour-blind eyes.
const PAINT = { found: [0, 178, 130], wrong: [240, 150, 0], missed: [70, 175, 245] };

function makeViewer(place, views, runs) {
  const state = { volume: views.volumes[0], run: 0, index: [0, 0, 0], level: 0, strength: 0.75,
    cross: true };
  const find = (selector) => place.querySelector(selector);
  const sheets = new Map(); // data address -> promise of a canvas

  for (const axis of [0, 1, 2]) {
    const slider = html("input", { type: "range", min: 0, "data-axis": axis });
    find(".panels").append(
      html("div", { class: "axis" },
        html("label", {}, AXES[axis], slider, html("output", { "data-axis": axis })),
        html("span", { class: "slice-score", "data-axis": axis })),
      ...["image", "label", "prediction", "errors"].map((panel) => html("canvas",
        { class: panel, "data-axis": axis, "data-panel": panel, width: 1, height: 1 })),
    );
  }

  function load(address) {
    if (!sheets.has(address)) {
      const image = new Image();
      image.src = address;
      sheets.set(address, image.decode().then(() => {
        const canvas = html("canvas", { width: image.width, height: image.height });
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
        return context;
      }));
    }
    return sheets.get(address);
  }

  async function tile(address, axis) {
    const { tiles, pitch, columns } = state.volume;
    const [height, width] = tiles[axis];
    const number = state.index[axis];
    const context = await load(address);
    return context.getImageData((number % columns) * pitch[axis][1],
      Math.floor(number / columns) * pitch[axis][0], width, height).data;
  }

  const single = () => state.volume.shape[0] === 1; // an image
  const shown = () => state.volume.runs[state.run];
  const several = () => shown().names.length > 0; // classes
  const panels = () => (state.volume.labelled ? ["image", "label", "prediction", "errors"]
    : ["image", "prediction"]);

  // The number of a pixel's class in label and prediction, 0 for background, and whether it is
  // unlabelled.
  function decode(classes, i) {
    const code = Math.round(classes[i] / STEP);
    if (several()) {
      const predicted = Math.round(classes[i + 1] / STEP);
      return code === MASKED_OF_SEVERAL ? [0, predicted, true] : [code, predicted, false];
    }
    const predicted = Math.floor(code / 3) > state.level ? 1 : 0;
    return code % 3 === MASKED_CODE ? [0, predicted, true] : [code % 3, predicted, false];
  }

  // The colours of one panel, and where its slice is unlabelled.
  function colours(panel, grey, classes) {
    const pixels = new ImageData(grey.width, grey.height);
    const hidden = new ImageData(grey.width, grey.height);
    const counts = { found: 0, wrong: 0, missed: 0 };
    const paints = several() ? shown().names.map((one) => one.colour) : [PAINT.found];
    for (let i = 0; i < grey.data.length; i += 4) {
      const [label, predicted, masked] = decode(classes, i);
      const unlabelled = masked && panel !== "image";
      let paint = null, strength = state.strength;
      if (panel === "label") paint = paints[label - 1];
      if (panel === "prediction") paint = paints[predicted - 1];
      if (panel === "errors" && !masked && (predicted || label)) {
        const kind = !predicted ? "missed" : label === predicted ? "found" : "wrong";
        // One class in place of another is both.
        if (kind !== "found" && predicted) counts.wrong++;
        if (kind !== "found" && label) counts.missed++;
        if (kind === "found") counts.found++;
        paint = PAINT[kind];
        if (kind === "found") strength *= 0.35; // so that the errors stand out
      }
      const dim = unlabelled && panel !== "prediction" ? 0.45 : 1;
      for (let c = 0; c < 3; c++) {
        const value = grey.data[i + c] * dim;
        pixels.data[i + c] = paint ? value + strength * (paint[c] - value) : value;
      }
      pixels.data[i + 3] = 255;
      hidden.data[i + 3] = unlabelled && panel !== "prediction" ? 255 : 0;
    }
    return { pixels, hidden, counts };
  }

  function enlarge(pixels, canvas) {
    const small = html("canvas", { width: pixels.width, height: pixels.height });
    small.getContext("2d").putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    return context;
  }

  function hatch(context, hidden) {
    const layer = html("canvas", { width: context.canvas.width, height: context.canvas.height });
    const over = enlarge(hidden, layer);
    const stripe = html("canvas", { width: 12, height: 12 });
    const line = stripe.getContext("2d");
    line.strokeStyle = "rgba(190,190,190,.75)";
    line.lineWidth = 1.6;
    for (const shift of [-12, 0, 12]) {
      line.moveTo(shift, 12);
      line.lineTo(shift + 12, 0);
    }
    line.stroke();
    over.globalCompositeOperation = "source-in";
    over.fillStyle = over.createPattern(stripe, "repeat");
    over.fillRect(0, 0, layer.width, layer.height);
    context.drawImage(layer, 0, 0);
  }

  // Where the other two slices cut this one.
  function crosshair(context, axis) {
    if (!state.cross || single()) return;
    const others = [0, 1, 2].filter((other) => other !== axis);
    const { shape, positions } = state.volume;
    const [down, across] = others.map((other, i) => {
      const length = i === 0 ? context.canvas.height : context.canvas.width;
      return Math.round(((positions[other][state.index[other]] + 0.5) / shape[other]) * length) + 0.5;
    });
    context.strokeStyle = "rgba(255,255,255,.45)";
    context.setLineDash([3, 5]);
    context.beginPath();
    context.moveTo(0, down);
    context.lineTo(context.canvas.width, down);
    context.moveTo(across, 0);
    context.lineTo(across, context.canvas.height);
    context.stroke();
    context.setLineDash([]);
  }

  async function drawRow(axis) {
    const { volume } = state;
    const [height, width] = volume.tiles[axis];
    const zoom = Math.max(1, Math.ceil(CANVAS / Math.max(height, width)));
    const asked = JSON.stringify([state.index[axis], state.run, state.level]);
    const [image, classes] = await Promise.all(
      [tile(volume.image[axis], axis), tile(shown().classes[axis], axis)]);
    const now = JSON.stringify([state.index[axis], state.run, state.level]);
    if (volume !== state.volume || asked !== now) return; // a later call draws
    const grey = { data: image, width, height };
    for (const panel of panels()) {
      const canvas = find(`canvas[data-axis="${axis}"][data-panel="${panel}"]`);
      if (canvas.width !== width * zoom || canvas.height !== height * zoom) {
        canvas.width = width * zoom;
        canvas.height = height * zoom;
        canvas.style.aspectRatio = Math.min(width / height, views.flattest);
      }
      const { pixels, hidden, counts } = colours(panel, grey, classes);
      const context = enlarge(pixels, canvas);
      if (volume.labelled) hatch(context, hidden);
      crosshair(context, axis);
      if (panel === "errors") say(axis, counts);
    }
    const position = volume.positions[axis][state.index[axis]];
    find(`output[data-axis="${axis}"]`).textContent = `${position} of ${volume.shape[axis] - 1}`;
    place.dataset.drawn = String(+(place.dataset.drawn ?? 0) + 1);
  }

  function say(axis, { found, wrong, missed }) {
    const all = 2 * found + wrong + missed;
    const dice = all ? `Dice ${figure(+((2 * found) / all).toFixed(3))}` : "no foreground";
    find(`.slice-score[data-axis="${axis}"]`).textContent =
      `this ${single() ? "image" : "slice"}: ${dice}; ${wrong} wrong, ${missed} missed ${single() ? "pixels" : "voxels"}`;
  }

  function draw() {
    const threshold = views.thresholds[state.level];
    const own = state.level === shown().threshold ? " (the run's own)" : "";
    find("#threshold-value").textContent = `${figure(threshold)}${own}`;
    return Promise.all([0, 1, 2].map(drawRow));
  }

  function choose(number) {
    state.volume = views.volumes[number];
    state.index = [...state.volume.start];
    const known = state.volume.runs.findIndex((run) => run.run === state.wanted);
    chooseRun(Math.max(known, 0), false);
    place.classList.toggle("unlabelled", !state.volume.labelled);
    place.classList.toggle("single", single());
    for (const axis of [0, 1, 2]) {
      const slider = find(`input[data-axis="${axis}"]`);
      slider.max = state.volume.positions[axis].length - 1;
      slider.value = state.index[axis];
    }
    find("#image-head").textContent = state.volume.probability ? "Probability" : "Image";
    find("#view-note").textContent = state.volume.note;
    press("#view-volumes", number);
    draw();
  }

  function chooseRun(number, redraw = true) {
    state.run = number;
    state.level = shown().threshold;
    find("#threshold").value = state.level;
    const buttons = [...find("#view-runs").children];
    buttons.forEach((button, r) => {
      button.disabled = !state.volume.runs.some((run) => run.run === r);
    });
    press("#view-runs", shown().run);
    find("#view-scores").textContent = shown().scores;
    place.classList.toggle("several", several());
    find("#view-classes").replaceChildren(...shown().names.map(({ name, colour }) =>
      html("li", { style: `--c: rgb(${colour.join(" ")})` }, name)));
    if (redraw) draw();
  }

  function press(group, number) {
    [...find(group).children].forEach((button, i) =>
      button.setAttribute("aria-pressed", String(i === number)));
  }

  views.volumes.forEach((volume, i) => {
    const rank = volume.rank ? html("small", {}, volume.rank) : "";
    const button = html("button", { type: "button" }, volume.id, rank);
    button.addEventListener("click", () => choose(i));
    find("#view-volumes").append(button);
  });
  runs.forEach((name, r) => {
    const button = html("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      state.wanted = r;
      chooseRun(state.volume.runs.findIndex((run) => run.run === r));
    });
    find("#view-runs").append(button);
  });
  find("#view-runs").parentElement.hidden = runs.length < 2;

  for (const axis of [0, 1, 2]) {
    find(`input[data-axis="${axis}"]`).addEventListener("input", (event) => {
      state.index[axis] = +event.target.value;
      draw();
    });
    for (const canvas of place.querySelectorAll(`canvas[data-axis="${axis}"]`)) {
      canvas.title = "Click to move the other two slices here";
      canvas.addEventListener("click", (event) => {
        if (single()) return;
        const box = canvas.getBoundingClientRect();
        const others = [0, 1, 2].filter((other) => other !== axis);
        const share = [(event.clientY - box.top) / box.height,
          (event.clientX - box.left) / box.width];
        others.forEach((other, i) => {
          const wanted = share[i] * state.volume.shape[other] - 0.5;
          const distance = state.volume.positions[other].map((p) => Math.abs(p - wanted));
          state.index[other] = distance.indexOf(Math.min(...distance));
          find(`input[data-axis="${other}"]`).value = state.index[other];
        });
        draw();
      });
    }
  }
  find("#threshold").max = views.thresholds.length - 1;
  find("#threshold").addEventListener("input", (event) => {
    state.level = +event.target.value;
    draw();
  });
  find("#strength").addEventListener("input", (event) => {
    state.strength = event.target.value / 100;
    draw();
  });
  find("#crosshair").addEventListener("change", (event) => {
    state.cross = event.target.checked;
    draw();
  });
  choose(0);
  return (id) => {
    const number = views.volumes.findIndex((volume) => volume.id === id);
    if (number >= 0) choose(number);
  };
}
