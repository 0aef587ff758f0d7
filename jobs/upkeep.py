"""Weekly upkeep of one recipe: fewer files, no versions that nobody can ask for, no checkpoints of runs that were given up.

What a registered model was trained on stays readable: the versions of tables that it names are kept, whatever their age.
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from feature_store.contracts import CONTRACTS
from feature_store.home import cache_root
from feature_store.recipe import Recipe
from feature_store.tables import Lake, Table
from models.registry import Registry

TARGET_MB = 128
"""Size of the files that small ones are brought together to."""

_RUNS = ("checkpoints", "runs")
_DAY_S = 86_400


@dataclass(frozen=True)
class Upkept:
    """What was done.

    Attributes
    ----------
    compacted : days of tables that were written again in fewer files. vacuumed : data files of replaced versions that were deleted.
    kept : versions of tables that registered models name. expired : folders of training runs that were deleted.
    """

    compacted: int
    vacuumed: int
    kept: int
    expired: int

    def __str__(self) -> str:
        return (f"{self.compacted} days of tables written again in fewer files, {self.vacuumed} files of replaced versions "
                f"deleted, {self.kept} versions kept for registered models, {self.expired} given-up training runs deleted")


def upkeep(spark: SparkSession, recipe: Recipe, lake: Lake, registry: Registry | None = None) -> Upkept:
    """Do all of it.

    Raises
    ------
    ModelError : MLflow cannot be asked which versions its models name; nothing was deleted then.
    """
    named = versions_named(registry or Registry())
    tables = [lake.table(name) for name in CONTRACTS if lake.table(name).exists()]
    compacted = sum(compact(spark, table, recipe.upkeep.small_mb) for table in tables)
    kept = {table.path: named.get(str(table.open().metadata().id), set()) for table in tables}
    deleted = sum(len(vacuum(table, kept[table.path], recipe.upkeep.version_days)) for table in tables)
    expired = expire(cache_root(recipe.name), recipe.upkeep.checkpoint_days)
    return Upkept(compacted, deleted, sum(map(len, kept.values())), len(expired))


def versions_named(registry: Registry) -> dict[str, set[int]]:
    """Versions of tables that any version of any registered model was trained on, by the table's id."""
    found: dict[str, set[int]] = {}
    for version in registry.every():
        for table in json.loads(version.tags.get("tables", "{}")).values():
            found.setdefault(table["id"], set()).add(int(table["version"]))
    return found


def compact(spark: SparkSession, table: Table, small_mb: int) -> int:
    """Write days of several small files again in fewer; how many there were. Rows, digest and accounting of a day stay."""
    days = list(_scattered(table, small_mb))
    sort = table.contract.sort
    for partition, files in days:
        rows = table.read(spark, [partition["ds"]]).where(" and ".join(f"{k} = '{v}'" for k, v in partition.items()))
        table.begin(**partition).rewrite(rows.repartition(files, sort[0]).sortWithinPartitions(*sort))
    return len(days)


def _scattered(table: Table, small_mb: int) -> Iterator[tuple[dict[str, str], int]]:
    """Partitions with several files that are small on average, and how many files would do."""
    sizes: dict[tuple[str, ...], list[int]] = {}
    names = table.contract.partition
    for file in pa.table(table.open().get_add_actions(flatten=True)).to_pylist():
        sizes.setdefault(tuple(file[f"partition.{name}"] for name in names), []).append(int(file["size_bytes"]))
    for values, found in sorted(sizes.items()):
        enough = max(1, ceil(sum(found) / (TARGET_MB << 20)))
        if len(found) > enough and sum(found) / len(found) < small_mb << 20:
            yield dict(zip(names, values, strict=True)), enough


def vacuum(table: Table, named: Iterable[int], days: int) -> list[str]:
    """Delete data files that were replaced more than `days` days ago, but those of the versions `named`; their paths."""
    delta = table.open()
    keep = sorted(v for v in set(named) if v <= delta.version())
    clean = partial(delta.vacuum, days * 24, enforce_retention_duration=False, keep_versions=keep or None)
    # The log goes on naming what was deleted before: that is no work, and no reason for a commit.
    found = [f for f in clean(dry_run=True) if "://" in table.path or (Path(table.path) / f).is_file()]
    if found:
        clean(dry_run=False)
    return found


def expire(root: Path, days: int) -> list[Path]:
    """Delete checkpoints and stages of training runs in which nothing was written for `days` days; their folders."""
    limit = time.time() - days * _DAY_S
    found = [run for kind in _RUNS for run in sorted((root / kind).glob("*")) if run.is_dir() and _touched(run) < limit]
    for run in found:
        shutil.rmtree(run)
    return found


def _touched(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
