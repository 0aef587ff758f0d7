"""Environments of rivals: each its own, below the state folder, never the project's."""

import subprocess
import sys
from pathlib import Path

from feature_store.home import home


def rival_python(name: str, *requirements: str) -> Path:
    """The Python of an environment with these requirements, installed by pip when they are not in it yet.

    Raises
    ------
    subprocess.CalledProcessError : pip could not install them; it says why on its own output.
    """
    folder = home() / "rivals" / name
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(requirements)
    if not done.is_file() or done.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements], check=True)
        done.write_text(wanted)
    return python
