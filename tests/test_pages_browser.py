"""The pages as a reader's browser shows them: headless Chromium over a server on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.conftest import ROOT, Site
from tools import serve, stamp
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


@pytest.mark.parametrize("name", ["index", *pages(ROOT), "genindex", "search", "404"])
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


def kinds() -> list[str]:
    """One page of each kind; of the playgrounds, which have scripts of their own, each."""
    playgrounds = [name for name in pages(ROOT) if "playground" in name]
    prose = ["book/claims", "book/glossary", "book/references", "book/status", "book/api", "book/api_explaining"]
    return ["index", "notebooks/05_distilling_the_student", *prose, *playgrounds, "search", "404"]


def violations(page, context: str | None = None, **options) -> list[str]:
    """What axe-core calls serious or critical, with the first places."""
    found = Axe().run(page, context=context, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [
        f"{each['impact']} {each['id']}: {each['help']}: " + "; ".join(node["html"][:120] for node in each["nodes"][:3])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def opened(browser, address: str, scheme: str, size: dict[str, int] = WIDE):
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
    page.set_default_timeout(300_000)
    page.goto(address, wait_until="load")
    page.evaluate(LOOK)
    page.wait_for_timeout(600)  # what scrolls is made reachable after the formulas have their size
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", kinds())
def test_axe_finds_nothing_serious(browser, server: str, name: str, scheme: str) -> None:
    page = opened(browser, f"{server}/{name}.html", scheme)
    faults = violations(page)
    if name != "notebooks/05_distilling_the_student":  # there it takes long, and the wide page has the same parts
        page.set_viewport_size(NARROW)
        page.wait_for_timeout(300)
        faults += violations(page)
    page.context.close()
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in pages(ROOT) if name not in kinds()])
def test_axe_finds_nothing_serious_on_any_page(browser, server: str, name: str) -> None:
    for scheme in ("light", "dark"):
        page = opened(browser, f"{server}/{name}.html", scheme)
        faults = violations(page)
        page.context.close()
        assert not faults, scheme + "\n" + "\n".join(faults)


def test_axe_would_find_a_fault(browser, server: str) -> None:
    """Guards the tests above."""
    page = opened(browser, f"{server}/index.html", "light")
    page.evaluate("document.querySelector('.findings img, article img').removeAttribute('alt')")
    page.evaluate("document.querySelector('.findings li').style.color = '#ccc'")
    found = " ".join(violations(page))
    page.context.close()
    assert "image-alt" in found and "color-contrast" in found


# What the keyboard should reach: visible things that can be used, each named once.
USABLE = r"""
() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
.filter((e) => {
  const radio = e.type === "radio" && !e.checked;  // one of a group is a stop; the arrows reach the others
  return !radio && !e.disabled && e.tabIndex >= 0 && e.checkVisibility({ visibilityProperty: true })
    && e.getClientRects().length && !e.closest("dialog:not([open]), [inert]");
}).map((e) => (e.dataset.stop = "0", e)).length"""
# Marks what has the focus; says whether it can be seen that it has.
STOP = r"""
() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const again = e.dataset.stop === "1";
  e.dataset.stop = "1";
  const of = (x) => { const s = getComputedStyle(x);
    return [s.outlineStyle !== "none" && parseFloat(s.outlineWidth) > 0, s.boxShadow,
      s.borderColor, s.backgroundColor, s.textDecorationLine, s.textDecorationThickness].join(); };
  const seen = of(e), box = e.getBoundingClientRect();
  e.blur();
  const unseen = of(e);
  e.focus({ preventScroll: true });
  return { again, shown: seen !== unseen || seen.startsWith("true"), inView: box.bottom > 0 && box.top < innerHeight,
           what: e.outerHTML.slice(0, 100) };
}"""


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", [name for name in kinds() if name != "book/references"])
def test_the_keyboard_reaches_everything(browser, server: str, name: str, size: dict[str, int]) -> None:
    """Tab from the top goes to each thing that can be used, shows where it is, and is never caught."""
    page = opened(browser, f"{server}/{name}.html", "light", size)
    page.add_style_tag(content="* { transition: none !important; }")
    usable = page.evaluate(USABLE)
    assert usable >= 5
    faults, stops = [], 0
    for _ in range(usable + 30):
        page.keyboard.press("Tab")
        stop = page.evaluate(STOP)
        if stop is None or stop["again"]:
            break
        stops += 1
        if not stop["shown"]:
            faults.append(f"the focus cannot be seen on {stop['what']}")
        if not stop["inView"]:
            faults.append(f"out of view: {stop['what']}")
    missed = page.evaluate("[...document.querySelectorAll('[data-stop=\"0\"]')].map((e) => e.outerHTML.slice(0, 100))")
    page.context.close()
    faults += [f"Tab never came to {what}" for what in missed]
    assert not faults, f"{stops} of {usable} stops\n" + "\n".join(faults[:20])


def test_on_a_phone_the_keyboard_opens_the_chapters_and_closes_them(browser, server: str) -> None:
    page = opened(browser, f"{server}/index.html", "light", NARROW)
    chapter = page.locator(".bd-sidebar-primary a[href*='05_distilling']")
    assert not chapter.is_visible()
    page.locator("button.primary-toggle").focus()
    page.keyboard.press("Enter")
    chapter.wait_for(state="visible")
    page.keyboard.press("Escape")
    chapter.wait_for(state="hidden")
    page.locator("button.primary-toggle").focus()
    page.keyboard.press("Enter")
    chapter.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/05_distilling_the_student.html")
    page.context.close()


def test_search_by_keyboard_finds_temperature(browser, server: str) -> None:
    page = opened(browser, f"{server}/notebooks/05_distilling_the_student.html", "light")
    page.keyboard.press("Control+k")
    page.locator("dialog input[type=search]").wait_for(state="visible")
    page.keyboard.type("temperature")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=temperature*")
    page.locator("#search-results li a[href*='01_softmax_and_temperature']").first.wait_for(state="visible")
    assert page.locator("#search-results li").count() > 5
    page.goto(f"{server}/search.html?q=zzxyqqq", wait_until="load")
    page.wait_for_timeout(1500)
    assert page.locator("#search-results li a").count() == 0
    page.context.close()


def test_a_chapter_has_copy_buttons_and_neighbours(browser, server: str) -> None:
    page = opened(browser, f"{server}/notebooks/05_distilling_the_student.html", "light")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server)
    cells = page.locator("div.cell_input:visible div.highlight")
    cell = cells.first
    button = cell.locator("button.copybtn")
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert page.evaluate("navigator.clipboard.readText()").strip() == cell.locator("pre").inner_text().strip()
    assert page.locator("a.left-prev").get_attribute("href").endswith("04_training_the_teacher.html")
    assert page.locator("a.right-next").get_attribute("href")
    page.context.close()


def test_an_address_that_is_not_there_gets_a_page_of_the_book(browser, server: str) -> None:
    """At any depth: its styles are loaded and its links lead back."""
    for wrong in ("nothing.html", "notebooks/deeper/still/nothing.html"):
        context = browser.new_context(viewport=WIDE)
        page = context.new_page()
        failed: list[str] = []
        page.on("response", lambda r, failed=failed: failed.append(r.url) if r.status >= 400 else None)
        answer = page.goto(f"{server}/{wrong}", wait_until="load")
        assert answer.status == 404 and failed == [f"{server}/{wrong}"]
        assert page.locator("#not-found h1").is_visible()
        page.locator("#not-found a").first.click()
        page.wait_for_url("**/intro.html")
        context.close()


def transferred(browser, address: str) -> int:
    """The bytes of a page and of everything that it loads, uncompressed, scrolled to its end."""
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    sizes: list[int] = []
    page.on("response", lambda r: sizes.append(len(r.body())))
    page.goto(address, wait_until="load")
    page.evaluate(LOOK)
    page.wait_for_timeout(500)
    context.close()
    return sum(sizes)


def test_the_landing_page_is_light(browser, server: str) -> None:
    assert 300_000 < transferred(browser, f"{server}/index.html") < 1_500_000


@pytest.mark.parametrize("name", [file.removesuffix(".ipynb") for _, file, _ in stamp.chapters()])
def test_a_chapter_is_not_heavy(browser, server: str, name: str) -> None:
    assert 1_000_000 < transferred(browser, f"{server}/{name}.html") < 3_500_000


def test_figures_fit_the_dark_theme(browser, server: str) -> None:
    """The landing page shows the pictures drawn for the theme; a stored figure keeps its colours on a light plate."""
    for scheme, end in (("light", ""), ("dark", "_dark")):
        page = opened(browser, f"{server}/index.html", scheme)
        seen = [i.get_attribute("src") for i in page.locator("article img").all() if i.is_visible()]
        assert [src.rpartition("/")[2] for src in seen] == [f"result_{name}{end}.png" for name in ("arms", "sizes")]
        page.context.close()
    page = opened(browser, f"{server}/notebooks/05_distilling_the_student.html", "dark")
    figure = page.locator(".cell_output img").first
    style = figure.evaluate("(e) => { const s = getComputedStyle(e); return [s.filter, s.backgroundColor]; }")
    assert style == ["brightness(0.9)", "rgb(255, 255, 255)"]
    page.context.close()
