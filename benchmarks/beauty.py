"""Next-item retrieval on Amazon Beauty: `nif` as the retriever, K = 1 and K > 1, and our own SASRec.

`PYTHONPATH=. python benchmarks/beauty.py Beauty.txt` trains every arm with some seeds, prints a table and then one line of JSON.
A line of the file is a user: its number, then items in order. Leave-one-out: the last item is the test, the one before it the
validation, the others train; the history of the test item holds the validation item. Every item is ranked, none is sampled. The
time of an event is its place in the line. Epochs are picked on validation NDCG@10; the test items are looked at once, at the end.

Ranked are all items (`all`), and those that are not in the history (`new`). No line of the file holds an item twice, which a model
with `repeats` is not told: it begins from how often an item of a training line has come again, and learns from there.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks import sasrec
from feature_store.batch import FlowBatch
from feature_store.collate import flow_batch
from feature_store.encoding import AGE_BUCKETS, ENCODED_FLOWS
from feature_store.loader import FlowStream
from feature_store.negatives import Pool
from models.cooccurrence import begin, item_vectors, repeat_odds
from models.distributed import process_group
from models.embeddings import capacities
from models.flow_metrics import best_cosine
from models.losses import Terms, combined
from models.nif import Flows, Nif
from models.trainer import Trainer

LONGEST = 50
"""Items of a history that count."""

_AT_ONCE = 1_024
Lines = Sequence[np.ndarray]
NIF: dict[str, Any] = {
    "layers": 1, "heads": 2, "dropout": 0.5, "history": LONGEST, "patience": 1, "diversity": 0.0, "velocity": 0.0, "epochs": 2,
    "repeats": True}
ARMS: dict[str, dict[str, Any]] = {
    "nif-1": {**NIF, "future": 1, "dim": 256, "items_a_batch": 256, "learning_rate": 5e-4, "epochs": 4},
    "nif-4": {**NIF, "future": 4, "dim": 128, "items_a_batch": 320, "learning_rate": 1e-3},
    "sasrec-begun": {"dim": 128, "layers": 1, "dropout": 0.5, "epochs": 6, "patience": 1, "begin": True, "repeats": True},
    "sasrec": {"dim": 64, "layers": 2, "dropout": 0.5, "epochs": 40, "patience": 3},
}
"""Settings of the arms, chosen on validation."""


def read(file: Path) -> list[np.ndarray]:
    """The items of every line, in order; items are numbered from 1 on."""
    return [np.array(line.split()[1:], np.int64) for line in file.read_text().splitlines()]


def encoded(lines: Lines, cuts: Sequence[tuple[int, int]], future: int) -> pa.Table:
    """Rows of `ENCODED_FLOWS`: a cut (line, place) has the items before the place as its moveline, `future` from it on."""
    walks = [lines[user][max(place - LONGEST, 0): place] for user, place in cuts]
    ahead = [lines[user][place: place + future] for user, place in cuts]
    past, coming = (np.concatenate([[0], np.cumsum([len(own) for own in rows])]) for rows in (walks, ahead))
    before = np.repeat(past[1:], np.diff(past)) - np.arange(past[-1])
    flat = {"moveline_item": np.concatenate(walks), "future_item": np.concatenate(ahead),
            "moveline_age": np.minimum(2 * np.log2(1 + before), AGE_BUCKETS - 1).astype(np.int64)}
    rows = np.arange(len(cuts))
    whole = {"user_id": pa.array(rows.astype(str)), "row": rows, "user": np.array([user for user, _ in cuts]), "cut_time": rows,
             "n_items": np.diff(coming)}
    columns = []
    for field in ENCODED_FLOWS:
        if field.name in whole:
            columns.append(whole[field.name])
            continue
        offsets = {"moveline": past, "future": coming}.get(field.name.split("_")[0], np.zeros(len(rows) + 1))
        values = flat.get(field.name, np.zeros(int(offsets[-1])))
        columns.append(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, field.type.value_type)))
    return pa.table(columns, schema=ENCODED_FLOWS)


def save(folder: Path, train: Lines, items: int, future: int) -> None:
    """The training set and its pool of negatives: a cut at the last item of a line and, for K > 1, one where K items are left."""
    cuts = [(user, place) for user, line in enumerate(train) for place in {len(line) - 1, max(1, len(line) - future)}]
    mixed = [cuts[n] for n in np.random.default_rng(0).permutation(len(cuts))]
    pq.write_table(encoded(train, mixed, future), folder / "train.parquet", row_group_size=8_192)
    item, count = np.arange(1, items + 1), np.bincount(np.concatenate(train), minlength=items + 1)[1:]
    Pool(pa.table({"item": item, "category": np.zeros_like(item), "count": np.maximum(count, 1)})).save(folder / "pool.parquet")


class Asked:
    """A stream of the cuts of some users before one item each: what comes next is asked, nothing is drawn."""

    def __init__(self, lines: Lines, rows: Mapping[str, int], pool: Pool) -> None:
        table = encoded(lines, [(user, len(line) - 1) for user, line in enumerate(lines)], 1).drop_columns(["user_id"])
        none = (np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.float32))
        parts = [table.slice(start, _AT_ONCE).combine_chunks() for start in range(0, len(table), _AT_ONCE)]
        self.batches = [flow_batch(part, rows, np.zeros(len(part), np.int64), pool, none) for part in parts]

    def steps(self, epoch: int) -> int:
        """Batches."""
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[FlowBatch]:
        """The batches, in order."""
        return iter(self.batches[start:])


def ranks(score: Tensor, wanted: Tensor, past: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """[n] and [n] how many other items score at least as high as the wanted one, of all items and of those not in the past.

    score : [n, items]. wanted : [n] items, from 1 on. past : rows and items.
    """
    better = score >= score.gather(1, wanted[:, None] - 1)
    every = better.sum(1) - 1
    better[past[0], past[1] - 1] = False
    return every, better.sum(1) - 1


def figures(rank: Tensor) -> dict[str, float]:
    """HR and NDCG at 5 and 10, of ranks from 0 on."""
    gain = 1 / torch.log2(rank.double() + 2)
    kinds = (("HR", torch.ones_like(gain)), ("NDCG", gain))
    return {f"{name}@{at}": float((own * (rank < at)).mean()) for at in (5, 10) for name, own in kinds}


class Retriever(Nif):
    """`nif` whose epochs are compared by NDCG@10 of the next item among new items."""

    catalogue = 0

    def validation_terms(self, output: Flows, batch: FlowBatch) -> Terms:
        """One less NDCG@10."""
        missed = batch.cuts * (1 - figures(self.rank(output, batch, False)[1])["NDCG@10"])
        return combined((1.0, (output.flow.new_tensor(missed), output.flow.new_tensor(batch.cuts))))

    def measures(self, output: Flows, batch: FlowBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """None: there are no negatives to recall futures among."""
        return {}

    def rank(self, output: Flows, batch: FlowBatch, first: bool) -> tuple[Tensor, Tensor]:
        """`ranks` of the next items by their largest cosine to any step of the flow, or to the first step alone."""
        item = torch.arange(1, self.catalogue + 1)
        score = best_cosine(output.flow[:, :1] if first else output.flow, self.items(item, torch.zeros_like(item)))
        score = score + self.lift(self.line(batch), item)
        line = batch.sparse["moveline_item"]
        row = torch.repeat_interleave(torch.arange(batch.cuts), line.lengths().long())
        return ranks(score, batch.sparse["future_item"].values(), (row, line.values()))


@torch.no_grad()
def judged(model: Retriever, asked: Asked) -> dict[str, dict[str, float]]:
    """Figures by how an item's score is formed and which items are ranked."""
    model.eval()
    found: dict[str, list[Tensor]] = {}
    for batch in asked.epoch(0):
        output = model(batch)
        for name in ("best", "first") if model.config.future > 1 else ("first",):
            every, new = model.rank(output, batch, name == "first")
            found.setdefault(f"{name}, all", []).append(every)
            found.setdefault(f"{name}, new", []).append(new)
    return {name: figures(torch.cat(own)) for name, own in found.items()}


def run_nif(lines: Lines, items: int, settings: Mapping[str, Any], test: bool) -> dict[str, Any]:
    """Train `nif` through the project's own stream and trainer; figures of the best epoch."""
    wall, cpu = time.perf_counter(), time.process_time()
    train, rows = [line[:-2] for line in lines], capacities({"item": items + 1, "category": 1, "scene": 1, "action": 1})
    model = fresh(settings, rows, items)
    with tempfile.TemporaryDirectory() as name, process_group() as place:
        folder, config = Path(name), model.config
        save(folder, train, items, config.future)
        if config.begin == "walks":
            walks = np.concatenate(train), np.array([len(line) for line in train])
            begin(model, item_vectors(*walks, rows["item"], config.dim), repeat_odds(*walks))
        stream = FlowStream([str(folder / "train.parquet")], futures_a_batch=config.items_a_batch, pool=folder / "pool.parquet",
                            negatives=config.negatives, shards=1, seed=config.seed, rows=rows)
        pool = Pool.load(folder / "pool.parquet")
        validation = Asked([line[:-1] for line in lines], rows, pool)
        trainer = Trainer(model, place, stream, validation, folder / "checkpoints")
        history = trainer.fit()
        found = fresh(settings, rows, items)
        found.load_state_dict(trainer.weights().model)
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return {**seconds, "epochs": len(history), "best_epoch": trainer.progress.best_epoch, "validation": judged(found, validation),
            "by_epoch": [1 - epoch["validate_loss"] for epoch in history],
            **({"test": judged(found, Asked(lines, rows, pool))} if test else {})}


def fresh(settings: Mapping[str, Any], rows: Mapping[str, int], items: int) -> Retriever:
    """An untrained retriever."""
    model = Retriever.build(settings, rows)
    if not isinstance(model, Retriever):
        raise TypeError("build gives the class it is called on")
    model.catalogue = items
    return model


def run_sasrec(lines: Lines, items: int, settings: Mapping[str, Any], test: bool) -> dict[str, Any]:
    """The same for SASRec. settings : of `sasrec.Settings`."""
    wall, cpu = time.perf_counter(), time.process_time()
    train = [line[:-2] for line in lines]
    chosen = sasrec.Settings(**settings)
    walks = np.concatenate(train), np.array([len(line) for line in train])
    start = item_vectors(*walks, items + 1, chosen.dim) if chosen.begin else None

    def asked(model: sasrec.SasRec, known: Lines) -> dict[str, dict[str, float]]:
        parts = [known[n: n + _AT_ONCE] for n in range(0, len(known), _AT_ONCE)]
        found = [_sasrec_ranks(model, part) for part in parts]
        return {f"first, {name}": figures(torch.cat([own[n] for own in found])) for n, name in enumerate(("all", "new"))}

    validation = [line[:-1] for line in lines]
    history: list[float] = []

    def judge(model: sasrec.SasRec) -> float:
        history.append(asked(model, validation)["first, new"]["NDCG@10"])
        return history[-1]

    model, best = sasrec.train(train, items, chosen, judge, start, repeat_odds(*walks))
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return {**seconds, "epochs": len(history), "best_epoch": best, "validation": asked(model, validation), "by_epoch": history,
            **({"test": asked(model, lines)} if test else {})}


def _sasrec_ranks(model: sasrec.SasRec, lines: Lines) -> tuple[Tensor, Tensor]:
    past = [line[:-1][-LONGEST:] for line in lines]
    row = torch.repeat_interleave(torch.arange(len(lines)), torch.tensor([len(own) for own in past]))
    wanted = torch.tensor([int(line[-1]) for line in lines])
    return ranks(sasrec.scores(model, past), wanted, (row, torch.from_numpy(np.concatenate(past))))


def table(results: Mapping[str, Sequence[Mapping[str, Any]]], part: str) -> str:
    """A row an arm and way to score: mean and spread (standard deviation) over the seeds."""
    rows = [f"{'':44} HR@5           NDCG@5         HR@10          NDCG@10        cpu s"]
    for arm, runs in results.items():
        for way in runs[0].get(part, {}):
            cells = [_spread([run[part][way][name] for run in runs]) for name in ("HR@5", "NDCG@5", "HR@10", "NDCG@10")]
            rows.append(f"{arm + ', ' + way:44} {' '.join(cells)} {statistics.mean(r['cpu_seconds'] for r in runs):5.0f}")
    return "\n".join(rows)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}"


def main() -> None:
    """Train the arms asked for and print what they reach."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("file", type=Path)
    asked.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings than those chosen: no test")
    given = asked.parse_args()
    torch.set_num_threads(1)
    lines = read(given.file)
    items = max(int(line.max()) for line in lines)
    other = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in given.set)}
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(given.seeds):
        for arm in given.arms:
            run, settings = (run_sasrec if arm.startswith("sasrec") else run_nif), {**ARMS[arm], **other, "seed": seed}
            results.setdefault(arm, []).append({"seed": seed, "settings": settings, **run(lines, items, settings, not other)})
            sys.stderr.write(f"{arm}, seed {seed}: {json.dumps(results[arm][-1])}\n")
    for part in ("validation", *(() if other else ("test",))):
        sys.stdout.write(f"{part}\n{table(results, part)}\n")
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
