"""An approximate index of item vectors for retrieval by inner product: a graph of neighbours (HNSW, arXiv 1603.09320) of faiss."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.errors import ModelError

INDEX, IDS = "items.faiss", "items.parquet"
_LINKS, _BUILD, _SEARCH = 32, 200, 128
"""Neighbours an item is linked with, and how many candidates are held while building and while searching."""


class Nearest:
    """Items by their vectors.

    Parameters
    ----------
    index : of the vectors. ids : raw item ids in its order.
    """

    def __init__(self, index: faiss.IndexHNSWFlat, ids: np.ndarray) -> None:
        self.index, self.ids = index, ids

    @classmethod
    def of(cls, ids: np.ndarray, vectors: np.ndarray) -> "Nearest":
        """Build from raw ids [n] and vectors [n, d] float32."""
        index = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = _BUILD, _SEARCH
        index.add(np.ascontiguousarray(vectors, np.float32))
        return cls(index, ids)

    def search(self, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """[q, count] raw ids (None beyond the last item) and inner products, largest first, for vectors [q, d]."""
        score, place = self.index.search(np.ascontiguousarray(vectors, np.float32), count)
        return np.append(self.ids, np.array([None]))[place], score

    def save(self, folder: str | Path) -> None:
        """Write index and ids into a folder."""
        faiss.write_index(self.index, str(Path(folder) / INDEX))
        pq.write_table(pa.table({"item_id": pa.array(self.ids, pa.string())}), Path(folder) / IDS)

    @classmethod
    def load(cls, folder: str | Path) -> "Nearest":
        """Read what `save` wrote. Raises ModelError when a file is missing or damaged, or they do not belong together."""
        try:
            index: Any = faiss.read_index(str(Path(folder) / INDEX))  # typed as any index, read as the one that was written
            ids = pq.read_table(Path(folder) / IDS)["item_id"].to_numpy()
        except (RuntimeError, OSError, KeyError) as error:
            raise ModelError(f"{folder}: {INDEX} or {IDS} is missing or damaged; run `moveline export`") from error
        if index.ntotal != len(ids):
            raise ModelError(f"{folder}: {INDEX} has {index.ntotal} items and {IDS} {len(ids)}; run `moveline export` again")
        index.hnsw.efSearch = _SEARCH
        return cls(index, ids)
