"""Two rivals of `benchmarks/loader.py`: petastorm as it comes, which needs lists of one length, and torch's own DataLoader."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from petastorm import make_batch_reader
from petastorm.transform import TransformSpec, edit_field
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

ROWS_A_BATCH = 1_024


def padded(files: list[str], workers: int, columns: Sequence[str], longest: int) -> int:
    """Row groups through petastorm's batch reader, whose transform pads every list with zeros: a dense tensor a column."""

    def pad(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({name: list(_dense(frame[name].tolist(), longest)) for name in columns})

    transform = TransformSpec(pad, edit_fields=[edit_field(name, np.int64, (longest,)) for name in columns])
    rows = 0
    with make_batch_reader([f"file://{file}" for file in files], schema_fields=list(columns), workers_count=workers,
                           shuffle_row_groups=False, transform_spec=transform) as reader:
        for group in reader:
            tensors = [torch.from_numpy(getattr(group, name)) for name in columns]
            rows += len(tensors[0])
    return rows


def _dense(lists: list[np.ndarray], longest: int) -> np.ndarray:
    """[n, longest] the lists, then zeros; without a loop over rows, as fast as numpy does it."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    found = np.zeros((len(lists), longest), np.int64)
    found[np.arange(longest) < lengths[:, None]] = np.concatenate(lists)
    return found


class Rows(Dataset):
    """Rows held in memory, each a tensor a column."""

    def __init__(self, files: list[str], columns: Sequence[str]) -> None:
        whole = pq.ParquetDataset(files).read(columns=list(columns)).to_pandas()
        self._columns = [whole[name].tolist() for name in columns]

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, row: int) -> list[torch.Tensor]:
        return [torch.from_numpy(column[row]) for column in self._columns]


def plain(files: list[str], columns: Sequence[str]) -> int:
    """A map-style data set and a DataLoader with its usual settings, whose collate function pads to the longest row of a batch."""

    def collate(rows: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        return [pad_sequence(list(column), batch_first=True) for column in zip(*rows, strict=True)]

    return sum(len(batch[0]) for batch in DataLoader(Rows(files, columns), batch_size=ROWS_A_BATCH, collate_fn=collate))
