// Pointing at a term or a cited work, or reaching it by keyboard, shows what it is. The texts come from a script of their
// own, loaded when the first is wanted: so this works from a disk, too, where pages may not fetch.
(() => {
  const base = document.currentScript.src.replace(/tips\.js.*$/, "");
  const box = Object.assign(document.createElement("div"), { className: "book-tip", id: "book-tip", hidden: true });
  box.setAttribute("role", "tooltip");
  let loading, shown;

  const load = () => (loading ??= new Promise((done) => {
    const script = Object.assign(document.createElement("script"), { src: `${base}tips_data.js`, onload: done });
    document.head.append(script);
  }));
  const textOf = ({ href }) => {
    const [, term] = href.match(/glossary\.html#(term-[^?]+)$/) ?? [];
    return term ? window.bookTips.terms[decodeURIComponent(term)] : window.bookTips.works[href];
  };
  const hide = () => {
    shown?.removeAttribute("aria-describedby");
    box.hidden = true;
    shown = undefined;
  };
  const show = async (link) => {
    hide();
    shown = link;
    await load();
    const text = textOf(link);
    if (shown !== link || !text) return;
    box.textContent = text;
    document.body.append(box);
    box.hidden = false;
    await window.MathJax?.typesetPromise?.([box]);
    const at = link.getBoundingClientRect();
    const left = Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 8);
    const below = at.bottom + box.offsetHeight + 8 < innerHeight;
    box.style.left = `${Math.max(8, left) + scrollX}px`;
    box.style.top = `${(below ? at.bottom + 6 : at.top - box.offsetHeight - 6) + scrollY}px`;
    link.setAttribute("aria-describedby", box.id);
  };
  const linkOf = (event) => event.target.closest?.(".bd-article a[href]");
  const outside = (link) => /^https?:/.test(link.href) && link.host !== location.host;
  const wanted = (link) => link && (/glossary\.html#term-/.test(link.href) || outside(link));

  for (const kind of ["pointerover", "focusin"])
    addEventListener(kind, (event) => {
      const link = linkOf(event);
      if (wanted(link) && link !== shown) show(link);
      else if (!link && !box.contains(event.target)) hide();
    });
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
})();
