"""Runs the downloads of `test_fetch.py` with the oldest and the newest client of the hub that pyproject.toml allows.

Each is installed into a folder that comes before the environment's own packages, so nothing else has to be installed.
Where the package index cannot be reached, says so and passes. A client that the environment has is not run again.
"""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
NAME = "huggingface_hub"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
UNREACHABLE = "from versions: none"  # what pip says where it has seen no version at all


def wanted() -> dict[str, str]:
    """What pip is asked for: the oldest client of the range, and any of it."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    [own] = [found for text in dependencies if (found := Requirement(text)).name == NAME]
    [least] = [part.version for part in own.specifier if part.operator == ">="]
    return {"oldest": f"{NAME}=={least}", "newest": str(own)}


def installed(folder: Path) -> str:
    """The version of the client in a folder."""
    [found] = metadata.distributions(name=NAME, path=[str(folder)])
    return found.version


def main() -> int:
    for which, requirement in wanted().items():
        folder = ROOT / ".cache/hub-clients" / which
        command = [*PIP, "install", "--quiet", "--upgrade", "--target", str(folder), requirement]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            if UNREACHABLE not in done.stderr:
                return 1
            print(f"skipped: the package index cannot be reached, so there is no {which} client to test with")
            continue
        print(f"the {which} client, {installed(folder)}:", flush=True)
        tests = ["-m", "pytest", "-q", "-n", "0", "tests/hub/test_fetch.py", "-k", "not generates"]
        run = subprocess.run([sys.executable, *tests], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(folder)})
        if run.returncode != 0:
            return run.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
