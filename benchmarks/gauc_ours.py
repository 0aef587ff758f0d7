"""Our way of `benchmarks/gauc.py`."""

import pyarrow.parquet as pq

from benchmarks.timed import arguments, timed
from models.metrics import gauc


def main() -> None:
    """Write the value."""
    asked = arguments()
    user, clicked, score = (column.to_numpy() for column in pq.read_table(asked.input).columns)
    timed({"gauc": lambda path: path.write_text(repr(gauc(user, clicked, score)))}, asked)


if __name__ == "__main__":
    main()
