// Playground 2: the maps of two networks side by side, how far they agree, and how far any two images' maps do.
"use strict";

(() => {
  const root = document.getElementById("play-maps");
  const data = window.playground?.maps;
  if (!root || !data) return;
  const { cosine, ranks, shorts, mean, three, element, row } = window.play;
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const { images, size, classes } = data, pixels = size[0] * size[1];
  const base = document.currentScript.src; // the files of maps lie beside this script
  const state = { image: 0, method: Object.keys(data.methods)[0], first: "teacher", second: "distilled", control: 1 };
  const MEASURES = { cosine: "Cosine", spearman: "Spearman" };

  // Each method's maps lie in a file of their own and come when they are asked for: method -> network -> maps.
  const loaded = {};
  function load(method) {
    loaded[method] ??= new Promise((done, failed) => {
      const script = element("script", { src: new URL(`maps-${method}.js`, base).href });
      script.onload = () => {
        const stored = window.playground[`maps/${method}`];
        const unpacked = Object.fromEntries(Object.entries(stored).map(([network, text]) => {
          const all = shorts(text);
          return [network, images.map((_, i) => {
            const map = all.subarray(i * pixels, (i + 1) * pixels);
            let found; // of two networks only are they wanted
            return { map, get ranks() { return (found ??= ranks(map)); } };
          })];
        }));
        done((network) => unpacked[network] ?? unpacked.any); // the edge detector's are any network's
      };
      script.onerror = () => {
        delete loaded[method];
        failed(new Error(`The maps of ${data.methods[method]} could not be loaded.`));
      };
      document.head.append(script);
    });
    return loaded[method];
  }

  const measures = {
    cosine: (a, b) => cosine(a.map, b.map),
    spearman: (a, b) => cosine(a.ranks, b.ranks),
  };

  // How image i's map of the first network agrees with each image's map of the second, and what follows.
  function compare(measure, a, b, i) {
    const all = b.map((each) => measures[measure](a[i], each));
    const others = all.filter((_, j) => j !== i);
    return {
      all,
      own: all[i],
      others: mean(others),
      place: 1 + others.filter((value) => value > all[i]).length,
    };
  }

  const pairs = {}; // of each method and pair of networks, once compared
  const tell = window.play.teller(part("said"));
  const label = (i) => images[i].name;
  const says = (network, i) => classes[data.answers[network][i]];

  // A map in words: where its largest values of either sign lie, on a grid of four by four.
  const ROWS = ["top", "upper middle", "lower middle", "bottom"], COLUMNS = ["left", "left of the middle", "right of the middle", "right"];
  function blocks(map) {
    const sums = Array.from({ length: 16 }, () => 0);
    let total = 0;
    map.forEach((value, i) => {
      const r = Math.floor(4 * Math.floor(i / size[1]) / size[0]), c = Math.floor(4 * (i % size[1]) / size[1]);
      sums[4 * r + c] += value;
      total += Math.abs(value);
    });
    return sums.map((sum) => (total > 0 ? sum / total : 0));
  }
  function words(map) {
    const shares = blocks(map), most = window.play.argmax(shares), least = window.play.argmax(shares.map((s) => -s));
    const where = (k) => `${ROWS[k >> 2]}, ${COLUMNS[k & 3]}`;
    if (map.every((value) => value === 0)) return "zero everywhere";
    return `most for the class: ${where(most)}` + (shares[least] < 0 ? `; most against it: ${where(least)}` : "");
  }

  function figure(name, caption, description, draw) {
    const canvas = part(name).querySelector("canvas");
    draw(canvas);
    canvas.setAttribute("aria-label", description);
    part(name).querySelector("figcaption").textContent = caption;
  }

  let latest = 0;
  async function update() {
    const { image: i, method, first, second, control: j } = state, turn = ++latest;
    root.setAttribute("aria-busy", "true");
    let of;
    try {
      of = await load(method);
    } catch (fault) {
      if (turn === latest) root.removeAttribute("aria-busy");
      tell(fault.message);
      return;
    }
    if (turn !== latest) return; // the reader has gone on meanwhile
    const [a, b] = [of(first), of(second)], [nameA, nameB] = [data.networks[first], data.networks[second]];

    figure("picture", `${label(i)}: explained is “${says("teacher", i)}”, the teacher's answer`, `Test image ${label(i)}`,
      (canvas) => window.play.paintImage(canvas, images[i], size));
    const map = (name, found, of, k) => figure(name, `${of}, ${label(k)}`,
      `Map of ${of} for ${label(k)}: ${words(found[k].map)}`, (canvas) => window.play.paintMap(canvas, found[k].map, size));
    map("map-first", a, nameA, i);
    map("map-second", b, nameB, i);
    map("map-control", b, nameB, j);

    const whole = (pairs[`${method}/${first}/${second}`] ??= Object.fromEntries(
      Object.keys(MEASURES).map((m) => [m, images.map((_, k) => compare(m, a, b, k))])));
    const found = Object.fromEntries(Object.keys(MEASURES).map((m) => [m, whole[m][i]]));
    const cells = (text) => Object.keys(MEASURES).map((m) => text(found[m]));
    part("agreement").tBodies[0].replaceChildren(
      row(`the same image, ${label(i)}`, cells((f) => three(f.own))),
      row(`control: second map of ${label(j)}`, cells((f) => three(f.all[j]))),
      row(`control: mean over all ${images.length - 1} other images`, cells((f) => three(f.others))),
      row("specific to this image (first row minus third)", cells((f) => three(f.own - f.others))),
      row(`place of the right image among ${images.length}`, cells((f) => String(f.place))),
    );
    part("agreement-caption").textContent = `${data.methods[method]}: ${nameA} and ${nameB}, ${label(i)}`;

    const wholeCells = (text) => Object.keys(MEASURES).map((m) => text(whole[m]));
    part("over-all").tBodies[0].replaceChildren(
      row("the same image, mean", wholeCells((w) => three(mean(w.map((f) => f.own))))),
      row("control: another image, mean", wholeCells((w) => three(mean(w.map((f) => f.others))))),
      row("specific to the image (first row minus second)", wholeCells((w) => three(mean(w.map((f) => f.own - f.others))))),
      row(`right image in first place, of ${images.length} (chance: 1)`, wholeCells((w) => `${w.filter((f) => f.place === 1).length}`)),
    );

    const shares = [a[i], b[i], b[j]].map(({ map }) => blocks(map));
    part("words").tBodies[0].replaceChildren(...shares[0].map((_, k) =>
      row(`${ROWS[k >> 2]}, ${COLUMNS[k & 3]}`, shares.map((each) => three(each[k])))));
    [nameA, nameB, `${nameB}, ${label(j)}`].forEach((name, n) => {
      part("words").tHead.rows[0].cells[n + 1].textContent = name;
    });
    root.removeAttribute("aria-busy");
    tell(`${data.methods[method]}, ${nameA} and ${nameB}, ${label(i)}: cosine ${three(found.cosine.own)}, with other images `
      + `${three(found.cosine.others)} on average; Spearman ${three(found.spearman.own)}, with other images ${three(found.spearman.others)}.`);
  }

  // ---- the controls ----

  function listControls() {
    const names = Object.fromEntries(images.flatMap((image, k) => (k === state.image ? [] : [[k, image.name]])));
    window.play.options(part("control"), names);
    part("control").value = String(state.control);
  }
  function setImage(i) {
    // The control is at first the other image of the same class; it stays what the reader chose, unless it is this one.
    if (!state.chosen || state.control === i) {
      state.control = images.findIndex((image, k) => k !== i && image.label === images[i].label);
      state.chosen = false;
    }
    state.image = i;
    listControls();
    root.querySelector(`input[name="play-image"][value="${i}"]`).checked = true;
  }
  for (const [name, entries] of [["method", data.methods], ["first", data.networks], ["second", data.networks]]) {
    window.play.options(part(name), entries);
    part(name).value = state[name];
    part(name).addEventListener("change", () => {
      state[name] = part(name).value;
      update();
    });
  }
  part("control").addEventListener("change", () => {
    state.control = Number(part("control").value);
    state.chosen = true;
    update();
  });
  const chosen = images.map((image, i) => ({ i, title: image.name }));
  window.play.chooser(part("images"), images, size, "play-image", chosen, (i) => {
    setImage(i);
    update();
  });
  window.play.start(root);
  setImage(images.findIndex((image) => image.name === "Shirt 1"));
  update();
  window.play.settings(root, (wanted) => {
    for (const name of ["method", "first", "second"]) {
      state[name] = wanted[name] ?? state[name];
      part(name).value = state[name];
    }
    state.chosen = false;
    setImage(wanted.image ? images.findIndex((image) => image.name === wanted.image) : state.image);
    update();
  });
})();
