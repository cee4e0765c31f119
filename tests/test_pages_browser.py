"""The pages as a reader's browser shows them: headless Chromium over a server on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT, Site
from tools import serve
from tools.build_book import pages

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 800}

# What the page says about itself, once its formulas are set.
LOOK = r"""
async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.complete ? 0 : new Promise((done) => {
    image.onload = image.onerror = done; })));
  const article = document.querySelector("article, main") || document.body;
  const sources = [...document.querySelectorAll(".math")];
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  const raw = [];
  for (let node; (node = walker.nextNode());) {
    if (node.parentElement.closest("pre, code, script, style, mjx-container, .MathJax")) continue;
    if (/\$\$|\\\(|\\\[|\\begin\{|\\frac|\\sum/.test(node.textContent)) raw.push(node.textContent.trim().slice(0, 80));
  }
  return {
    formulas: sources.length,
    unset: sources.filter((s) => !s.querySelector("mjx-container") && !s.closest("mjx-container")).length,
    errors: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map((e) =>
      e.getAttribute("data-mjx-error") || e.textContent),
    raw,
    broken: [...document.images].filter((image) => !image.naturalWidth).map((image) => image.src),
  };
}"""

# How much wider than the screen the page is, and what sticks out without a box of its own to scroll in.
OVERFLOW = r"""
() => {
  const width = document.documentElement.clientWidth;
  const inBox = (element) => {
    for (let e = element.parentElement; e && e !== document.body; e = e.parentElement) {
      if (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(e).overflowX)) {
        const box = e.getBoundingClientRect();
        if (box.right <= width + 1) return true;
      }
    }
    return false;
  };
  const article = document.querySelector("article") || document.body;
  const out = [...article.querySelectorAll("*")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && box.right > width + 1 && !e.closest("mjx-assistive-mml") && !inBox(e);
  }).map((e) => `${e.tagName.toLowerCase()}.${e.className} ${Math.round(e.getBoundingClientRect().right)}px: `
    + e.textContent.trim().slice(0, 60));
  return { excess: Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - width,
           out: out.slice(0, 5) };
}"""


@pytest.fixture(scope="module")
def browser():
    if (chromium := serve.chromium()) is None:
        message = "No Chromium was found, so the pages were not looked at: install it (Debian: apt install chromium)."
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=serve.FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[str]:
    with serve.folder(site.html) as address:
        yield address


@pytest.mark.parametrize("name", ["index", *pages(ROOT), "genindex", "search"])
def test_a_page_is_whole_in_a_browser(browser, server: str, name: str) -> None:
    """Nothing on the console, nothing failed or from elsewhere, formulas set, images there, nothing too wide."""
    faults: list[str] = []
    context = browser.new_context(viewport=WIDE)
    context.set_default_timeout(120_000)
    try:
        page = context.new_page()
        page.on(
            "console", lambda m: faults.append(f"console {m.type}: {m.text}") if m.type in ("error", "warning") else 0
        )
        page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
        page.on("requestfailed", lambda request: faults.append(f"failed request: {request.url}"))
        page.on("response", lambda r: faults.append(f"answer {r.status}: {r.url}") if r.status >= 400 else 0)

        def stay_here(route) -> None:
            if route.request.url.startswith((server, "data:", "blob:")):
                route.continue_()
            else:
                faults.append(f"request to another host: {route.request.url}")
                route.abort()

        page.route("**/*", stay_here)
        page.goto(f"{server}/{name}.html", wait_until="load")
        seen = page.evaluate(LOOK)
        if seen["unset"]:
            faults.append(f"{seen['unset']} of {seen['formulas']} formulas were not set")
        faults += [f"a formula has an error: {error}" for error in seen["errors"]]
        faults += [f"raw TeX in the text: {text!r}" for text in seen["raw"]]
        faults += [f"a broken image: {image}" for image in seen["broken"]]
        for size in (WIDE, NARROW):
            page.set_viewport_size(size)
            page.wait_for_timeout(150)
            found = page.evaluate(OVERFLOW)
            if found["excess"] > 1 or found["out"]:
                faults.append(f"wider than {size['width']} pixels by {found['excess']}: {found['out']}")
    finally:
        context.close()
    assert not faults, f"{name}.html\n" + "\n".join(faults)


def test_a_chapter_has_formulas_that_are_looked_at(browser, server: str) -> None:
    """Guards the test above: a page without mathematics would pass its formula check."""
    page = browser.new_page()
    page.goto(f"{server}/book/notation.html", wait_until="load")
    assert page.evaluate(LOOK)["formulas"] > 10
    page.close()
