"""Real processes: results come as they are done, each run has its share of the cores, an error ends what has not begun."""

import os
import time
from pathlib import Path

import pytest
import torch

from feature_store.errors import ModelError
from jobs.at_once import each


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of this file can be found by other processes."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))


def run(name: str, folder: Path, wait_for: str = "") -> tuple[str, int, int]:
    """The name, the process and its threads; where it waits for another run, that one has begun meanwhile."""
    (folder / name).touch()
    limit = time.monotonic() + 60
    while wait_for and not (folder / wait_for).exists():
        if time.monotonic() > limit:
            raise ModelError(f"{wait_for} did not begin beside {name}")
        time.sleep(0.01)
    return name, os.getpid(), torch.get_num_threads()


def refused(name: str, folder: Path) -> None:
    (folder / name).touch()
    raise ModelError(f"{name} cannot be done")


def test_two_run_at_once_in_processes_of_their_own_on_half_of_the_cores(tmp_path: Path) -> None:
    found = list(each(run, [("a", tmp_path, "b"), ("b", tmp_path, "a"), ("c", tmp_path)], 2))
    assert {name for name, _, _ in found} == {"a", "b", "c"}
    processes = {name: process for name, process, _ in found}
    assert processes["a"] != processes["b"] and os.getpid() not in processes.values()
    assert {threads for _, _, threads in found} == {max(1, len(os.sched_getaffinity(0)) // 2)}


def test_one_at_a_time_runs_here_and_in_order(tmp_path: Path) -> None:
    found = list(each(run, [("a", tmp_path), ("b", tmp_path, "a")], 1))
    assert [(name, process) for name, process, _ in found] == [("a", os.getpid()), ("b", os.getpid())]


def test_an_error_is_raised_as_it_was_and_what_has_not_begun_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="r0 cannot be done"):
        list(each(refused, [(f"r{n}", tmp_path) for n in range(40)], 2))
    assert len(list(tmp_path.iterdir())) < 40
