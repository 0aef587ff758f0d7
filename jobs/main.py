"""Entry of every Spark application: `spark-submit jobs/main.py JOB --conf conf/x.yaml --data FOLDER --ds 2026-05-01`.

The command `moveline JOB ...` runs the same function without spark-submit.
"""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# Python puts the folder of a script first on its path: modules of ours would shadow others of the same name.
sys.path[:] = [str(_HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != _HERE)]

from jobs.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
