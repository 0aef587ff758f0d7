"""Peak memory of a command and all its children (JVM, Python workers, ranks): `python benchmarks/memory.py moveline daily`.

What the processes of the tree hold is added up ten times a second; memory that several share is divided among them (Linux's PSS).
"""

import subprocess
import sys
import time

import psutil

_EVERY_S = 0.1


def held(root: psutil.Process) -> dict[str, int]:
    """Bytes of the processes of a tree by name."""
    found: dict[str, int] = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            found[process.name()] = found.get(process.name(), 0) + process.memory_full_info().pss
        except psutil.Error:
            continue  # it ended meanwhile
    return found


def main() -> None:
    """Run the command of the arguments, then say its peak and its exit code."""
    started = time.monotonic()
    process = subprocess.Popen(sys.argv[1:])
    root, peak = psutil.Process(process.pid), {"": 0}
    while process.poll() is None:
        try:
            now = held(root)
        except psutil.Error:
            break
        if sum(now.values()) > sum(peak.values()):
            peak = now
        time.sleep(_EVERY_S)
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in sorted(peak.items(), key=lambda kv: -kv[1]) if size)
    seconds = time.monotonic() - started
    print(f"{' '.join(sys.argv[1:])}: peak {sum(peak.values()) / 2**30:.2f} GiB ({parts}), {seconds:.0f} s, exit {process.wait()}")
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
