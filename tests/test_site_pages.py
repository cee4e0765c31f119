"""What the pages say about themselves: reading and running times, the preview card, the glossary's two languages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import EXAMPLE, ROOT, Site, chapters
from tools import times
from tools.build_book import pages

READ = [page for page in pages(ROOT) if page.startswith("notebooks/")] + ["book/faq", "book/claims"]


def text_of(site: Site, page: str) -> str:
    return (site.html / f"{page}.html").read_text(encoding="utf-8")


def tags(text: str) -> dict[str, str]:
    """The og: tags of a page."""
    return {
        name: unescape(value) for name, value in re.findall(r'<meta property="(og:[\w:]+)" content="([^"]*)"', text)
    }


def test_the_logo_is_small_and_ours(site: Site) -> None:
    logo = ROOT / "book" / "_static" / "logo.svg"
    assert logo.stat().st_size < 2_000 and "http" not in logo.read_text("utf-8").replace(
        "http://www.w3.org/2000/svg", ""
    )
    text = text_of(site, "index")
    assert re.search(r'<link rel="icon" href="_static/logo\.svg"', text) and 'src="_static/logo.svg"' in text


@pytest.mark.parametrize("page", READ)
def test_a_page_says_how_long_reading_takes(site: Site, page: str) -> None:
    (said,) = re.findall(r'<p class="reading-time">(\d+) minutes to read', text_of(site, page))
    assert 1 <= int(said) <= 90


def test_a_longer_chapter_takes_longer(site: Site) -> None:
    """More words, lines and figures in the notebook, more minutes on its page: the order is nearly the same."""
    from scipy.stats import spearmanr

    sizes, said = [], []
    for path in chapters():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sizes.append(sum(len("".join(cell["source"])) for cell in cells))
        said.append(int(re.findall(r'reading-time">(\d+)', text_of(site, f"notebooks/{path.stem}"))[0]))
    assert spearmanr(sizes, said).statistic > 0.8


@pytest.mark.parametrize("page", ["book/intro", *READ])
def test_a_link_to_a_page_gets_a_card(site: Site, page: str) -> None:
    found = tags(text_of(site, page))
    assert found["og:title"] and len(found["og:description"]) > 20
    picture = (site.html / page).parent / found["og:image"]
    assert picture.resolve() == (site.html / "_static" / "card.png").resolve() and picture.is_file()


def test_the_stamped_book_gives_the_card_its_whole_address(stamped_site: Site) -> None:
    owner, name = EXAMPLE.split("/")
    found = tags(text_of(stamped_site, "book/claims"))
    assert found["og:image"] == f"https://{owner}.github.io/{name}/_static/card.png"
    assert found["og:url"] == f"https://{owner}.github.io/{name}/book/claims.html"
    lost = text_of(stamped_site, "404")
    assert f'href="/{name}/book/intro.html"' in lost and f'href="/{name}/_static/' in lost
    assert not re.search(r'(?:href|src)="(?!/|#|https?:|data:)[^"]', lost), "an address that depends on the folder"


def test_the_card_has_the_size_that_others_expect() -> None:
    with Image.open(ROOT / "book" / "_static" / "card.png") as card:
        assert card.size == (1200, 630)


def test_the_question_of_a_chapter_describes_it(site: Site) -> None:
    for path in chapters():
        first = re.search(
            r"^\*\*(.+?)\*\*", "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"]), re.M | re.S
        )
        assert first, path.name
        words = re.sub(r"\W+", " ", first[1]).split()[:4]
        assert " ".join(words) in re.sub(r"\W+", " ", tags(text_of(site, f"notebooks/{path.stem}"))["og:description"])


def test_pages_without_formulas_do_not_load_mathjax(site: Site) -> None:
    script = "_static/mathjax/tex-chtml.js"
    assert script not in text_of(site, "index") and script in text_of(site, "book/notation")


def rows(site: Site) -> dict[str, list[str]]:
    """The table of the status page: chapter to cells."""
    body = text_of(site, "book/status").split("<tbody>")[1].split("</tbody>")[0]
    found = {}
    for row in re.findall(r"<tr.*?</tr>", body, re.S):
        link, *cells = re.findall(r"<td.*?>(.*?)</td>", row, re.S)
        found[re.findall(r"notebooks/(\w+)\.html", link)[0]] = [re.sub(r"<[^>]+>", "", cell).strip() for cell in cells]
    return found


def test_the_status_page_shows_the_record(site: Site) -> None:
    shown = rows(site)
    assert list(shown) == times.chapters()
    for name, cells in shown.items():
        found = times.entry(name)
        if found is None:
            assert cells[0] == "not measured yet"
            continue
        assert cells[:2] == [f"{found['seconds']:.0f}", f"{found['processor_seconds']:.0f}"]
        assert cells[2].startswith(found["date"])
        assert ("changed" in cells[2]) == (found["code"] != times.fingerprint(times.notebook(name)))
        assert ("busy" in cells[3]) == (times.busy(found) > times.QUIET)


def test_a_time_of_older_code_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = times.chapters()[0]
    monkeypatch.setattr(times, "RECORD", tmp_path / "times.json")
    assert times.seconds(f"notebooks/{name}") is None
    times.keep(times.notebook(name), 12.34, 20.0, 1.0)
    assert times.seconds(f"notebooks/{name}") == 12.3
    entry = times.entry(name)
    assert entry is not None and entry["processor_seconds"] == 20.0 and 0 < times.busy(entry) < 0.1
    times.RECORD.write_text(json.dumps({name: entry | {"code": "another"}}))
    assert times.seconds(f"notebooks/{name}") is None


def test_a_time_on_a_busy_machine_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = times.chapters()[0]
    monkeypatch.setattr(times, "RECORD", tmp_path / "times.json")
    times.keep(times.notebook(name), 50.0, 20.0, 50.0 * (os.cpu_count() or 1))
    assert times.entry(name) is not None and times.seconds(f"notebooks/{name}") is None


def test_the_fingerprint_is_of_the_code_alone(tmp_path: Path) -> None:
    source = times.notebook(times.chapters()[0])
    notebook = json.loads(source.read_text(encoding="utf-8"))
    copy = tmp_path / source.name

    def fingerprint() -> str:
        copy.write_text(json.dumps(notebook), encoding="utf-8")
        return times.fingerprint(copy)

    before = fingerprint()
    assert before == times.fingerprint(source)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code[0]["outputs"] = []
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")["source"] = ["other words"]
    setup = next(cell for cell in code if "setup" in cell["metadata"].get("tags", []))
    setup["source"] = ["REPOSITORY = 'another'"]
    assert fingerprint() == before
    next(cell for cell in code if cell is not setup)["source"] += ["\n1 + 1"]
    assert fingerprint() != before


def test_every_word_of_the_glossary_has_a_chinese_one() -> None:
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    block = text.split("```{glossary}\n")[1].split("```")[0]
    terms = [line for line in block.splitlines() if line and not line.startswith(" ")]
    assert len(terms) > 60
    for term in terms:
        english, dot, chinese = term.partition(" · ")
        assert dot and english and re.search(r"[\u4e00-\u9fff]", chinese), f"no Chinese beside: {term}"


@pytest.mark.slow
def test_the_book_can_be_printed(tmp_path: Path) -> None:
    """One PDF: every chapter begins on a page of it, and the bookmarks name them."""
    from pypdf import PdfReader

    from tools import serve

    if serve.chromium() is None:
        pytest.skip("No Chromium was found.")
    pdf = tmp_path / "book.pdf"
    subprocess.run([sys.executable, "tools/print_book.py", str(pdf)], cwd=ROOT, check=True, timeout=1_800)
    reader = PdfReader(pdf)

    def titles(outline) -> list[str]:
        return [t for each in outline for t in (titles(each) if isinstance(each, list) else [str(each.title)])]

    names = " | ".join(titles(reader.outline))
    for path in chapters():
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        title = re.findall(r"^# (.+)$", first, re.M)[0]
        assert title in names, f"{title} is not among the bookmarks"
    assert len(reader.pages) > 100
    text = "\n".join(page.extract_text() for page in reader.pages)
    assert "知识蒸馏" in text and "\\frac" not in text
    assert sum(len(page.images) for page in reader.pages) > 50
