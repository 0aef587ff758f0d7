"""The command `moveline` as a process that can be killed, and a small shop with the published truth for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from feature_store.local_spark import local_spark

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0
Process = subprocess.Popen[bytes]


def small(folder: Path, users: int, last: str = "2026-03-02", **sections: Any) -> Path:
    """The recipe of the published shop with few users, from 2 March 2026 on."""
    content = yaml.safe_load((ROOT / "conf" / "simulated.yaml").read_text())
    content |= {"name": "small", "days": {"first": "2026-03-02", "last": last}, **sections}
    content["simulator"]["users"] = users
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def own(home: Path, **env: str) -> dict[str, str]:
    """The environment of a command with a state folder of its own."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("MOVELINE_", "MLFLOW_"))}
    return keep | {"MOVELINE_HOME": str(home)} | env


def begun(home: Path, *command: str, **env: str) -> Process:
    """The command, with a state folder and a process group of its own."""
    return subprocess.Popen([sys.executable, "-m", "jobs.main", *command], cwd=ROOT, env=own(home, **env),
                            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def done(home: Path, *command: str, **env: str) -> None:
    """Run the command to its end; it must succeed."""
    assert begun(home, *command, **env).wait(PATIENCE_S) == 0, command


def submit(home: Path, *arguments: str) -> str:
    """What an application says on standard output; it must succeed."""
    settings = [word for key, value in local_spark().items() for word in ("--conf", f"{key}={value}")]
    command = [str(Path(sys.executable).with_name("spark-submit")), "--master", "local[2]", *settings, "jobs/main.py", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=own(home, PYSPARK_PYTHON=sys.executable),
                           capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert ended.returncode == 0, ended.stdout[-2_000:] + ended.stderr[-2_000:]
    return ended.stdout


def killed_when(running: Process, seen: Callable[[], bool]) -> bool:
    """Kill a command and all it has started as soon as something is seen; whether it was still running then."""
    until = time.monotonic() + PATIENCE_S
    while not seen() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    alive = running.poll() is None
    if alive:
        os.killpg(running.pid, signal.SIGKILL)
    running.wait(60)
    return alive
