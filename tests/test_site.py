"""The strict build, the table of contents, and every link inside the site."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import EXAMPLE, ROOT, Site, chapters, tracked
from tools import stamp
from tools.build_book import pages

COLAB = re.compile(r"https://colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/([\w.-]+)/([^\"'?#\s)]+)")


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if (name == "id" and value) or (tag == "a" and name == "name" and value):
                self.anchors.add(value)
            if name in ("href", "src") and value is not None:
                self.links.append(value)


def test_the_book_builds_without_a_warning(site: Site) -> None:
    warnings = [line for line in site.said.splitlines() if "WARNING" in line or "ERROR" in line or "missing" in line]
    assert site.status == 0, "the strict build failed:\n" + "\n".join(warnings or site.said.splitlines()[-40:])


def test_every_page_of_the_table_of_contents_was_built(site: Site) -> None:
    for page in ["index", *pages(ROOT)]:
        assert (site.html / f"{page}.html").is_file(), f"{page} is in the table of contents but has no page"


def test_no_chapter_is_missing_from_the_table_of_contents() -> None:
    listed = {file for _, file, _ in stamp.chapters()}
    there = {path.relative_to(ROOT).as_posix() for path in chapters()}
    assert not there - listed, f"_toc.yml lacks the chapter {sorted(there - listed)}"
    assert not listed - there, f"_toc.yml lists {sorted(listed - there)}, which is not in notebooks/"
    assert [file for _, file, _ in stamp.chapters()] == sorted(listed), "the chapters are not in order"


def test_every_prose_page_is_in_the_table_of_contents() -> None:
    there = {name.removesuffix(".md") for name in tracked() if re.fullmatch(r"book/[^/]+\.md", name)}
    assert there == {page for page in pages(ROOT) if page.startswith("book/")}


def test_the_front_page_is_a_page_and_no_redirect(site: Site) -> None:
    text = (site.html / "index.html").read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in text.lower() and "<h1" in text


def test_every_link_and_anchor_inside_the_site_resolves(site: Site) -> None:
    parsed = {path.resolve(): Page(path) for path in site.pages}
    broken = []
    for path, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            start = site.html if parts.path.startswith("/") else path.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            where = path.relative_to(site.html.resolve())
            if not target.is_file():
                broken.append(f"{where}: {link} leads nowhere")
            elif parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].anchors:
                broken.append(f"{where}: {link} names an anchor that is not there")
    assert not broken, "\n".join(sorted(set(broken))[:40])


def test_no_page_loads_anything_from_elsewhere(site: Site) -> None:
    loading = re.compile(r'<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc="(?:https?:)?//[^"]*"')
    sheets = re.compile(r'<link\b[^>]*rel="(?:stylesheet|preload|modulepreload)"[^>]*href="(?:https?:)?//[^"]*"')
    for path in site.pages:
        text = path.read_text(encoding="utf-8")
        found = loading.findall(text) + sheets.findall(text)
        assert not found, f"{path.name} loads {found}"


def test_without_an_address_no_page_has_a_button_that_leads_nowhere(site: Site) -> None:
    if stamp.address():
        pytest.skip("this copy is stamped")
    for path in site.pages:
        text = path.read_text(encoding="utf-8")
        assert not COLAB.search(text) and "executablebooks/jupyter-book/blob" not in text, path.name


def test_the_stamped_book_builds_too(stamped_site: Site) -> None:
    assert stamped_site.status == 0, stamped_site.said[-3000:]


@pytest.mark.parametrize("notebook", [file for _, file, _ in stamp.chapters()])
def test_the_colab_button_of_a_chapter_opens_a_file_that_exists(stamped_site: Site, notebook: str) -> None:
    page = stamped_site.html / notebook.replace(".ipynb", ".html")
    found = set(COLAB.findall(page.read_text(encoding="utf-8")))
    assert found == {(EXAMPLE, stamp.BRANCH, notebook)}, f"the Colab button of {notebook} leads to {found}"
    assert notebook in tracked()


def test_the_colab_links_of_the_readme_open_files_that_exist(stamped_site: Site) -> None:
    found = COLAB.findall((stamped_site.root / "README.md").read_text(encoding="utf-8"))
    assert len({file for _, _, file in found}) == len(stamp.chapters())
    for repo, branch, file in found:
        assert (repo, branch) == (EXAMPLE, stamp.BRANCH) and file in tracked(), file


def test_links_of_the_readme_to_files_resolve() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#\s]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            if "://" not in link:
                assert (ROOT / link).exists(), f"{name} links to {link}"


def test_every_solution_is_shown() -> None:
    shown = set(
        re.findall(r"literalinclude\} \.\./(tests/solutions/\S+)", (ROOT / "book/solutions.md").read_text("utf-8"))
    )
    assert shown == {name for name in tracked() if re.fullmatch(r"tests/solutions/ch\d\d\.py", name)}


def public_names() -> list[str]:
    """Each public function and class of kdutils, by the module that defines it."""
    import kdutils

    found = []
    for info in pkgutil.iter_modules(kdutils.__path__):
        if info.name.startswith("_") or info.name in ("studies", "__main__", "distill_folder"):
            continue
        module = importlib.import_module(f"kdutils.{info.name}")
        for name, thing in vars(module).items():
            ours = inspect.isfunction(thing) or inspect.isclass(thing)
            if ours and not name.startswith("_") and thing.__module__ == module.__name__:
                found.append(f"{module.__name__}.{name}")
    return found


def test_every_public_name_is_documented_on_an_api_page(site: Site) -> None:
    anchors = [anchor for page in (site.html / "book").glob("api*.html") for anchor in Page(page).anchors]
    missing = [name for name in public_names() if name not in anchors]
    assert not missing, f"without a docstring, or its module is on no API page: {missing}"
    modules = [anchor for anchor in anchors if anchor.startswith("module-kdutils")]
    assert sorted(set(modules)) == sorted(modules), "a module stands on two pages"
