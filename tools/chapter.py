"""Begin a new chapter: `make chapter NB=18 TITLE="Distilling text"`.

Writes the notebook with the parts that every chapter has, its checks and its solutions, and says what is left
to do. Nothing that is there already is overwritten.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.execute import METADATA
from tools.stamp import ROOT, address, setup_cell

KINDS = ("warm-up", "core", "stretch")

OPENING = """# {title}

**The one question that this chapter asks?**

## At a glance

| | |
|-|-|
| You will learn | … |
| You need | [Softmax and temperature](01_softmax_and_temperature.ipynb) |
| Time | under a minute on two CPU cores; … on a GPU |
| Data | Fashion-MNIST, inside the package |"""

BODY = """## The surprising figure

Show it before you explain it. Then the idea, the formula, and at most fifteen lines from scratch that a cell
shows to equal `kdutils`. Then the experiment with its control, and what can go wrong."""

CLOSING = """The answers are on the [solutions page](../book/solutions.md).

## Take-aways

- …

**The answer.** …

## Further reading

- [Distilling the knowledge in a neural network](https://arxiv.org/abs/1503.02531), 2015: say why one should read it."""

CHECKS = '''"""Checks of chapter {number}."""

from __future__ import annotations

from typing import Any


def exercise_1(answer: Any) -> str | None:
    """What is asked. Gives None if the answer is right, else a hint that answers this mistake."""
    if answer == 3:
        return "That is the usual mistake: say how to see it."
    return None if answer == 2 else "Not yet: say where to look."


exercise_2 = exercise_3 = exercise_1
'''

SOLUTIONS = '''"""Chapter {number}: {title}."""

# Why this is the answer.
exercise_1 = exercise_2 = exercise_3 = 2

# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.
WRONG = {{number: [(3, "usual mistake"), (4, "where"), ("two", "where")] for number in (1, 2, 3)}}
'''

LEFT = """Begun: {files}
Left to do:
  the text, then `make notebook NB={number}`
  an entry in _toc.yml, and `make stamp` for the README's table
  a section in book/solutions.md, the new words in book/glossary.md, a sentence in the part's opener
  what the tests ask of a chapter stands in CONTRIBUTING.md"""


def slug(title: str) -> str:
    """The title as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def begin(root: Path, number: str, title: str) -> list[Path]:
    """Write the three files of a new chapter.

    Raises:
        ValueError: for a number that is not two digits, an empty title, or a file that is there.
    """
    if not re.fullmatch(r"\d\d", number):
        raise ValueError(f'NB must be two digits, such as 18, got "{number}".')
    if not slug(title):
        raise ValueError(f'TITLE must be the chapter\'s title in letters, got "{title}".')
    notebook = root / "notebooks" / f"{number}_{slug(title)}.ipynb"
    files = {
        root / "kdutils" / "check" / f"ch{number}.py": CHECKS,
        root / "tests" / "solutions" / f"ch{number}.py": SOLUTIONS,
    }
    for path in [*(root / "notebooks").glob(f"{number}_*.ipynb"), *files]:
        if path.exists():
            raise ValueError(f"{path.relative_to(root)} is there already: take another number.")
    cells = [new_markdown_cell(OPENING.format(title=title))]
    cells.append(new_code_cell(setup_cell(address(root)), metadata={"tags": ["setup", "hide-input"]}))
    cells.append(new_markdown_cell(BODY))
    for i, kind in enumerate(KINDS, 1):
        heading = "## Exercises\n\n" if i == 1 else ""
        cells.append(new_markdown_cell(f"{heading}### Exercise {number}.{i} ({kind})\n\nWhat is one and one?"))
        cells.append(new_code_cell(f'answer = ...  # your code\n\nkd.check.exercise("{number}.{i}", answer)'))
    cells.append(new_markdown_cell(CLOSING))
    for path, text in files.items():
        path.write_text(text.format(number=number, title=title), encoding="utf-8")
    nbformat.write(new_notebook(cells=cells, metadata=METADATA), notebook)
    return [notebook, *files]


def main() -> int:
    number, title = [*sys.argv[1:], "", ""][:2]
    try:
        files = begin(ROOT, number, title)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(LEFT.format(files=", ".join(str(path.relative_to(ROOT)) for path in files), number=number))
    return 0


if __name__ == "__main__":
    sys.exit(main())
