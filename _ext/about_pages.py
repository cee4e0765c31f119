"""What a page says about itself: its reading time, what others see of a link to it, and the chapters' running times.

- Under the title of every page that is read from top to bottom: how long that takes.
- `og:` tags in the head: title, first sentence, and the picture book/_static/card.png.
- The directive `running-times`, a table from the record that `make notebook` and `make times` keep.
"""

from __future__ import annotations

import posixpath
import re
from html import escape

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from tools import times

WORDS, LINES, FIGURE = 220, 25, 0.25  # words a minute, lines of code a minute, minutes a figure
LOOKED_UP = ("book/intro", "book/glossary", "book/solutions", "book/api", "book/references", "book/status")  # so begin
CARD_TEXT = "A distilled student beside three controls: only its own image's soft label helps."


def minutes(doctree: nodes.document) -> int:
    """How long reading takes: the words, the lines of code and the figures, each at its pace."""
    code = [node.astext() for node in doctree.findall(nodes.literal_block)]
    words = len(doctree.astext().split()) - sum(len(text.split()) for text in code)
    lines = sum(len(text.splitlines()) for text in code)
    figures = sum(1 for _ in doctree.findall(nodes.image))
    return max(1, round(words / WORDS + lines / LINES + figures * FIGURE))


def is_read(pagename: str) -> bool:
    return pagename.startswith(("book/", "notebooks/")) and not pagename.startswith(LOOKED_UP)


def first_sentences(doctree: nodes.document) -> str:
    """The first paragraph, which in a chapter is its question."""
    paragraph = next((node for node in doctree.findall(nodes.paragraph) if node.astext().strip()), None)
    return re.sub(r"\s+", " ", paragraph.astext()).strip()[:300] if paragraph else ""


def describe(app, pagename, templatename, context, doctree) -> None:
    if doctree is None or app.builder.name == "singlehtml":
        return
    if is_read(pagename):
        text = f"{minutes(doctree)} minutes to read"
        if (seconds := times.seconds(pagename)) is not None:
            status = app.builder.get_relative_uri(pagename, "book/status")
            text += f', and <a href="{status}">{seconds:.0f} seconds to run</a>'
        context["body"] = context["body"].replace("</h1>", f'</h1>\n<p class="reading-time">{text}</p>', 1)
    top = app.config.html_baseurl.rstrip("/") or posixpath.relpath(".", posixpath.dirname(pagename) or ".")
    title = re.sub(r"<[^>]+>", "", context["title"])
    tags = {
        "og:type": "website" if pagename == app.config.root_doc else "article",
        "og:site_name": app.config.html_title,
        "og:title": title,
        "og:description": first_sentences(doctree),
        "og:image": f"{top}/_static/card.png",
        "og:image:width": "1200",
        "og:image:height": "630",
        "og:image:alt": CARD_TEXT,
    }
    if app.config.html_baseurl:
        tags["og:url"] = f"{top}/{pagename}.html"
    lines = [f'<meta property="{name}" content="{escape(text)}" />' for name, text in tags.items()]
    lines.append('<meta name="twitter:card" content="summary_large_image" />')
    lines.append(f'<meta name="description" content="{escape(tags["og:description"])}" />')
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)


class RunningTimes(SphinxDirective):
    """A row for each chapter of the table of contents, from the record of running times."""

    @staticmethod
    def machine(found: dict) -> str:
        return f"{found['device']}, PyTorch {found['torch']}"

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(times.RECORD))
        machines = {self.machine(found) for found in times.record().values()}
        rows = ["| chapter | seconds | of the processor | measured | on |", "|-|-:|-:|-|-|"]
        for name in times.chapters():
            self.env.note_dependency(str(times.notebook(name)))
            found = times.entry(name)
            cells = ["not measured yet", "", "", ""]
            if found is not None:
                changed = (
                    "" if found["code"] == times.fingerprint(times.notebook(name)) else "; its code has changed since"
                )
                busy = f", {100 * share:.0f} % busy" if (share := times.busy(found)) > times.QUIET else ""
                where = f", {self.machine(found)}" if len(machines) > 1 else ""  # one stands below the table
                cells = [
                    f"{found['seconds']:.0f}",
                    f"{found['processor_seconds']:.0f}",
                    found["date"] + changed,
                    f"{found['cores']} cores{busy}{where}",
                ]
            rows.append(f"| [](../notebooks/{name}.ipynb) | " + " | ".join(cells) + " |")
        if len(machines) == 1:
            rows += ["", f"All of them on this processor: {machines.pop()}."]
        return self.parse_text_to_nodes("\n".join(rows))


def setup(app):
    app.add_directive("running-times", RunningTimes)
    app.connect("html-page-context", describe, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
