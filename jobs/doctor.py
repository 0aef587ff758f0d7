"""What is wrong with this machine or this state folder, and what to do about it. Nothing is changed."""

import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from feature_store.errors import MovelineError
from feature_store.home import home, ledger_root, tracking_uri
from jobs import preflight, processes, services

LEAST_FREE = 5 * 2**30
"""Bytes of disk that a demo and its Airflow need."""

_DAY_S = 86_400


@dataclass(frozen=True)
class Finding:
    """One thing looked at. fix : what to do, "" when it is as it should be."""

    about: str
    says: str
    fix: str = ""


def examine() -> list[Finding]:
    """Every check; one that cannot be made is a finding, too."""
    return [finding for check in _CHECKS for finding in _made(check)]


def _made(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    name = check.__name__.strip("_")
    try:
        return list(check()) or [Finding(name, "nothing to say")]
    except MovelineError as error:
        return [Finding(name, "could not be looked at", str(error))]


def _java() -> Iterator[Finding]:
    try:
        preflight.check()
    except preflight.MachineError as error:
        yield Finding("java", "does not fit", str(error))
    else:
        yield Finding("java", f"Java {preflight.java_version()}, Python {sys.version.split()[0]}")


def _packages() -> Iterator[Finding]:
    """Installed versions against those that this release was run with."""
    wrong = []
    for wanted in map(Requirement, requires("moveline") or []):
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = "none"
        if found == "none" or not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} {found} (needs {wanted.specifier or 'any'})")
    yield Finding("packages", "; ".join(wrong), "run `make env`: it installs requirements.lock") if wrong else Finding(
        "packages", "all as pinned")


def _disk() -> Iterator[Finding]:
    place = next(p for p in (home(), *home().parents) if p.exists())
    free = shutil.disk_usage(place).free
    says = f"{free / 2**30:.1f} GiB free at {home()}"
    low = f"free {LEAST_FREE / 2**30:.0f} GiB: `make clean` deletes caches and logs, or set MOVELINE_HOME to another disk"
    yield Finding("disk", says, "" if free >= LEAST_FREE else low)


def _services() -> Iterator[Finding]:
    running = services.running()
    left = [] if running else processes.marked(str(home()))
    if running:
        yield Finding("services", f"Airflow at {running.airflow}, MLflow at {running.mlflow}")
    elif left or services.state_file().is_file():
        yield Finding("services", f"not all run, and {len(left)} processes of them are left", "`moveline down` ends them")
    else:
        yield Finding("services", "Airflow and MLflow are not started")
    for name, port in (("Airflow", services.AIRFLOW_PORT), ("MLflow", services.MLFLOW_PORT)):
        if not running and _listens(port):
            yield Finding("ports", f"{port} is taken by something else: `moveline up` takes another one for {name}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tables() -> Iterator[Finding]:
    """Files that no commit names."""
    from feature_store.contracts import CONTRACTS
    from feature_store.tables import Lake

    root = Path(ledger_root()).parent
    for lake in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("_")) if root.is_dir() else []:
        files = [path for name in CONTRACTS for path in Lake(str(lake)).table(name).orphans(_DAY_S)]
        size = sum(Path(path).stat().st_size for path in files)
        fix = f"the next `moveline daily` of {lake.name} deletes them" if files else ""
        yield Finding("tables", f"{lake.name}: {len(files)} files of runs that were cut short, {size / 2**20:.0f} MiB", fix)


def _registry() -> Iterator[Finding]:
    """Runs that nobody ended, and aliases that the ledger knows otherwise."""
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        yield Finding("registry", "nothing is registered yet")
        return
    from models.ledger import read
    from models.registry import Registry
    from models.tracking import reaching

    registry = Registry(uri)
    with reaching(uri):
        experiments = [e.experiment_id for e in registry.client.search_experiments()]
        running = registry.client.search_runs(experiments, "attributes.status = 'RUNNING'") if experiments else []
        old = [run.info.run_id for run in running if run.info.start_time < (time.time() - _DAY_S) * 1000]
        stands = {(m.name, alias): int(v) for m in registry.client.search_registered_models() for alias, v in m.aliases.items()}
    fix = "they were killed; end them on MLflow's page, nothing reads them" if old else ""
    yield Finding("runs", f"{len(old)} runs began more than a day ago and never ended {', '.join(old[:3])}".rstrip(), fix)
    newest = {(e.model, e.alias): e for e in read()}
    for (model, alias), number in sorted(stands.items()):
        known = newest.get((model, alias))
        if known is None or known.to_version != number:
            said = known.to_version if known else "nothing"
            yield Finding("aliases", f"{model}: {alias} stands on version {number}, the ledger says {said}",
                          "the next gate, promotion or rollback of the model settles it; `moveline history` shows the ledger")


_CHECKS = (_java, _packages, _disk, _services, _tables, _registry)
