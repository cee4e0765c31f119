"""The package's own tests with the lowest versions that pyproject.toml admits, and with the newest: `make test-slow`.

Each environment is made anew, from the package index; the lowest one downloads a PyTorch of its own (about 3 GB).
The newest one may have another interpreter: `make test-slow NEWEST_PYTHON=/path/to/python3.13`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

UV = str(Path(sys.executable).with_name("uv"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What needs nothing but the package: neither the book's tools nor what conftest.py prepares for them.
OWN = [
    str(path)
    for path in sorted((ROOT / "tests").glob("test_*.py"))
    if not re.search(r"tests\.conftest|^(from|import) tools|test_processes", path.read_text(encoding="utf-8"), re.M)
]


@pytest.mark.slow
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_the_package_works_with_these_versions(resolution: str, tmp_path: Path) -> None:
    assert OWN, "no test was chosen"
    base = os.environ.get("NEWEST_PYTHON", sys.executable) if resolution == "highest" else sys.executable
    python, chosen = str(tmp_path / "env" / "bin" / "python"), str(tmp_path / "chosen.txt")
    subprocess.run([UV, "venv", "-q", "--python", base, str(tmp_path / "env")], check=True)
    compiled = [UV, "pip", "compile", "-q", "--resolution", resolution, "--python", python, "-o", chosen]
    compiled += ["--extra", "explain", "--extra", "test", str(ROOT / "pyproject.toml")]
    subprocess.run(compiled, check=True, stdout=subprocess.DEVNULL)
    if resolution == "lowest-direct":
        text = Path(chosen).read_text(encoding="utf-8")
        for requirement in map(Requirement, PROJECT["dependencies"]):
            (bound,) = requirement.specifier
            assert re.search(rf"^{requirement.name}=={re.escape(bound.version)}(\.\d+)*$", text, re.M), requirement
    subprocess.run([UV, "pip", "install", "-q", "--python", python, "-r", chosen], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "KDUTILS_PROGRESS": "0"}
    command = [python, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-q", "-m", "not slow", *OWN]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
