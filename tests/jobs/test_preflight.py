"""The checks before anything is installed or started."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs import preflight

ROOT = Path(__file__).resolve().parents[2]


def fake_java(folder: Path, version: str) -> Path:
    """A `java` under folder/bin that says it has this version."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f'#!/bin/sh\necho \'openjdk version "{version}" 2025-01-01\' >&2\n')
    java.chmod(0o755)
    return folder


def shell(**env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(ROOT / ".ci" / "preflight.sh")], env={"PATH": os.environ["PATH"], **env}, capture_output=True,
                          text=True)


@pytest.mark.parametrize(("version", "fits"), [
    ("17.0.15", True), ("21.0.1", True), ("11.0.2", False), ("1.8.0_402", False), ("25", False)])
def test_the_java_of_java_home_decides_in_shell_and_in_python(tmp_path, monkeypatch, version, fits):
    home = fake_java(tmp_path / "jdk", version)
    monkeypatch.setenv("JAVA_HOME", str(home))
    done = shell(JAVA_HOME=str(home), PYTHON=shutil.which("python3.11") or "python3.11")
    assert (done.returncode == 0) == fits
    if fits:
        preflight.check()
        return
    assert done.stderr.count("\n") == 1 and "Java 17 or 21 is needed" in done.stderr and "openjdk-17-jre-headless" in done.stderr
    with pytest.raises(preflight.MachineError, match=r"Java 17 or 21 is needed and .* is Java"):
        preflight.check()


def test_no_java_at_all_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(preflight.MachineError, match="none was found: install one"):
        preflight.check()
    done = shell(JAVA_HOME=str(tmp_path / "nowhere"), PYTHON=shutil.which("python3.11") or "python3.11")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "not there" in done.stderr


def test_another_python_is_one_line():
    done = shell(PYTHON="/bin/false")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Python 3.11") and done.stderr.count("\n") == 1
