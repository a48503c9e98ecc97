/* Explorers: sliders over frames that ppo_lib computed. No formula lives here: this script counts which frame the
   sliders point at, and shows it. The format of the data is described in ppo_lib/book/explorers/static.py. */
(() => {
  const folder = document.currentScript.src.replace(/[^/]*$/, "");
  const alive = [];
  const unlessOvertaken = (error) => { if (error) throw error; }; // the slider moved on: rejected without an error
  let plotly;
  const AT_ONCE = { mode: "immediate", frame: { duration: 0, redraw: false }, transition: { duration: 0 } };

  const element = (name, properties, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  const load = () => (plotly ??= new Promise((done, failed) => document.head.append(element("script", {
    src: folder + "vendor/plotly/plotly-basic.min.js", onload: () => done(window.Plotly), onerror: failed,
  }))));

  function start(section, Plotly) {
    const data = JSON.parse(section.querySelector("script").textContent);
    const slots = section.querySelectorAll("[data-text]");
    const strips = section.querySelectorAll(".explorer-tokens");
    const pictures = [...section.querySelectorAll(".explorer-picture")];
    const shown = []; // what each picture was last told to show
    const sliders = data.parameters.map(({ label, texts, start }) => {
      const words = texts.length > 1 && texts.some((text) => !/^[-−]?\d/.test(text)); // a choice: a list, not a slider
      const input = words
        ? element("select", {}, ...texts.map((text, i) => new Option(text, i, i === start, i === start)))
        : element("input", { type: "range", min: 0, max: texts.length - 1, step: 1, value: start });
      const output = element("output", { ariaLive: "off", hidden: words });
      const className = words || texts.some((text) => text.length > 12) ? "wide" : "";
      return { input, output, texts, row: element("label", { hidden: texts.length < 2, className }, label, input, output) };
    });

    function show() {
      const index = sliders.reduce((sum, { input, texts }) => sum * texts.length + Number(input.value), 0);
      const [cells, curves, tokens] = data.frames[index];
      // Pictures first: Plotly asks for their size, and the texts would make the browser lay out the page for that.
      data.moving.forEach((place, i) => { data.still[place] = curves[i]; });
      const color = getComputedStyle(section).color;
      let next = 0;
      const drawing = pictures.map((picture, k) => {
        const { traces, layout } = data.panels[k];
        const drawn = traces.map((trace) => {
          const [x, y] = [data.still[next++], data.still[next++]].map((place) => data.arrays[place]);
          return { ...trace, x, y };
        });
        // Drawing is the slow part. A picture that shows the same as before is left alone, and one with other points
        // keeps its axes, which "animate" without "redraw" does not draw again.
        const before = shown[k];
        shown[k] = { drawn, color };
        const font = { ...layout.font, color };
        if (before?.color !== color) return Plotly.react(picture, drawn, { ...layout, font }, { staticPlot: true, responsive: true });
        const moved = drawn.some(({ x, y }, i) => before.drawn[i].x !== x || before.drawn[i].y !== y);
        return moved && Plotly.animate(picture, { data: drawn.map(({ x, y }) => ({ x, y })) }, AT_ONCE);
      });
      for (const { input, output, texts } of sliders) {
        output.textContent = texts[input.value];
        if (input.type === "range") input.ariaValueText = texts[input.value];
      }
      data.varying.forEach((slot, i) => { slots[slot].textContent = data.texts[cells[i]]; });
      strips.forEach((strip, i) => strip.replaceChildren(...tokens[i].map((token) => {
        const [text, value, tint] = data.tokens[token];
        return element("span", { className: `tint${tint}` }, element("b", { textContent: text }), ` ${value}`);
      })));
      Promise.all(drawing).then(() => { section.dataset.frame = index; }, unlessOvertaken);
    }

    // A setting has an address, "#ID=0.30,2": a slider that was moved writes it, and a page that is opened reads it.
    const place = `#${section.id}=`;
    const write = () => {
      const values = sliders.map(({ input, texts }) => encodeURIComponent(texts[input.value]));
      history.replaceState(null, "", place + values.join(","));
    };
    const read = () => {
      if (!location.hash.startsWith(place)) return;
      const values = location.hash.slice(place.length).split(",");
      sliders.forEach(({ input, texts }, i) => {
        const index = texts.findIndex((text) => encodeURIComponent(text) === values[i]);
        if (index >= 0) input.value = index;
      });
    };

    pictures.forEach((picture) => picture.replaceChildren());
    section.querySelector(".explorer-settings").replaceChildren(...sliders.map(({ row }) => row));
    section.classList.add("alive");
    sliders.forEach(({ input }) => {
      input.addEventListener("input", show);
      input.addEventListener("change", write);
    });
    addEventListener("hashchange", () => { read(); show(); });
    alive.push(show);
    read();
    show();
  }

  const near = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    near.unobserve(target);
    load().then((Plotly) => start(target, Plotly));
  }), { rootMargin: "400px" });
  const visit = () => document.getElementById(location.hash.match(/^#(.+)=/)?.[1] ?? "")?.scrollIntoView();
  addEventListener("hashchange", visit);
  addEventListener("load", visit);
  addEventListener("DOMContentLoaded", () => document.querySelectorAll("section.explorer").forEach((one) => near.observe(one)));
  new MutationObserver(() => alive.forEach((show) => show())).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
