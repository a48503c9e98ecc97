// What a search result quotes: the page's text, not its lists of contents; of a place, what stands there.
// Sphinx's own looks for places with a selector that no name with a dot passes, such as those of functions.
// A formula is quoted in one line of letters and signs: \varepsilon as ε, \hat A_t as A_t.
const SIGNS = {
  alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ε", theta: "θ", lambda: "λ", pi: "π", rho: "ρ", sigma: "σ",
  tau: "τ", phi: "φ", psi: "ψ", sum: "Σ", prod: "Π", sim: "~", mid: "|", cdot: "·", times: "×", le: "≤", ge: "≥",
  log: "log", exp: "exp", min: "min", max: "max", sqrt: "√", in: "∈", ldots: "…", dots: "…", infty: "∞", approx: "≈",
};
const inOneLine = (tex) => tex.replace(/\}\{/g, "/").replace(/\\(?:var)?([a-zA-Z]+)/g, (_, name) => SIGNS[name] ?? "")
  .replace(/\\\|/g, "‖").replace(/\\[^a-zA-Z]/g, " ").replace(/[{}]/g, "").trim();

addEventListener("DOMContentLoaded", () => {
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const skipped = ".headerlink, .viewcode-link, script, style, nav, .cell_input, section.explorer";
    page.querySelectorAll(skipped).forEach((one) => one.remove());
    page.querySelectorAll(".math").forEach((one) => { one.textContent = inOneLine(one.textContent); });
    let place = anchor ? page.getElementById(anchor.slice(1)) : null;
    if (place?.matches("span")) place = place.parentElement;
    let text = (place || page.querySelector("article.bd-article"))?.textContent ?? "";
    if (place?.matches("dt")) {
      let meaning = place.nextElementSibling;
      while (meaning?.matches("dt")) meaning = meaning.nextElementSibling;
      text += `: ${meaning?.textContent ?? ""}`;
    }
    return text.replace(/\s+/g, " ").trim();
  };
});
