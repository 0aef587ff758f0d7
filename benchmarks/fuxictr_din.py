"""FuxiCTR's own DIN and its own loader, trained for some seconds: the rival of `train`, run by the Python of its environment.

Only `benchmarks/pace.py` and the files that `benchmarks/din_data.py` wrote are ours. Prints one JSON line.
"""

import argparse
import itertools
import json
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuxictr
import torch
from fuxictr.features import FeatureMap
from model_zoo.LongCTR.DIN.DIN import DIN
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader

from benchmarks.pace import pace

WIDTHS: dict[str, dict[str, Any]] = {
    "own": {},  # the defaults of its DIN: 64 hidden units with Dice in the activation unit, 512, 128 and 64 in the network
    "ours": {"attention_hidden_units": [8], "attention_hidden_activations": "ReLU", "dnn_hidden_units": [64, 32]},
}


def feature_map(asked: argparse.Namespace) -> FeatureMap:
    """What the columns are: those of items are looked up for every token and for the shown item."""
    found = FeatureMap("page", str(asked.data))
    small = {"scene": 12, "scenario": 10, "hour": 32, "position": 256}
    item = {"type": "categorical", "source": "item", "padding_idx": 0}
    features = {
        "item_id": {**item, "vocab_size": asked.items}, "cate_id": {**item, "vocab_size": 500},
        **{name: {"type": "categorical", "source": "context", "vocab_size": size} for name, size in small.items()},
        "trigger_item": {"type": "categorical", "source": "context", "vocab_size": asked.items, "share_embedding": "item_id"},
        "trigger_category": {"type": "categorical", "source": "context", "vocab_size": 500, "share_embedding": "cate_id"},
        **{name: {"type": "meta"} for name in ("item_index", "user_index", "seq_len")},
    }
    found.features = OrderedDict(features)
    found.labels, found.default_emb_dim = ["clicked"], asked.dim
    return found


def model(asked: argparse.Namespace, known: FeatureMap, folder: str) -> DIN:
    """Its DIN with Adam, as its experiments run it."""
    made = DIN(known, embedding_dim=asked.dim, optimizer="adam", loss="binary_crossentropy", metrics=["logloss"], verbose=0,
               model_root=folder, net_dropout=0.1, **WIDTHS[asked.widths])
    made._max_gradient_norm, made._batch_index = 10.0, 0  # as its `fit` sets them
    return made.train()


def batches(asked: argparse.Namespace, known: FeatureMap) -> Iterator[Any]:
    """Batches of its loader, epoch after epoch; those of `--memory` are made before anything is timed."""
    loader = LongCTRDataLoader(known, str(asked.data / "impressions.parquet"), str(asked.data / "histories.parquet"),
                               str(asked.data / "items.parquet"), batch_size=asked.batch, shuffle=True, num_workers=1, max_len=50)
    if asked.memory:
        return itertools.cycle(list(itertools.islice(loader, asked.memory)))
    return itertools.chain.from_iterable(itertools.repeat(loader))


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--widths", choices=WIDTHS, default="own")
    for name, usual in (("items", 1_000_000), ("dim", 16), ("batch", 4_096), ("threads", 1), ("memory", 0)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    known = feature_map(asked)
    with tempfile.TemporaryDirectory() as folder:
        din = model(asked, known, folder)
        found = pace(batches(asked, known), lambda batch: din.train_step(batch).item(), lambda batch: len(batch[2]), asked.seconds)
    print(json.dumps({**found, "version": fuxictr.__version__, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
