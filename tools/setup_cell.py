# Setup, the same in every chapter: installs kdutils where it is missing, and leaves torch and numpy as they are.
import importlib.util
import subprocess
import sys
from importlib.metadata import version

REPOSITORY = ""
if importlib.util.find_spec("kdutils") is None:
    if not REPOSITORY:
        raise SystemExit(
            "This copy of the book has no repository address yet, so kdutils cannot be installed from one: "
            "clone the book, run `make lab` in the clone, and open this notebook there."
        )
    print("Installing kdutils, in about a minute ...")
    package = f"kdutils @ git+https://github.com/{REPOSITORY}"
    kept = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "numpy") if importlib.util.find_spec(name)]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package, *kept], check=True)
import kdutils as kd

print(kd.setup())
