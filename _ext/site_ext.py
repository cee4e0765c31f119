"""What the book's site needs beyond Jupyter Book's own settings: no request leaves the reader's machine.

- MathJax is copied from the package sphinx-mathjax-offline.
- MathJax is loaded by pages with formulas only (1.2 MB).
- Thebe's scripts are dropped (unused here, and they declare one `const` twice).
- Font Awesome's script is dropped (1.5 MB a page); its web font draws the same icons.
- `index.html` is the first page itself instead of a redirect to it.
- `404.html` is shown by the server for any address that is not there, so its own links begin at the site's root.
"""

from __future__ import annotations

import importlib.metadata
import posixpath
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from tools import stamp

MATHJAX_PARTS = ("tex-chtml.js", "output/chtml", "output/chtml.js", "input/tex/extensions", "a11y", "sre")


def keep_types_in_annotations() -> None:
    """Read "Returns: a list: one for each class" as prose; napoleon takes what precedes a colon for a type.

    In this package types stand in the annotations, never in a docstring. The same for a constant's docstring.
    """
    from sphinx.ext.napoleon.docstring import GoogleDocstring

    def consume(self, preprocess_types=False):
        lines = self._dedent(self._consume_to_next_section())
        return [("", "", self.__class__(lines, self._config).lines())] if lines else []

    GoogleDocstring._consume_returns_section = consume
    GoogleDocstring._parse_attribute_docstring = lambda self: list(self._dedent(self._consume_to_end()))


def escape_bars(app, what, name, thing, options, lines) -> None:
    """Write |x| in a docstring for an absolute value: reStructuredText would look for a substitution."""
    for i, line in enumerate(lines):
        parts = line.split("``")
        lines[i] = "``".join(part if j % 2 else re.sub(r"(?<!\\)\|", r"\|", part) for j, part in enumerate(parts))


def settle_theme(app, config) -> None:
    """One search box, in the sidebar, not a second one in a bar above the page; the name beside the logo.

    And the site's address, which `make stamp` knows: the preview card and the page for wrong addresses need it.
    """
    config.html_theme_options = {
        **config.html_theme_options,
        "navbar_persistent": [],
        "logo": {"text": config.html_title},
    }
    if repo := stamp.address(Path(app.srcdir)):
        owner, name = repo.split("/")
        config.html_baseurl = f"https://{owner}.github.io/{name}/"


def drop_unused_scripts(app, pagename, templatename, context, doctree):
    whole_book = app.builder.name == "singlehtml"
    formulas = whole_book or app.env.domaindata["math"]["has_equations"].get(pagename, False)

    def unused(script) -> bool:
        name = str(getattr(script, "filename", script) or "")
        body = str(getattr(script, "attributes", {}).get("body", ""))
        return "thebe" in name + body or (not formulas and "mathjax" in (name + body).lower())

    context["script_files"] = [script for script in context.get("script_files", []) if not unused(script)]


def copy_mathjax(out: Path) -> None:
    package = importlib.metadata.distribution("sphinx-mathjax-offline")
    source = Path(str(package.locate_file("sphinx-mathjax-offline/static/mathjax")))
    for part in MATHJAX_PARTS:
        origin, target = source / part, out / "_static" / "mathjax" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, target, dirs_exist_ok=True)
        else:
            shutil.copy2(origin, target)


def drop_fontawesome_script(out: Path) -> None:
    tag = re.compile(r"\s*<(script|link)[^>]*scripts/fontawesome\.js[^>]*>(</script>)?")
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(tag.sub("", text), encoding="utf-8")
    for pattern in ("scripts/fontawesome.js*", "scripts/*.map", "*webpack-macros.html"):
        for useless in (out / "_static").glob(pattern):
            useless.unlink()


def moved(text: str, folder: str, root: str) -> str:
    """The page of a folder with its relative addresses rewritten for another place: `root` is the site's top there."""

    def move(match: re.Match[str]) -> str:
        name, url = match.groups()
        if re.match(r"[a-z]+:|#|//", url) or not url:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, url))
        return f'{name}="{root}{path}{"/" if url.endswith("/") and path != "." else ""}"'

    text = re.sub(r'\b(href|src|action)="([^"]*)"', move, text)
    return re.sub(r'data-content_root="[^"]*"', f'data-content_root="{root or "./"}"', text)


def write_index(out: Path, first: str) -> None:
    """Copy the first page to index.html."""
    text = (out / f"{first}.html").read_text(encoding="utf-8")
    (out / "index.html").write_text(moved(text, posixpath.dirname(first), ""), encoding="utf-8")


def not_found_page(app):
    """The body of 404.html, in the frame that all pages have."""
    to = app.builder.get_relative_uri
    first = to("404", app.config.root_doc)
    body = (
        '<section id="not-found"><h1>There is no such page</h1>'
        f'<p>Its address may have a typo, or the page has moved. Begin again at <a href="{first}">the first page</a>, '
        f'look into the <a href="{to("404", "genindex")}">index</a>, or search: press Ctrl + K.</p></section>'
    )
    yield "404", {"title": "There is no such page", "body": body}, "page.html"


def finish(app, exception) -> None:
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    copy_mathjax(out)
    drop_fontawesome_script(out)
    if app.builder.name == "singlehtml":
        return
    write_index(out, app.config.root_doc)
    page = out / "404.html"
    page.write_text(moved(page.read_text(encoding="utf-8"), "", urlsplit(app.config.html_baseurl).path or "/"), "utf-8")


def setup(app):
    keep_types_in_annotations()
    app.connect("autodoc-process-docstring", escape_bars, priority=400)
    app.connect("config-inited", settle_theme, priority=100)
    app.connect("html-collect-pages", not_found_page)
    app.connect("html-page-context", drop_unused_scripts, priority=900)
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
