"""House rules that no linter knows."""

from __future__ import annotations

import re
import subprocess
from pathlib import PurePosixPath

import pytest

from tests.conftest import ROOT, tracked

FASHION = "kdutils/fashion_mnist/"
FASHION_FILES = {
    f"{FASHION}{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
}
DATA_ENDINGS = (
    ".gz", ".npz", ".npy", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".zip", ".tar", ".tgz", ".xz", ".bz2",
    ".parquet", ".feather", ".h5", ".hdf5", ".mat", ".bin", ".onnx", ".jpg", ".jpeg", ".sqlite", ".tsv", ".arrow",
)  # fmt: skip
TEXT_ENDINGS = (
    ".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".txt", ".cfg", ".json", ".ipynb", ".css", ".js", ".bib",
    ".csv", "",
)  # fmt: skip

# Absolute paths of one machine, addresses of package indexes, and leftovers of editing.
FORBIDDEN = {
    "an absolute path of one machine": r"(?<![\w.:/~-])/(?:home|root|Users|work)/[A-Za-z]",
    "a folder outside the repository": r"\.\./(?:shared|work)\b",
    "the address of a package index": r"--(?:extra-)?index-url[ =]|python[h]osted\.|/simple/?[\s\"')]|registry\.npm",
    "a mark of an unfinished merge": r"^(?:<{7} |>{7} |={7}$)",
    "a note to oneself": r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b",
}


def text_files() -> list[str]:
    return [name for name in tracked() if PurePosixPath(name).suffix in TEXT_ENDINGS and not name.startswith("LICENSE")]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    pattern, found = re.compile(FORBIDDEN[what], re.M), []
    for name in text_files():
        if name in ("tests/test_house.py", "requirements.txt"):
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        if name.endswith(".ipynb"):  # pictures are base64: any letters may stand there
            text = re.sub(r'"[A-Za-z0-9+/=\\n]{200,}"', '""', text)
        found += [f"{name}: {match[0]!r}" for match in pattern.finditer(text)]
    assert not found, f"{what} stands in\n" + "\n".join(found[:20])


def test_fashion_mnist_is_the_only_data_set() -> None:
    data = {name for name in tracked() if name.lower().endswith(DATA_ENDINGS)}
    assert data == FASHION_FILES, f"{sorted(data ^ FASHION_FILES)}"
    assert (ROOT / "LICENSES" / "Fashion-MNIST.txt").is_file()


def test_weights_and_tables_lie_where_they_belong() -> None:
    for name in tracked():
        if name.endswith(".safetensors"):
            assert name.startswith("kdutils/weights/"), name
        if name.endswith(".csv"):
            assert name.startswith(("kdutils/recorded/", "benchmarks/")), name


def test_files_stay_small() -> None:
    for name in tracked():
        limit = 40_000_000 if name.startswith(FASHION) else 6_000_000 if name.endswith(".safetensors") else 1_000_000
        size = (ROOT / name).stat().st_size
        assert size <= limit, f"{name} has {size:,} bytes"


def test_nothing_of_ours_unpickles() -> None:
    pattern = re.compile(r"\bpickle\b|torch\.load\(|joblib\.load|allow_pickle=True|weights_only=False")
    for name in tracked():
        if name.startswith("kdutils/") and name.endswith(".py"):
            text = (ROOT / name).read_text(encoding="utf-8")
            if name == "kdutils/grading.py":  # it lists what a submission may not import
                text = text.replace(' "pickle",', "")
            found = pattern.search(text)
            assert not found, f"{name}: {found[0]!r}"


def test_the_package_reads_neither_notebooks_nor_the_book() -> None:
    pattern = re.compile(r"[\"'](?:\.\./)*(?:notebooks|book|tests|tools)/")
    for name in tracked():
        if name.startswith("kdutils/") and name.endswith(".py"):
            text = (ROOT / name).read_text(encoding="utf-8")
            if name == "kdutils/grading.py":  # it lists what a submission may not name
                text = text.replace('("tests/", ', "")
            found = pattern.search(text)
            assert not found, f"{name}: {found[0]!r}"


def test_the_makefile_lists_its_targets() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("book", "test", "notebook", "notebooks", "test-slow", "lab", "lint", "lock", "stamp"):
        assert re.search(rf"make {target} ", said), f"make {target} is not listed"


def test_ci_runs_the_command_of_the_readme() -> None:
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()
    assert lines[-1].split("#")[0].strip() in ("make test", "exec make test")
