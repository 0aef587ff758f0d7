"""A Spark cluster of two workers on this machine, in processes of their own: what is not sent to them as it must be fails here."""

import os
from pathlib import Path

import pyspark

ROOT = Path(__file__).resolve().parents[2]


def cluster_env(folder: Path) -> dict[str, str]:
    """Environment of a process whose Spark is such a cluster; its workers keep their files below folder/spark/work."""
    # Workers keep their files below SPARK_HOME: a home of links keeps them out of the installed package.
    home, installed = folder / "spark", Path(pyspark.__file__).parent
    home.mkdir()
    for name in ("bin", "jars", "python"):
        if (installed / name).exists():
            (home / name).symlink_to(installed / name)
    (home / "conf").mkdir()
    (home / "conf" / "spark-defaults.conf").write_text("spark.executor.extraJavaOptions -XX:TieredStopAtLevel=1\n")
    return {**os.environ, "MOVELINE_MASTER": "local-cluster[2,1,1024]", "SPARK_HOME": str(home), "PYTHONPATH": str(ROOT)}
