// What a search result quotes: the page's text, not its lists of contents; of a place, what stands there.
// Sphinx's own looks for places with a selector that no name with a dot passes, such as those of functions.
addEventListener("DOMContentLoaded", () => {
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const skipped = ".headerlink, .viewcode-link, script, style, nav, .cell_input, section.explorer";
    page.querySelectorAll(skipped).forEach((one) => one.remove());
    let place = anchor ? page.getElementById(anchor.slice(1)) : null;
    if (place?.matches("span")) place = place.parentElement;
    let text = (place || page.querySelector("article.bd-article"))?.textContent ?? "";
    if (place?.matches("dt")) {
      let meaning = place.nextElementSibling;
      while (meaning?.matches("dt")) meaning = meaning.nextElementSibling;
      text += `: ${meaning?.textContent ?? ""}`;
    }
    return text.replace(/\\[()[\]]/g, "").replace(/\s+/g, " ").trim();
  };
});
