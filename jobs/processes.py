"""Finding and ending the processes of one state folder, whoever their parent is by now."""

import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

MARK = "MOVELINE_INSTANCE"
"""Environment variable that every service, and so every task, JVM and Python worker below it, inherits."""


def marked(mark: str) -> list[psutil.Process]:
    """Live processes whose environment carries our mark.

    The mark is inherited, so that it also finds what a killed parent left behind (a Spark JVM, a training rank).
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or somebody else's
    return [p for p in found if p.pid != psutil.Process().pid]


def end(mark: str, first: Iterable[int] = (), grace_s: float = 6.0) -> int:
    """End every marked process: a polite signal to `first`, then to the rest, then force. Returns how many there were."""
    count = len(marked(mark))
    chosen = set(first)
    waves = [
        (signal.SIGTERM, grace_s, chosen),
        (signal.SIGTERM, 2.0, set()),
        (signal.SIGKILL, 5.0, set()),
        (signal.SIGKILL, 5.0, set()),
    ]
    for kind, wait_s, only in waves:
        processes = marked(mark)
        if not processes:
            break
        for process in processes:
            if not only or process.pid in only:
                _send(process, kind)
        _wait_gone(mark, wait_s)
    return count


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return  # it ended by itself


def _wait_gone(mark: str, seconds: float) -> None:
    stop = time.monotonic() + seconds
    while time.monotonic() < stop and marked(mark):
        time.sleep(0.2)


def alive(pid: int, created: float) -> bool:
    """Whether a process is still the one that was started (a pid may have been given to another since)."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def free_port(preferred: int, taken: Iterable[int] = ()) -> int:
    """`preferred` when nobody listens there on this machine, else a free one."""
    for port in (preferred, 0, 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            chosen = int(probe.getsockname()[1])
            if chosen not in set(taken):
                return chosen
    raise OSError("no free port on 127.0.0.1")


def tail(path: Path, lines: int = 15, width: int = 300) -> str:
    """Last lines of a log, cut to a width; an absent file has none."""
    if not path.is_file():
        return f"(no log at {path})"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64_000))
        text = file.read().decode(errors="replace")
    return "\n".join(line[:width] for line in text.splitlines()[-lines:])
