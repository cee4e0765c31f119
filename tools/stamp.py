"""Write the repository's address, held in pyproject.toml, wherever else it belongs.

    make stamp REPO=owner/name    stamp
    make stamp REPO=              take the address out again
    make stamp                    keep the address, refresh what is made from it and from _toc.yml

Running it twice changes nothing. `tests/test_repository_address.py` holds all the places together.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
HOST = "https://github.com/"
BRANCH = "main"
COLAB = "https://colab.research.google.com"


def address(root: Path = ROOT) -> str:
    """The stamped "owner/name", or "" where there is none."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "").removeprefix(HOST)


def setup_cell(repo: str, root: Path = ROOT) -> str:
    """The source of every notebook's setup cell."""
    template = (root / "tools" / "setup_cell.py").read_text(encoding="utf-8").rstrip("\n")
    if template.count('REPOSITORY = ""\n') != 1:
        raise ValueError('tools/setup_cell.py must hold the line REPOSITORY = "" exactly once.')
    return template.replace('REPOSITORY = ""\n', f'REPOSITORY = "{repo}"\n')


def is_setup_cell(cell: dict) -> bool:
    return cell["cell_type"] == "code" and "setup" in cell["metadata"].get("tags", [])


def colab_url(repo: str, notebook: str) -> str:
    return f"{COLAB}/github/{repo}/blob/{BRANCH}/{notebook}"


def toc(root: Path = ROOT) -> list[tuple[str, list[dict[str, str]]]]:
    """The parts of the book in order: (caption, [{"file", "title"}, ...])."""
    parts = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    return [(part["caption"], part["chapters"]) for part in parts]


def chapters(root: Path = ROOT) -> list[tuple[str, str, str]]:
    """(part, file with its suffix, title) of each notebook in the table of contents."""
    return [
        (caption, entry["file"] + ".ipynb", entry.get("title", ""))
        for caption, entries in toc(root)
        for entry in entries
        if entry["file"].startswith("notebooks/")
    ]


def between(text: str, name: str, body: str, comment: tuple[str, str]) -> str:
    """`text` with what stands between the two markers of that name replaced by `body`."""
    begin, end = (f"{comment[0]} {name}:{word}{comment[1]}" for word in ("begin", "end"))
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the markers {begin!r} and {end!r} must each occur once.")
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    return f"{head}{begin}\n{body}{end}{tail}"


def render_config(text: str, repo: str) -> str:
    body = ""
    if repo:
        body = f"repository:\n  url: {HOST}{repo}\n  branch: {BRANCH}\nlaunch_buttons:\n  colab_url: {COLAB}\n"
    return between(text, "repository", body, ("#", ""))


def render_readme(text: str, repo: str, root: Path) -> str:
    badges = "*This copy has no repository address yet, so there are no badges and no Colab links.*\n"
    if repo:
        owner, name = repo.split("/")
        first = chapters(root)[0][1]
        badges = (
            f"[![tests]({HOST}{repo}/actions/workflows/test.yml/badge.svg)]({HOST}{repo}/actions/workflows/test.yml)\n"
            f"[![read the book](https://img.shields.io/badge/read-the_book-blue)](https://{owner}.github.io/{name}/)\n"
            f"[![open in Colab]({COLAB}/assets/colab-badge.svg)]({colab_url(repo, first)})\n"
        )
    rows = ["| part | chapter |" + (" Colab |" if repo else ""), "|-|-|" + ("-|" if repo else "")]
    for part, notebook, title in chapters(root):
        rows.append(f"| {part} | [{title}]({notebook}) |" + (f" [open]({colab_url(repo, notebook)}) |" if repo else ""))
    text = between(text, "badges", badges, ("<!--", " -->"))
    return between(text, "chapters", "\n".join(rows) + "\n", ("<!--", " -->"))


def render_pyproject(text: str, repo: str) -> str:
    text = re.sub(r'^Repository = ".*"\n', "", text, flags=re.M)
    line = f'Repository = "{HOST}{repo}"\n' if repo else ""
    return text.replace("[project.urls]\n", "[project.urls]\n" + line)


def render_citation(text: str, repo: str) -> str:
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.M)
    return text + (f'repository-code: "{HOST}{repo}"\n' if repo else "")


def render_notebook(text: str, repo: str, root: Path) -> str:
    notebook = json.loads(text)
    wanted = setup_cell(repo, root).splitlines(keepends=True)
    for cell in notebook["cells"]:
        if is_setup_cell(cell):
            cell["source"] = wanted
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def stamp(repo: str, root: Path = ROOT) -> list[str]:
    """Write `repo` ("owner/name" or "") everywhere; return the files that changed."""
    if repo and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+", repo):
        raise ValueError(f"REPO must be written as owner/name, got {repo!r}.")
    new: dict[Path, str] = {}

    def render(name: str, function, *more) -> None:
        path = root / name
        new[path] = function(path.read_text(encoding="utf-8"), repo, *more)

    render("pyproject.toml", render_pyproject)
    render("_config.yml", render_config)
    render("README.md", render_readme, root)
    render("CITATION.cff", render_citation)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        render(f"notebooks/{path.name}", render_notebook, root)
    changed = [path for path, text in new.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(new[path], encoding="utf-8", newline="\n")
    return [path.relative_to(root).as_posix() for path in changed]


def main() -> int:
    repo = sys.argv[1].strip().removeprefix(HOST).removesuffix(".git").strip("/") if len(sys.argv) > 1 else address()
    try:
        changed = stamp(repo)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Repository: {HOST + repo if repo else 'none'}. Changed: {', '.join(changed) or 'nothing'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
