# Setup, the same in every chapter: installs kdutils where it is missing, and nothing else.
import importlib.util
import subprocess
import sys

REPOSITORY = ""
if importlib.util.find_spec("kdutils") is None:
    if not REPOSITORY:
        raise SystemExit(
            "This copy of the book has no repository address yet, so kdutils cannot be installed from one: "
            "clone the book, run `make lab` in the clone, and open this notebook there."
        )
    package = f"kdutils @ git+https://github.com/{REPOSITORY}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)
import kdutils as kd

print(kd.setup())
