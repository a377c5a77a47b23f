/* What can be measured on a page that has been scrolled through: what is cut off, pictures, shifts, bytes, links.
   An expression: a function that returns a plain object. */
async () => {
  "use strict";
  const view = document.documentElement.clientWidth;
  const name = (element) => {
    const words = (element.textContent || element.alt || "").trim().replace(/\s+/g, " ").slice(0, 50);
    return `<${element.localName} class="${element.getAttribute("class") || ""}"> ${words}`;
  };

  /** Whether readers can see it at all; menus that wait outside the page, and words for screen readers, do not count. */
  const shown = (element) => {
    const box = element.getBoundingClientRect();
    return box.width > 1 && box.height > 1 && element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  };

  /** The first box round `element` that cuts its right or left side off without a way to scroll there, or null. */
  const cutBy = (element) => {
    const box = element.getBoundingClientRect();
    for (let outer = element.parentElement; outer && outer !== document.body; outer = outer.parentElement) {
      const { overflowX, position } = getComputedStyle(outer);
      if (overflowX === "auto" || overflowX === "scroll") return null;
      const frame = outer.getBoundingClientRect();
      if (overflowX !== "visible" && (box.right > frame.right + 1 || box.left < frame.left - 1)) return outer;
      if (position === "fixed") break;
    }
    return box.right > view + 1 || box.left < -1 ? document.body : null;
  };

  const leaves = Array.from(document.body.querySelectorAll("*")).filter((element) => {
    if (element.closest("svg, mjx-container") && !element.matches("svg, mjx-container")) return false;
    if (element.matches("img, svg, canvas, table, button, input, mjx-container, pre")) return shown(element);
    return Array.from(element.childNodes).some((node) => node.nodeType === 3 && node.data.trim()) && shown(element);
  });
  const cut = leaves.filter(cutBy).map((element) => `${name(element)} | by ${name(cutBy(element)).slice(0, 60)}`);

  const images = Array.from(document.querySelectorAll("main img")).filter(shown).map((image) => ({
    source: image.getAttribute("src"), natural: image.naturalWidth, width: image.getBoundingClientRect().width,
    sized: image.hasAttribute("width") && image.hasAttribute("height"), words: image.getAttribute("alt"),
    caption: image.closest("figure")?.querySelector("figcaption")?.innerText.trim() || "",
  }));

  const shifts = await new Promise((resolve) => {
    const found = [];
    new PerformanceObserver((list) => found.push(...list.getEntries())).observe({ type: "layout-shift", buffered: true });
    setTimeout(() => resolve(found), 50);
  });
  const jumps = shifts.filter((shift) => !shift.hadRecentInput);

  const files = performance.getEntriesByType("navigation").concat(performance.getEntriesByType("resource"));
  return {
    view,
    wide: document.documentElement.scrollWidth,
    cut: cut.slice(0, 12),
    formulas: [...document.querySelectorAll('div.math mjx-container')]
      .filter((formula) => formula.scrollWidth > formula.clientWidth + 8)  // pixels; MathJax draws a few beside its box
      .map((formula) => `${formula.scrollWidth} in ${formula.clientWidth}: ${formula.textContent.slice(0, 40)}`),
    images,
    shift: jumps.reduce((sum, shift) => sum + shift.value, 0),
    jumped: jumps.flatMap((shift) => shift.sources.map((source) => source.node && source.node.localName ? name(source.node) : "")),
    files: files.map((file) => ({ url: file.name.split("?")[0], sent: file.encodedBodySize, bytes: file.decodedBodySize })),
    links: Array.from(document.querySelectorAll("a[href]"), (link) => link.href),
    figures: document.querySelectorAll("main article img, main article svg[role='img']").length,
    exercises: Array.from(document.querySelectorAll(".admonition-title")).filter((title) => /^\s*Exercise/.test(title.textContent)).length,
  };
}
