"""How heavy the pages are and how soon they can be read: `.venv/bin/python benchmarks/pages.py` after `make book`.

Each page is opened in a fresh headless Chromium profile (nothing cached), served from this machine. *Readable* is the
time from the request until the text was painted, with its styles, and its fonts were there. An empty page, opened
in turn with the others, is the control: what browser and machine need for nothing. Medians of RUNS.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from playwright.sync_api import sync_playwright

from tools import build_book, loopback, serve

RUNS, PAUSE = 5, 500
ROOT = Path(__file__).resolve().parent.parent
READABLE = r"""async () => {
  await document.fonts.ready;
  const painted = () => performance.getEntriesByName("first-contentful-paint")[0];
  while (!painted()) await new Promise((done) => setTimeout(done, 5));
  const paint = painted();
  const loaded = performance.getEntriesByType("resource");
  const fonts = loaded.filter((r) => /\.woff2?/.test(r.name)).map((r) => r.responseEnd);
  return [paint.startTime, Math.max(paint.startTime, ...fonts)];
}"""


def visit(browser, address: str, measure_bytes: bool) -> tuple[float, float, int]:
    """First paint and readable, in milliseconds; the bytes of the page and all that it loads, uncompressed."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    sizes: list[int] = []
    if measure_bytes:  # apart from the timed visits: reading the bodies takes time
        page.on("response", lambda answer: sizes.append(len(answer.body())))
    page.goto(address, wait_until="load")
    if measure_bytes:
        page.evaluate("for (const image of document.images) image.loading = 'eager'")
        page.wait_for_timeout(PAUSE)
    paint, readable = page.evaluate(READABLE)
    context.close()
    return paint, readable, sum(sizes)


def main() -> None:
    site = ROOT / "_build" / "html"
    if not (site / "index.html").is_file():
        sys.exit("There is no built book: make book")
    chromium = serve.chromium()
    if chromium is None:
        sys.exit("No Chromium was found: install it (Debian: apt install chromium).")
    chapters = [name for name in build_book.pages(ROOT) if name.startswith("notebooks/")]
    loopback.bring_up()
    with serve.folder(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=serve.FLAGS)
        addresses = {"an empty page (control)": "data:text/html,<title>empty</title><p>empty"}
        prose = ("index", "book/claims", "book/api_explaining")
        addresses |= {name: f"{address}/{name}.html" for name in (*prose, *chapters)}
        weights = {name: visit(browser, url, True)[2] for name, url in addresses.items()}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in addresses}
        for _ in range(RUNS):
            for name, url in addresses.items():  # in turn, so that other work on the machine meets all alike
                times[name].append(visit(browser, url, False)[:2])
        browser.close()
    print(f"{'page':48}{'MB':>7}{'first paint, ms':>17}{'readable, ms':>14}{'slowest':>9}")
    for name, each in times.items():
        paint, readable = (statistics.median(column) for column in zip(*each, strict=True))
        print(f"{name:48}{weights[name] / 1e6:7.2f}{paint:17.0f}{readable:14.0f}{max(r for _, r in each):9.0f}")


if __name__ == "__main__":
    main()
