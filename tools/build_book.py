"""Build the book strictly from the stored outputs: `python tools/build_book.py [ROOT [OUTPUT_FOLDER]]`.

A warning fails the build. Ends by printing the page to open, after looking that each page of the table
of contents is really there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def pages(root: Path) -> list[str]:
    """The files of the table of contents, without their suffix, the root first."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"]] + [entry["file"] for part in toc["parts"] for entry in part["chapters"]]


def build(root: Path, output: Path, *, fresh: bool = True) -> tuple[int, str]:
    """Run jupyter-book; return its exit status (1 too where a page is missing) and what it said.

    Not `fresh` reads only those files again that changed since the last build, and so warns of those only.
    """
    run = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run, "build", str(root), "--path-output", str(output)]
    done = subprocess.run(
        [*command, *(["--all"] if fresh else []), "-W", "-n", "--keep-going"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    missing = [page for page in ["index", *pages(root)] if not (output / "_build" / "html" / f"{page}.html").is_file()]
    said = done.stdout + "".join(f"\nmissing: the page {page}.html was not built" for page in missing)
    return done.returncode or bool(missing), said


def main() -> int:
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    output = Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else root
    print("Building the book ...", flush=True)
    status, said = build(root, output)
    if status:
        print(said)
        print("The book was not built: see the warnings above.", file=sys.stderr)
        return 1
    print(f"Built {len(pages(root))} pages. Open: {(output / '_build' / 'html' / 'index.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
