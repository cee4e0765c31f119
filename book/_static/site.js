// Small repairs of the theme for people who use a keyboard or a screen reader.
document.addEventListener("DOMContentLoaded", () => {
  // A visible text is the better name: the theme's labels say something else than what is seen.
  document
    .querySelectorAll(".search-button-field[aria-label], .search-button__button[aria-label] .search-button__default-text, details.hide summary[aria-label]")
    .forEach((element) => element.removeAttribute("aria-label"));
  // The list of references says it is a list: so are its entries.
  document.querySelectorAll('[role="list"] > .citation, div.citation-list[role="list"] > div').forEach((entry) => {
    entry.setAttribute("role", "listitem");
  });
  // What scrolls can be reached by the keyboard, also once fonts and formulas have their final size.
  const reachable = () => {
    document
      .querySelectorAll(".bd-article pre, .bd-article .output, .bd-article .cell_output, .bd-article table, .bd-article div.math, .bd-article mjx-container")
      .forEach((box) => {
        if (box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "visible") box.tabIndex = 0;
      });
  };
  reachable();
  window.addEventListener("load", () => setTimeout(reachable, 500));
  window.addEventListener("resize", reachable);
});
