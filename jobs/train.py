"""Train one model on encoded sets: in this process, by torchrun, or on Spark's executors; the same code on every rank.

`python -m jobs.train --spec spec.json` is one rank (torchrun starts several). A spec names files, so that ranks need no Spark.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from feature_store.batch import BUCKET_ROWS
from feature_store.day_commits import fingerprint
from feature_store.encoded_set import EncodedSet, file_digest
from feature_store.errors import ModelError, MovelineError
from feature_store.home import cache_root
from feature_store.recipe import Recipe
from feature_store.revision import code_revision
from feature_store.vocabulary import Vocabulary
from models.artifact import OPTIMISER, WEIGHTS, Weights, describe, grown_weights, load_weights, save_artifact
from models.base import Model
from models.catalog import model_class
from models.cooccurrence import begin, item_vectors, repeat_odds, walks_of
from models.cross_stage import begun_from
from models.distributed import Place, process_group
from models.embeddings import capacities
from models.generator import Generator, about, cached_flow, copy_into, refuse_in_sample
from models.nif import Nif
from models.trainer import Stream, Trainer

SHARDS = 4
"""Logical shards of a training set: the most processes that can share it, and what global batches are made of."""

_ROOT = Path(__file__).resolve().parent.parent
_RESULT, _ERROR, _SPEC = "result.json", "error.txt", "spec.json"
Launcher = Literal["process", "spark"]


class Spec(BaseModel):
    """One training run, as a rank reads it. Folders of encoded sets; see `feature_store.encoded_set`.

    A model that reads flows has a `pool` of negatives. One that reads a generator's flow names it, and the files of
    `models.generator.cached_flow` for both sets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    settings: dict[str, Any]
    rows: dict[str, int]
    train: str
    validate_on: str | None
    vocabulary: str | None
    warm_from: str | None
    checkpoints: str
    out: str
    resume: bool
    stop_after: int | None = None
    pool: str | None = None
    generator: str | None = None
    flow: str | None = None
    validate_flow: str | None = None


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes
    ----------
    folder : the artifact (`models.artifact.load_artifact`). history : figures by epoch. losses : loss of every global batch.
    seconds : wall time, start of processes included.
    """

    folder: Path
    history: list[dict[str, Any]]
    losses: list[float]
    seconds: float


def train(recipe: Recipe, model_name: str, train_set: EncodedSet, validate_set: EncodedSet | None, out: str | Path, *,
          vocabulary: str | Path | None = None, processes: int = 1, launcher: Launcher = "process", resume: bool = True,
          warm_from: str | Path | None = None, generator: str | Path | None = None) -> TrainResult:
    """Train a model of the recipe and write its artifact into `out`.

    A run is named by the bytes it is trained on, its settings and the code: run again, it goes on where it stopped, or is done.

    Parameters
    ----------
    vocabulary : Parquet file copied into the artifact. warm_from : artifact to start from; its tables grow to the new vocabulary.
    generator : artifact of the generator whose flow the model reads; it becomes part of the model's artifact.
    launcher : with several processes, torchrun on this machine or TorchDistributor on Spark's.

    Raises
    ------
    ModelError : no such model, a setting out of range, sets of the wrong kind or empty, a loss that is not finite, a generator that
        was trained on the rows that read it.
    """
    started = time.perf_counter()
    check_processes(processes)
    spec = spec_of(recipe, model_name, train_set, validate_set, Path(out), vocabulary, resume, warm_from, generator)
    launch(spec, processes, launcher)
    result = json.loads((Path(out) / _RESULT).read_text())
    return TrainResult(Path(out), result["history"], result["losses"], time.perf_counter() - started)


def check_processes(processes: int) -> None:
    """Raises ModelError when so many processes cannot share a training set."""
    if not 1 <= processes <= SHARDS:
        raise ModelError(f"processes is {processes}; a training set has {SHARDS} shards, so 1 to {SHARDS} can share it")


def spec_of(recipe: Recipe, name: str, train_set: EncodedSet, validate_set: EncodedSet | None, out: Path,
            vocabulary: str | Path | None, resume: bool, warm_from: str | Path | None,
            generator: str | Path | None = None) -> Spec:
    """The run that `train` launches with these arguments; raises as it does."""
    reads = model_class(name).reads
    for part in (train_set, validate_set):
        if part is not None and part.kind != reads:
            raise ModelError(f"model {name} reads {reads}; the set {part.name} at {part.folder} holds {part.kind}")
    if train_set.rows == 0:
        raise ModelError(f"model {name}: the training set at {train_set.folder} has no rows; see `split` in the recipe")
    if validate_set is not None and validate_set.rows == 0:
        validate_set = None
    previous = describe(warm_from)["rows"] if warm_from else None
    rows = capacities({table: size for table, size in train_set.table_rows.items() if table not in BUCKET_ROWS}, previous)
    settings = model_class(name).fitted(recipe.models.get(name, {}), train_set)
    ahead = _flows(train_set, validate_set, vocabulary, generator)
    key = fingerprint({"model": name, "settings": settings, "rows": rows, "train": train_set.digest, "code": code_revision(),
                       "validate": validate_set.digest if validate_set else "", "warm": _digest(warm_from), "shards": SHARDS,
                       "flow": Path(ahead["flow"]).name if ahead else ""})
    return Spec(model=name, settings=settings, rows=rows, train=str(train_set.folder), out=str(out.absolute()), resume=resume,
                validate_on=str(validate_set.folder) if validate_set else None, vocabulary=str(vocabulary) if vocabulary else None,
                warm_from=str(warm_from) if warm_from else None, pool=train_set.pool if reads == "flows" else None,
                checkpoints=str(cache_root(recipe.name) / "checkpoints" / f"{name}-{key}"), **ahead)


def _flows(train_set: EncodedSet, validate_set: EncodedSet | None, vocabulary: str | Path | None,
           generator: str | Path | None) -> dict[str, str]:
    """The generator's part of a spec."""
    if generator is None:
        return {}
    if vocabulary is None:
        raise ModelError("a model that reads a generator's flow needs the vocabulary of its pages")
    frozen, sets = Generator(generator, Vocabulary.load(vocabulary)), {"flow": train_set, "validate_flow": validate_set}
    refuse_in_sample(frozen, [found for found in sets.values() if found])
    return {"generator": str(generator), **{key: str(cached_flow(found, frozen)) for key, found in sets.items() if found}}


def _digest(artifact: str | Path | None) -> str:
    if artifact is None:
        return ""
    return fingerprint({name: file_digest(Path(artifact) / name) for name in (WEIGHTS, OPTIMISER)})


def launch(spec: Spec, processes: int, launcher: Launcher) -> None:
    """Run all ranks of a spec and wait for them. Raises what a rank raised, as one line."""
    out = Path(spec.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in (_RESULT, _ERROR):
        (out / name).unlink(missing_ok=True)
    path = out / _SPEC
    path.write_text(spec.model_dump_json(indent=1))
    if processes == 1:
        run_rank(str(path))
        return
    try:
        with _importable():
            _by_spark(path, processes) if launcher == "spark" else _by_torchrun(path, processes)
    except Exception as error:
        raise ModelError(_why(spec, processes, error)) from error


def _why(spec: Spec, processes: int, error: Exception) -> str:
    """What a rank raised, else that one ended without a word: it was killed, or could not start."""
    path = Path(spec.out) / _ERROR
    if path.is_file():
        return path.read_text()
    reason = f"exit code {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else str(error).splitlines()[0]
    return (f"model {spec.model}: one of its {processes} processes ended ({reason}); run it again, it goes on from its newest "
            "checkpoint")


def _by_torchrun(path: Path, processes: int) -> None:
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
                    "-m", "jobs.train", "--spec", str(path)], check=True)


def _by_spark(path: Path, processes: int) -> None:
    import torch
    from pyspark.ml.torch.distributor import TorchDistributor

    from feature_store.session import spark_session

    master = spark_session("moveline-train").sparkContext.master
    local = master.startswith("local[") or master == "local"
    TorchDistributor(num_processes=processes, local_mode=local, use_gpu=torch.cuda.is_available()).run(run_rank, str(path))


@contextmanager
def _importable() -> Iterator[None]:
    """Child processes find our packages, in a checkout as well."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def run_rank(path: str) -> None:
    """One rank of the run that a spec file describes. Rank 0 writes the artifact and result.json."""
    spec = Spec.model_validate_json(Path(path).read_text())
    try:
        with process_group() as place:
            _train_here(spec, place)
    except MovelineError as error:
        (Path(spec.out) / _ERROR).write_text(str(error))
        raise


def _train_here(spec: Spec, place: Place) -> None:
    model = model_class(spec.model).build(spec.settings, spec.rows)
    if isinstance(model, Nif) and model.config.begin == "walks" and not spec.warm_from:
        walks = walks_of(EncodedSet.load(spec.train).paths)
        begin(model, item_vectors(*walks, spec.rows["item"], model.config.dim), repeat_odds(*walks))
    trainer = Trainer(model, place, _stream(spec.train, spec, place, model, model.config.seed, spec.flow),
                      _stream(spec.validate_on, spec, place, model, None, spec.validate_flow) if spec.validate_on else None,
                      spec.checkpoints, _start(spec, model))
    history = trainer.fit(spec.resume, spec.stop_after)
    weights = trainer.weights()
    if place.rank == 0:
        if spec.generator:
            copy_into(spec.out, spec.generator)
        save_artifact(spec.out, model, weights, spec.vocabulary, {"history": history})
        result = {"history": history, "losses": trainer.progress.losses}
        (Path(spec.out) / _RESULT).write_text(json.dumps(result))


def _start(spec: Spec, model: Model) -> Weights | None:
    """Weights to begin with: an earlier version's, else the generator's; None begins fresh.

    A generator of folds gives no weights: each was trained on users whose pages the model learns from.
    """
    if spec.warm_from:
        return grown_weights(load_weights(spec.warm_from), model)
    if spec.generator and about(spec.generator)[0] == 1 and getattr(model.config, "init", True):
        return begun_from(spec.generator, model)[0]
    return None


def _stream(folder: str, spec: Spec, place: Place, model: Model, seed: int | None, flow: str | None) -> Stream:
    """Batches of an encoded set for this rank; without a seed, in order."""
    from feature_store.loader import FlowStream, PageStream, PairStream

    found = EncodedSet.load(folder)
    part = -(-model.config.items_a_batch // SHARDS)
    order: dict[str, Any] = {"rank": place.rank, "world": place.world, "shards": SHARDS, "seed": seed or 0,
                             "shuffle": seed is not None, "rows": spec.rows}
    if found.kind == "pages":
        return PageStream(found, items_a_batch=part, keep_users=model.keeps_users, flow=flow, **order)
    if isinstance(model, Nif) and spec.pool is not None:
        return FlowStream(found, futures_a_batch=part, pool=spec.pool, negatives=model.config.negatives, **order)
    return PairStream(found, pairs_a_batch=part, **order)


def main() -> None:
    """Entry of a rank that torchrun started."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description="One rank of a training run.")
    parser.add_argument("--spec", required=True, help="JSON file written by jobs.train.train")
    try:
        run_rank(parser.parse_args().spec)
    except MovelineError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
