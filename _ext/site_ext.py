"""What the book's site needs beyond Jupyter Book's own settings: no request leaves the reader's machine.

- MathJax is copied from the package sphinx-mathjax-offline.
- Thebe's scripts are dropped (unused here, and they declare one `const` twice).
- Font Awesome's script is dropped (1.5 MB a page); its web font draws the same icons.
- `index.html` is the first page itself instead of a redirect to it.
"""

from __future__ import annotations

import importlib.metadata
import posixpath
import re
import shutil
from pathlib import Path

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


def one_search_box(app, config) -> None:
    """The sidebar has one; the theme would put a second into a bar of its own above the page."""
    config.html_theme_options = {**config.html_theme_options, "navbar_persistent": []}


def drop_thebe(app, pagename, templatename, context, doctree):
    def is_thebe(script) -> bool:
        name = str(getattr(script, "filename", script) or "")
        body = str(getattr(script, "attributes", {}).get("body", ""))
        return "thebe" in name or "thebe" in body

    context["script_files"] = [script for script in context.get("script_files", []) if not is_thebe(script)]


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


def write_index(out: Path, first: str) -> None:
    """Copy the first page to index.html, its relative addresses rewritten for the new place."""
    folder = posixpath.dirname(first)

    def move(match: re.Match[str]) -> str:
        name, url = match.groups()
        if re.match(r"[a-z]+:|#|//", url) or not url:
            return match[0]
        moved = posixpath.normpath(posixpath.join(folder, url))
        return f'{name}="{moved}{"/" if url.endswith("/") and moved != "." else ""}"'

    text = (out / f"{first}.html").read_text(encoding="utf-8")
    text = re.sub(r'\b(href|src|action)="([^"]*)"', move, text)
    text = text.replace('data-content_root="../"', 'data-content_root="./"')
    (out / "index.html").write_text(text, encoding="utf-8")


def finish(app, exception) -> None:
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    copy_mathjax(out)
    drop_fontawesome_script(out)
    write_index(out, app.config.root_doc)


def setup(app):
    keep_types_in_annotations()
    app.connect("autodoc-process-docstring", escape_bars, priority=400)
    app.connect("config-inited", one_search_box, priority=100)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
