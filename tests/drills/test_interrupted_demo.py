"""Ctrl-C while a Spark task of the demo computes: the demo ends, and with it every process that it or its services have started."""

import signal
import time
from pathlib import Path

import psutil
import pytest

from jobs import processes
from tests.drills.command import begun, small

Seen = dict[int, psutil.Process]


def gather(root: psutil.Process, seen: Seen) -> list[str]:
    """Note the processes below the demo; their command lines. Found by their parents, not by the mark that stopping looks for."""
    lines = []
    for process in root.children(recursive=True):
        try:
            lines.append(" ".join(process.cmdline()))
            seen.setdefault(process.pid, process)
        except psutil.Error:
            continue  # it ended meanwhile
    return lines


def computes(line: str) -> bool:
    return "java" in line and "main.py daily" in line


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(900)
def test_a_demo_that_is_interrupted_while_a_spark_task_computes_leaves_no_process_behind(tmp_path: Path) -> None:
    recipe = small(tmp_path, users=200)
    demo = begun(tmp_path, "demo", "--conf", str(recipe), "--plain")
    root, seen, until = psutil.Process(demo.pid), Seen(), time.monotonic() + 400
    while not any(map(computes, gather(root, seen))):
        assert demo.poll() is None and time.monotonic() < until, "no Spark task was started"
        time.sleep(0.5)
    until = time.monotonic() + 300
    while not any((tmp_path / "lake").rglob("events/**/*.parquet")):  # it has begun to write
        assert demo.poll() is None and time.monotonic() < until
        gather(root, seen)
        time.sleep(0.1)
    gather(root, seen)
    assert sum(p.is_running() for p in seen.values()) >= 8  # services, Airflow's worker, Spark's JVM and its Python
    demo.send_signal(signal.SIGINT)
    assert demo.wait(90) == 130
    assert [p for p in seen.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert processes.marked(str(tmp_path)) == []
