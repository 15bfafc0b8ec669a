"""Write requirements.lock: one exact version for everything that the core and the `test` extra need.

Run by `make lock`, on the lowest Python that is supported, so that the pins serve every later one. Pip resolves, this
file only writes down what it chose. The CUDA packages that torch brings on some machines are left out: torch pins
them itself, and elsewhere they must not be installed.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
LEFT_OUT = ("nvidia-", "cuda-", "triton")
HEADER = """\
# Made by `make lock` from the ranges in pyproject.toml: the core and the `test` extra. Do not edit by hand.
"""


def main() -> None:
    """Resolve and write the lock file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *requirements("test", project["optional-dependencies"]), TORCH]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *wanted], check=True)
        installed = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    pins = {
        entry["name"].lower().replace("_", "-"): entry["version"].split("+")[0]
        for entry in installed
        if not entry["name"].lower().startswith(LEFT_OUT)
    }
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items())]
    (ROOT / "requirements.lock").write_text(HEADER + "".join(lines))
    print(f"requirements.lock: {len(lines)} packages")


def requirements(extra: str, extras: dict[str, list[str]]) -> list[str]:
    """What an extra asks for; `trivium[a,b]` in it stands for what those extras ask for."""
    found = []
    for line in extras[extra]:
        own = re.fullmatch(r"trivium\[([\w,]+)\]", line)
        found += [each for name in own[1].split(",") for each in requirements(name, extras)] if own else [line]
    return found


if __name__ == "__main__":
    main()
