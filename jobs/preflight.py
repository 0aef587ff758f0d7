"""Is this machine able to run the jobs? Asked before anything slow is started."""

import os
import re
import shutil
import subprocess
import sys

from feature_store.errors import MovelineError

JAVA = (17, 21)


class MachineError(MovelineError):
    """Something has to be installed first."""


def check() -> None:
    """Python and Java fit.

    Raises
    ------
    MachineError : one does not; the message says in one line what to install.
    """
    if sys.version_info[:2] != (3, 11):
        raise MachineError(
            f"Python 3.11 is needed and this is {sys.version.split()[0]}: install python3.11 and run `make demo` again"
        )
    found = java_version()
    if found not in JAVA:
        seen = "none was found" if found is None else f"{java_command()} is Java {found}"
        fix = "install one (Debian: apt-get install openjdk-17-jre-headless) or set JAVA_HOME to it"
        raise MachineError(f"Java 17 or 21 is needed and {seen}: {fix}")


def java_command() -> str:
    """The `java` that Spark will start: of JAVA_HOME when that is set, else of PATH."""
    home = os.environ.get("JAVA_HOME")
    return os.path.join(home, "bin", "java") if home else (shutil.which("java") or "java")


def java_version() -> int | None:
    """Major version of that Java, None when there is none."""
    try:
        done = subprocess.run([java_command(), "-version"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return major(done.stderr + done.stdout)


def major(text: str) -> int | None:
    """Major version in the output of `java -version`.

    Examples
    --------
    >>> major('openjdk version "17.0.15" 2025-04-15'), major('java version "1.8.0_402"'), major("command not found")
    (17, 8, None)
    """
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None
