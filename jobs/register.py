"""Turn a trained and judged model into a registered version: lineage, report, manifest of the bytes it was trained on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads

from feature_store.contracts import PAIR_KINDS
from feature_store.day_commits import fingerprint
from feature_store.encoded_set import EncodedSet
from feature_store.recipe import Recipe
from feature_store.revision import code_revision
from feature_store.tables import Lake
from feature_store.vocabulary import Vocabulary
from jobs.evaluate import names, picture, save
from jobs.gate import gate
from models.artifact import VOCABULARY, describe
from models.evaluation import Result, headline
from models.generator import GENERATOR, Generator
from models.registry import CHAMPION, Candidate, Registry, Version
from models.report import report
from models.serving import FLOW_COLUMNS, PAGE_COLUMNS, PAIR_COLUMNS, serving_pages

_TABLES = ("pages", "pairs", "flows", "movelines", "visits", "vocabulary")


@dataclass(frozen=True)
class Judged:
    """A model after training and evaluation.

    Attributes
    ----------
    name : model name. artifact : its folder. day : last day of the window. fingerprint : of the tables and settings.
    history : a row an epoch. result : of `jobs.evaluate`. sets : encoded sets by role (train, validate, test).
    warm_from : address of the version whose weights training began with, "" when it began fresh. generator : name/version of the
        registered generator whose flow the model reads, "" without one.
    """

    name: str
    artifact: Path
    day: str
    fingerprint: str
    history: list[dict[str, Any]]
    result: Result
    sets: Mapping[str, EncodedSet]
    warm_from: str = ""
    generator: str = ""


def register(recipe: Recipe, lake: Lake, judged: Judged, folder: str | Path, registry: Registry | None = None) -> Version:
    """Write report and manifest into `folder`, log everything to MLflow, and let the gate decide whether it becomes champion.

    A fingerprint that is registered already keeps its version. Raises ModelError when the tracking server refuses, and as
    `jobs.gate.gate` does.
    """
    registry, folder = registry or Registry(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tags = lineage(recipe, lake, judged)
    files = (_report(judged, lake, tags, folder), _manifest(judged, folder), _result(judged, folder))
    described = describe(judged.artifact)
    version = registry.register(Candidate(
        name=f"{recipe.name}-{judged.name}", experiment=recipe.name, folder=judged.artifact, fingerprint=judged.fingerprint,
        example=example(described["reads"], lake, judged), metrics=headline(judged.result), params=described["config"], tags=tags,
        curve={int(row["epoch"]): _numbers(row) for row in judged.history}, files=files))
    return version if CHAMPION in version.aliases else gate(recipe, lake, version, registry)


def lineage(recipe: Recipe, lake: Lake, judged: Judged) -> dict[str, str]:
    """What a version was made from, as tags: recipe, code, days, tables with ids and versions, digests of days and encoded sets."""
    train = judged.sets["train"]
    tables = {name: lake.table(name) for name in _TABLES if lake.table(name).exists()}
    # The encoded set names the version it read; the others are as they stand now.
    versions = {name: train.version if name == train.table else table.version() for name, table in tables.items()}
    days = sorted({day for own in judged.sets.values() for day in own.days})
    source = lake.table(train.table)
    found = source.commits(days, source.open()) if source.exists() else {}
    digests = {day: found[day].digest for day in days if day in found}
    return {
        "recipe": recipe.name, "recipe_hash": fingerprint(recipe.model_dump(mode="json")), "model": judged.name, "day": judged.day,
        "code_revision": code_revision(), "split": recipe.split.model_dump_json(),
        "days": json.dumps({role: list(own.days) for role, own in judged.sets.items()}),
        "tables": json.dumps({name: {"id": str(tables[name].open().metadata().id), "version": versions[name]} for name in tables}),
        f"digests.{train.table}": json.dumps(digests),
        "vocabulary": Vocabulary.load(judged.artifact / VOCABULARY).digest,
        "sets": json.dumps({role: {"digest": own.digest, "rows": own.rows} for role, own in judged.sets.items()}),
        **({"warm_from": judged.warm_from} if judged.warm_from else {}),
        **({"generator": judged.generator, "generator_digest": Generator(judged.artifact / GENERATOR).digest}
           if judged.generator else {}),
    }


def example(reads: str, lake: Lake, judged: Judged, rows: int = 3) -> pd.DataFrame:
    """Some rows of the test days in the form the deployed model takes."""
    for day in reversed(judged.sets["test"].days):
        if reads == "pages" and lake.table("pages").day(day):
            return serving_pages(_head(lake, "pages", day, list(PAGE_COLUMNS), rows))
        if reads == "flows" and lake.table("flows").day(day):
            return serving_pages(_head(lake, "flows", day, list(FLOW_COLUMNS), rows), FLOW_COLUMNS)
        if reads == "pairs" and lake.table("pairs").day(day):
            found = _head(lake, "pairs", day, list(PAIR_COLUMNS), 100).to_pandas().explode(list(PAIR_COLUMNS))
            found = found.dropna(subset="left_item").fillna("")
            if len(found):
                return found.head(rows).reset_index(drop=True)
    empty = lake.table("pages").contract.schema.empty_table()
    if reads == "pairs":
        return pd.DataFrame({side: ["unknown"] for side in PAIR_COLUMNS})
    return serving_pages(empty, FLOW_COLUMNS if reads == "flows" else PAGE_COLUMNS)


def _head(lake: Lake, name: str, day: str, columns: list[str], rows: int) -> pa.Table:
    return pads.dataset(lake.table(name).files([day])[0], format="parquet").head(rows, columns=columns)


def _report(judged: Judged, lake: Lake, tags: Mapping[str, str], folder: Path) -> Path:
    words = Vocabulary.load(judged.artifact / VOCABULARY)
    test = judged.sets["test"]
    page = report(f"{tags['recipe']}-{judged.name}, trained up to {judged.day}", judged.result, judged.history,
                  picture(test, pair_counts(lake, test.days)), names(words, "scene"), {"fingerprint": judged.fingerprint, **tags})
    path = folder / "report.html"
    path.write_text(page)
    return path


def _manifest(judged: Judged, folder: Path) -> Path:
    content = {role: {**asdict(own), "digest": own.digest} for role, own in judged.sets.items()}
    path = folder / "manifest.json"
    path.write_text(json.dumps(content, indent=1, sort_keys=True))
    return path


def _result(judged: Judged, folder: Path) -> Path:
    path = folder / "result.json"
    save(judged.result, path)
    return path


def pair_counts(lake: Lake, days: Iterable[str]) -> dict[str, int]:
    """Exact pairs of some days by kind."""
    table = lake.table("pairs")
    if not table.exists():
        return {}
    found = table.read_arrow(list(days), list(PAIR_KINDS))
    return {kind: int(found[kind].to_numpy().sum()) for kind in PAIR_KINDS}


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {f"epoch.{key}": float(value) for key, value in row.items() if key != "epoch" and isinstance(value, int | float)}
