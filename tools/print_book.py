"""Print the whole book into one PDF: `make pdf`, that is `python tools/print_book.py [OUTPUT]`.

Sphinx puts all pages into one, and headless Chromium, which must be installed, prints it: mathematics set, links
between the chapters kept, headings as bookmarks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools import loopback, serve

ROOT = Path(__file__).resolve().parent.parent
FIRST = "book/intro"
PDF = ROOT / "_build" / "distill-and-explain.pdf"
SCALE = 0.72  # a line of code of 110 characters fits the paper
MARGIN = 16  # millimetres
WIDTH = round((210 - 2 * MARGIN) / 25.4 * 96 / SCALE)  # of the text, in pixels of the page
READY = """async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => 0)));
  await document.fonts.ready;
  for (const formula of document.querySelectorAll("mjx-container[display='true']")) {  // paper cannot be scrolled
    const share = formula.parentElement.clientWidth / formula.querySelector("mjx-math").getBoundingClientRect().width;
    if (share < 1) formula.style.fontSize = `${0.97 * share * parseFloat(formula.style.fontSize || 100)}%`;
  }
}"""


def one_page(root: Path, work: Path) -> Path:
    """Build all chapters as one HTML page; return it."""
    run = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run, "build", str(root), "--path-output", str(work), "--builder", "singlehtml"]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out = work / "_build" / "singlehtml"
    if done.returncode or not (out / f"{FIRST}.html").is_file():
        sys.exit(f"{done.stdout}\nThe book was not built as one page: see the warnings above.")
    return at_the_top(out)


def at_the_top(out: Path) -> Path:
    """Sphinx writes the page into a folder, with addresses as they are seen from the top: so put it there."""
    text = (out / f"{FIRST}.html").read_text(encoding="utf-8").replace(f'href="{FIRST}.html#', 'href="#')
    page = out / "index.html"
    page.write_text(text, encoding="utf-8")
    return page


def print_page(page: Path, pdf: Path) -> None:
    """Print an HTML page through headless Chromium, A4."""
    chromium = serve.chromium()
    if chromium is None:
        sys.exit("No Chromium was found, which prints the book: install it (Debian: apt install chromium).")
    from playwright.sync_api import sync_playwright

    footer = '<div style="font-size:8px;width:100%;text-align:center"><span class="pageNumber"></span></div>'
    pdf.parent.mkdir(parents=True, exist_ok=True)
    with serve.folder(page.parent) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=serve.FLAGS)
        tab = browser.new_page(color_scheme="light", viewport={"width": WIDTH, "height": 1000})
        tab.set_default_timeout(600_000)
        tab.goto(f"{address}/{page.name}", wait_until="load")
        tab.emulate_media(media="print")
        tab.evaluate(READY)
        tab.pdf(
            path=str(pdf),
            format="A4",
            scale=SCALE,
            margin={"top": f"{MARGIN}mm", "bottom": "18mm", "left": f"{MARGIN}mm", "right": f"{MARGIN}mm"},
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=footer,
            outline=True,
            tagged=True,
        )
        browser.close()


def main() -> int:
    pdf = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PDF
    loopback.bring_up()
    with tempfile.TemporaryDirectory() as work:
        print("Building the book as one page ...", flush=True)
        page = one_page(ROOT, Path(work))
        print("Printing ...", flush=True)
        print_page(page, pdf)
    print(f"Printed {pdf.stat().st_size / 1e6:.0f} MB. Open: {pdf.as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
