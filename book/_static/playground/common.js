// What the two playgrounds share: mathematics on plain arrays, pictures, and a choice of images.
"use strict";

window.play = (() => {
  // ---- mathematics, in float64 and nats; the names are those of kdutils ----

  // log softmax(logits / T); the largest is taken off first, so that nothing overflows.
  function logSoftmax(logits, temperature) {
    const scaled = logits.map((z) => z / temperature);
    const largest = Math.max(...scaled);
    const logSum = largest + Math.log(scaled.reduce((sum, z) => sum + Math.exp(z - largest), 0));
    return scaled.map((z) => z - logSum);
  }

  const entropy = (logP) => -logP.reduce((sum, l) => sum + Math.exp(l) * l, 0);

  // KL(p ‖ q) from two log-probabilities; rounding may leave it a hair below zero.
  const kl = (logP, logQ) => Math.max(0, logP.reduce((sum, l, k) => sum + Math.exp(l) * (l - logQ[k]), 0));

  // ∂ T²·KL(p ‖ q) / ∂ student's logits = T (q − p): its Euclidean norm.
  const gradientNorm = (logP, logQ, temperature) =>
    temperature * Math.hypot(...logP.map((l, k) => Math.exp(logQ[k]) - Math.exp(l)));

  const argmax = (values) => values.reduce((best, value, k) => (value > values[best] ? k : best), 0);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // The cosine of two lists; 0 where one of them is zero everywhere, for it points nowhere.
  function cosine(a, b) {
    let product = 0, squareA = 0, squareB = 0;
    for (let i = 0; i < a.length; i++) {
      product += a[i] * b[i];
      squareA += a[i] * a[i];
      squareB += b[i] * b[i];
    }
    return squareA > 0 && squareB > 0 ? product / Math.sqrt(squareA * squareB) : 0;
  }

  // Ranks less their mean, equal values sharing the mean of their ranks: cosine(ranks, ranks) is Spearman's.
  function ranks(values) {
    const order = Array.from(values.keys()).sort((i, j) => values[i] - values[j]);
    const found = new Float64Array(values.length);
    for (let start = 0; start < order.length; ) {
      let end = start;
      while (end < order.length && values[order[end]] === values[order[start]]) end++;
      for (let i = start; i < end; i++) found[order[i]] = (start + end - 1) / 2 - (values.length - 1) / 2;
      start = end;
    }
    return found;
  }

  // The value below which a share of the values lies, between two of them by a straight line.
  function quantile(values, share) {
    const sorted = Float64Array.from(values).sort();
    const place = share * (sorted.length - 1), below = Math.floor(place);
    return sorted[below] + (place - below) * (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]);
  }

  // ---- data and pictures ----

  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

  // Whole numbers of two bytes, the lower first.
  function shorts(text) {
    const view = new DataView(bytes(text).buffer);
    return Int16Array.from({ length: view.byteLength / 2 }, (_, i) => view.getInt16(2 * i, true));
  }

  function paint(canvas, size, color) {
    [canvas.height, canvas.width] = size;
    const context = canvas.getContext("2d");
    const picture = context.createImageData(canvas.width, canvas.height);
    for (let i = 0; i < size[0] * size[1]; i++) picture.data.set([...color(i), 255], 4 * i);
    context.putImageData(picture, 0, 0);
  }

  function paintImage(canvas, image, size) {
    const pixels = bytes(image.pixels);
    paint(canvas, size, (i) => [pixels[i], pixels[i], pixels[i]]);
  }

  // Red speaks for the class, blue against it, white is zero: the colours of the book's figures (RdBu of ColorBrewer).
  const SCALE = [
    [5, 48, 97], [33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240], [247, 247, 247],
    [253, 219, 199], [244, 165, 130], [214, 96, 77], [178, 24, 43], [103, 0, 31],
  ];

  // A map divided by the 99th percentile of its absolute values, as kd.plot.maps draws it.
  function paintMap(canvas, map, size) {
    const top = quantile(Array.from(map, Math.abs), 0.99) || 1;
    paint(canvas, size, (i) => {
      const place = (Math.min(1, Math.max(-1, map[i] / top)) + 1) * 5, below = Math.min(9, Math.floor(place));
      return SCALE[below].map((c, channel) => Math.round(c + (place - below) * (SCALE[below + 1][channel] - c)));
    });
  }

  // ---- the page ----

  // Three digits after the point, with a minus sign that is read as one, and no minus before zero.
  const three = (value) => (Math.abs(value) < 0.0005 ? 0 : value).toFixed(3).replace("-", "−");

  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  const options = (select, entries) =>
    select.replaceChildren(...Object.entries(entries).map(([value, name]) => element("option", { value }, name)));

  // A row of a table: its head, then the cells.
  const row = (head, cells) =>
    element("tr", {}, element("th", { scope: "row" }, head), ...cells.map((cell) => element("td", {}, cell)));

  // Small pictures to choose from: radio buttons, so that the arrow keys walk through them.
  function chooser(box, images, size, name, chosen, change) {
    for (const { i, title } of chosen) {
      const canvas = element("canvas", { "aria-hidden": "true" });
      paintImage(canvas, images[i], size);
      const input = element("input", { type: "radio", name, value: String(i), "aria-label": title });
      input.addEventListener("change", () => change(i));
      box.append(element("label", { title }, input, canvas));
    }
  }

  // What a screen reader is told, once the hand rests: a sentence for each step of a slider would never end.
  function teller(output) {
    let waiting = 0;
    return (text) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { output.textContent = text; }, 250);
    };
  }

  // Buttons of the page's list "Try this": each holds a setting.
  function settings(root, set) {
    for (const button of document.querySelectorAll("button.play-set")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        set(JSON.parse(button.dataset.set));
        root.scrollIntoView({ block: "start" });
        root.focus({ preventScroll: true });
      });
    }
  }

  function start(root) {
    root.hidden = false;
    document.querySelector(".play-fallback").hidden = true;
  }

  return {
    logSoftmax, entropy, kl, gradientNorm, argmax, mean, cosine, ranks, shorts, paintImage, paintMap, three,
    element, options, row, chooser, teller, settings, start,
  };
})();
