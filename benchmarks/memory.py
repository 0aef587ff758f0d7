"""Peak memory of a command and of every `moveline` task below it, each with all its children (JVM, Python workers, ranks):

    python benchmarks/memory.py --limit-gb 4 --tasks daily,train_model make demo

What the processes of a tree hold is added up twice a second; memory that several share is divided among them (Linux's PSS).
With a limit, a task that held more makes the exit code 1, and so does one of the named tasks that was not seen at all.
"""

import argparse
import signal
import subprocess
import sys
import time

import psutil

_EVERY_S = 0.5
_MAIN = "jobs/main.py"
Held = dict[str, int]


def cpu_seconds() -> float:
    """CPU seconds of this process and all below it, those that ended included."""
    total = 0.0
    for process in _tree(psutil.Process()):
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def _tree(root: psutil.Process) -> list[psutil.Process]:
    """A process and all below it, parents first."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def task(process: psutil.Process) -> str:
    """The task that a process runs, as its arguments say it; nothing for other processes."""
    try:
        line = process.cmdline()
    except psutil.Error:
        return ""
    place = next((n for n, word in enumerate(line) if word.endswith(_MAIN)), None)
    return "" if place is None else " ".join(word for word in line[place + 1:] if word and not word.startswith(("-", "/")))


def sample(root: psutil.Process) -> dict[str, Held]:
    """What the whole tree (its name is empty) and every task in it hold now, by program. A process is part of its parent's task."""
    found: dict[str, Held] = {"": {}}
    owner: dict[int, str] = {}
    for process in _tree(root):
        try:
            name = owner[process.pid] = owner.get(process.ppid(), "") or task(process)
            kind = process.name()
            if kind != "java" and process.exe().endswith("/java"):
                continue  # about to become another program: until then it has the JVM's memory, which would count twice
            size = process.memory_full_info().pss
        except psutil.Error:
            continue  # it ended meanwhile
        for part in {"", name}:
            own = found.setdefault(part, {})
            own[kind] = own.get(kind, 0) + size
    return found


def watch(process: subprocess.Popen) -> dict[str, Held]:
    """The largest that the whole command (without a name) and each task held at one time; SIGTERM goes on to the command."""
    root, most = psutil.Process(process.pid), {"": Held()}
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while process.poll() is None:
            for name, now in sample(root).items():
                if sum(now.values()) > sum(most.get(name, {}).values()):
                    most[name] = now
            time.sleep(_EVERY_S)
    finally:
        signal.signal(signal.SIGTERM, before)
    return most


def main() -> None:
    """Run the command of the arguments, then say its peak and those of its tasks, and its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit-gb", type=float, default=float("inf"), help="no task may hold more; 1 GB is 10^9 bytes")
    parser.add_argument("--tasks", default="", help="tasks that must have been seen, separated by commas")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run")
    asked = parser.parse_args()
    started = time.monotonic()
    process = subprocess.Popen(asked.command)
    most = watch(process)
    for name, peak in most.items():
        parts = ", ".join(f"{kind} {size / 1e9:.2f}" for kind, size in sorted(peak.items(), key=lambda kv: -kv[1])[:4])
        print(f"{sum(peak.values()) / 1e9:5.2f} GB  {name or 'everything at once'} ({parts})")
    print(f"{' '.join(asked.command)}: {time.monotonic() - started:.0f} s, exit {process.returncode}")
    above = [name for name, peak in most.items() if name and sum(peak.values()) > asked.limit_gb * 1e9]
    unseen = set(filter(None, asked.tasks.split(","))) - {name.partition(" ")[0] for name in most}
    if above:
        print(f"FAILED: more than {asked.limit_gb:g} GB were held by {', '.join(above)}")
    if unseen:
        print(f"FAILED: no process of the task {', '.join(sorted(unseen))} was seen")
    sys.exit(process.returncode or bool(above or unseen))


if __name__ == "__main__":
    main()
