// Playground 1: one image, one temperature, three networks. Everything shown is computed here from their logits.
"use strict";

(() => {
  const root = document.getElementById("play-temperature");
  const data = window.playground?.temperature;
  if (!root || !data) return;
  const { logSoftmax, entropy, kl, gradientNorm, argmax, mean, three, element, row } = window.play;
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const networks = Object.keys(data.networks), students = networks.slice(1);
  const LOWEST = 0.25, HIGHEST = 64, STEPS = 10; // the slider doubles T in ten steps
  const state = { image: 0, T: 4 };

  // Four digits that count, whatever the size.
  const digits = (value) => (value === 0 ? "0" : value.toPrecision(3));
  const shown = (T) => String(Number(T.toFixed(2)));
  const title = (image, i) => {
    const says = argmax(data.logits.teacher[i]);
    return says === image.label ? `${image.name}, the teacher is right` : `${image.name}, the teacher says ${data.classes[says]}`;
  };

  // All that the page says about image i at temperature T.
  function measure(i, T) {
    const logP = Object.fromEntries(networks.map((key) => [key, logSoftmax(data.logits[key][i], T)]));
    const found = { p: {}, names: {}, entropy: {}, kl: {}, norm: {} };
    for (const key of networks) {
      found.p[key] = logP[key].map(Math.exp);
      found.names[key] = argmax(data.logits[key][i]);
      found.entropy[key] = entropy(logP[key]);
      found.kl[key] = kl(logP.teacher, logP[key]);
      found.norm[key] = gradientNorm(logP.teacher, logP[key], T);
    }
    return found;
  }

  // The tables, made once: a change of T writes into cells that are there.
  const bars = [], numbers = {};
  function build() {
    const heads = () => networks.map((key) => element("th", { scope: "col", className: `play-${key}` }, data.networks[key]));
    const table = (name, first, body) =>
      part(name).append(
        element("thead", {}, element("tr", {}, element("th", { scope: "col" }, first), ...heads())),
        element("tbody", {}, ...body),
      );
    table("soft", "Class", data.classes.map((name, k) => {
      bars[k] = networks.map((key) => ({ bar: element("span", { className: `play-bar play-${key}` }), number: element("span") }));
      return row(name, bars[k].map(({ bar, number }) =>
        element("span", { className: "play-cell" }, number, element("span", { className: "play-track" }, bar))));
    }));
    const line = (name, head) => {
      numbers[name] = networks.map(() => element("span"));
      return row(head, numbers[name]);
    };
    table("numbers", "Number", [
      line("names", "names the class"),
      line("entropy", "entropy of its soft label, nats"),
      line("kl", "KL(teacher ‖ student), nats"),
      line("loss", "distillation loss, T² · KL"),
      line("norm", "gradient norm of that loss"),
      line("plain", "gradient norm without T²"),
      line("mean", `KL, mean over all ${data.images.length} images`),
      line("nearer", `nearer to the teacher, of ${data.images.length} images`),
    ]);
  }

  const tell = window.play.teller(part("said"));
  function update() {
    const { image: i, T } = state, image = data.images[i], found = measure(i, T);
    data.classes.forEach((_, k) => networks.forEach((key, n) => {
      bars[k][n].bar.style.width = `${100 * found.p[key][k]}%`;
      bars[k][n].number.textContent = three(found.p[key][k]);
      bars[k][n].number.className = k === found.names[key] ? "play-top" : "";
    }));
    root.querySelectorAll("[data-part='soft'] tbody th").forEach((head, k) => {
      head.textContent = data.classes[k] + (k === image.label ? " (label)" : "");
      head.className = k === image.label ? "play-top" : "";
    });

    const over = data.images.map((_, j) => measure(j, T).kl);
    const nearer = (key) => over.filter((each) => students.every((other) => other === key || each[key] < each[other])).length;
    const write = (name, text, whom) => networks.forEach((key, n) => {
      numbers[name][n].textContent = whom.includes(key) ? text(key) : "–";
    });
    write("names", (key) => data.classes[found.names[key]], networks);
    write("entropy", (key) => digits(found.entropy[key]), networks);
    write("kl", (key) => digits(found.kl[key]), students);
    write("loss", (key) => digits(T * T * found.kl[key]), students);
    write("norm", (key) => digits(found.norm[key]), students);
    write("plain", (key) => digits(found.norm[key] / (T * T)), students);
    write("mean", (key) => digits(mean(over.map((each) => each[key]))), students);
    write("nearer", (key) => String(nearer(key)), students);

    part("caption").textContent = `Soft labels of ${title(image, i)}, at T = ${shown(T)}`;
    part("caption-numbers").textContent = `The same in numbers, at T = ${shown(T)}`;
    draw(found);
    tell(`${title(image, i)}. T is ${shown(T)}. ` + networks.map((key) =>
      `${data.networks[key]}: ${data.classes[found.names[key]]} ${three(found.p[key][found.names[key]])}, entropy ${digits(found.entropy[key])}`
      + (key === "teacher" ? "" : `, KL ${digits(found.kl[key])}, gradient norm ${digits(found.norm[key])}`)).join(". ") + ".");
  }

  // The gradient norms over all temperatures, with T² (solid) and without (dashed); a line marks the T that is set.
  const SVG = "http://www.w3.org/2000/svg", HEIGHT = 240, LEFT = 44, BOTTOM = 40, TOP = 12;
  let WIDTH = 640; // as wide as the page gives, so that the letters keep their size on a phone
  const x = (T) => LEFT + (WIDTH - LEFT - 12) * Math.log(T / LOWEST) / Math.log(HIGHEST / LOWEST);
  const grid = Array.from({ length: 81 }, (_, s) => LOWEST * 2 ** (s / STEPS));
  let drawn = -1;
  function draw(found) {
    const svg = part("curves");
    const add = (tag, attributes, text = "") => {
      const made = document.createElementNS(SVG, tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      made.textContent = text;
      svg.append(made);
      return made;
    };
    if (drawn !== state.image) {
      drawn = state.image;
      svg.replaceChildren();
      WIDTH = Math.min(640, Math.max(280, root.clientWidth));
      svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
      const norms = grid.map((T) => measure(state.image, T).norm);
      const top = 1.05 * Math.max(1e-9, ...norms.flatMap((each, s) => students.flatMap((key) => [each[key], each[key] / grid[s] ** 2])));
      const y = (value) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top;
      for (const T of [0.25, 1, 4, 16, 64]) {
        add("line", { class: "play-grid", x1: x(T), x2: x(T), y1: TOP, y2: HEIGHT - BOTTOM });
        add("text", { x: x(T), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, String(T));
      }
      for (const share of [0, 0.5, 1]) {
        const value = share * top / 1.05;
        add("line", { class: "play-grid", x1: LEFT, x2: WIDTH - 12, y1: y(value), y2: y(value) });
        add("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, value ? value.toPrecision(2) : "0");
      }
      add("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "temperature T, logarithmic");
      for (const key of students) {
        for (const [kind, power] of [["with", 0], ["without", 2]]) {
          const points = grid.map((T, s) => `${x(T).toFixed(1)},${y(norms[s][key] / T ** power).toFixed(1)}`);
          add("polyline", { class: `play-line play-${key} play-${kind}`, points: points.join(" ") });
        }
      }
      add("line", { class: "play-now", y1: TOP, y2: HEIGHT - BOTTOM });
    }
    const now = svg.querySelector(".play-now");
    now.setAttribute("x1", x(state.T));
    now.setAttribute("x2", x(state.T));
    svg.setAttribute("aria-label", `Gradient norms over T. At T = ${shown(state.T)}: ` + students.map((key) =>
      `${data.networks[key]} ${digits(found.norm[key])} with T², ${digits(found.norm[key] / state.T ** 2)} without`).join("; ") + ".");
  }

  // ---- the controls ----

  const slider = part("slider"), typed = part("typed"), fault = part("fault");
  function complain(text) {
    fault.textContent = text;
    typed.toggleAttribute("aria-invalid", Boolean(text));
    if (text) typed.setAttribute("aria-invalid", "true");
  }
  function setT(T, from) {
    state.T = T;
    complain("");
    if (from !== slider) slider.value = String(Math.round(STEPS * Math.log2(T / LOWEST)));
    if (from !== typed) typed.value = shown(T);
    slider.setAttribute("aria-valuetext", `T is ${shown(T)}`);
    update();
  }
  slider.addEventListener("input", () => setT(Number((LOWEST * 2 ** (Number(slider.value) / STEPS)).toFixed(2)), slider));
  typed.addEventListener("input", () => {
    const T = typed.value.trim() === "" ? NaN : Number(typed.value);
    if (T >= LOWEST && T <= HIGHEST) setT(T, typed);
    else complain(`T must be a number from ${LOWEST} to ${HIGHEST}; shown is still T = ${shown(state.T)}.`);
  });
  function setImage(i) {
    state.image = i;
    root.querySelector(`input[name="play-image"][value="${i}"]`).checked = true;
    update();
  }

  const right = (i) => argmax(data.logits.teacher[i]) === data.images[i].label;
  for (const [name, wanted] of [["right", true], ["wrong", false]]) {
    const chosen = data.images.flatMap((image, i) => (right(i) === wanted ? [{ i, title: title(image, i) }] : []));
    window.play.chooser(part(name), data.images, [28, 28], "play-image", chosen, setImage);
  }
  build();
  window.play.start(root);
  setT(4);
  setImage(data.images.findIndex((image) => image.name === "Shirt 1"));
  window.play.settings(root, (wanted) => {
    setImage(data.images.findIndex((image) => image.name === wanted.image));
    setT(wanted.T);
  });
})();
