"""Kill -9 in the middle of a job, and two processes that write one day at once: real processes, a real lake."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import EVENTS
from feature_store.day_commits import DayCommit
from feature_store.recipe import Recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from jobs.movelines import build

DAY = "2026-01-05"
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
pytestmark = [pytest.mark.timeout(900), pytest.mark.drill]

WRITER = """
import json, sys
from feature_store.contracts import CONTRACTS
from feature_store.errors import ConflictError
from feature_store.recipe import Recipe
from feature_store.session import spark_session
from feature_store.tables import Lake, Table
from jobs.movelines import build


class Held(Table):
    # Has begun to write when it says so, and goes on when it is told to.

    def begin(self, ds, **partition):
        writer = super().begin(ds, **partition)
        if together:
            print("begun", flush=True)
            sys.stdin.readline()
        return writer


Lake.table = lambda self, name: (Held if name == "movelines" else Table)(self.root, CONTRACTS[name])
spark = spark_session("writer")
spark.range(1).count()
print("ready", flush=True)
while line := sys.stdin.readline():
    lake, day, recipe, together = json.loads(line)
    try:
        print(json.dumps([build(spark, Recipe.model_validate(recipe), Lake(lake), day).status]), flush=True)
    except ConflictError as error:
        print(json.dumps(["conflict", str(error)]), flush=True)
"""


def recipe(max_tokens: int) -> Recipe:
    """Another number of tokens gives the day another content."""
    return Recipe.model_validate({"name": "t", "movelines": {"max_tokens_a_day": max_tokens}, "source": {
        "inputs": {"raw": {"path": "x"}}, "events": [{"from": "raw", "columns": {}}]}})


def events(spark: SparkSession) -> DataFrame:
    draw, noon = random.Random(5), datetime(2026, 1, 5, 12, tzinfo=UTC)
    rows = []
    for n in range(3_000):
        at = noon + timedelta(seconds=draw.randint(0, 3_600))
        user, item = f"u{draw.randint(0, 99)}", f"i{draw.randint(0, 50)}"
        rows.append((f"e{n}", user, at, n, at, "home", "click", item, *[None] * 5, "upsert", None, DAY))
    return spark.createDataFrame(rows, spark_schema(EVENTS.schema))


class Writer:
    """A process with a Spark of its own that builds a day of a lake each time it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER], cwd=ROOT, text=True, start_new_session=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def heard(self) -> str:
        return self.process.stdout.readline().strip() if self.process.stdout else ""

    def go(self, lake: Lake, recipe: Recipe, together: bool = False) -> None:
        self.say(json.dumps([lake.root, DAY, recipe.model_dump(mode="json", by_alias=True), together]))

    def say(self, text: str) -> None:
        if self.process.stdin:
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        if self.alive:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def writers() -> Iterator[Callable[[int], list[Writer]]]:
    """Gives writers that are ready; those no test has killed serve the next one, because starting Spark takes long."""
    started: list[Writer] = []

    def ready(count: int) -> list[Writer]:
        living = [w for w in started if w.alive]
        new = [Writer() for _ in range(count - len(living))]
        started.extend(new)
        assert [w.heard() for w in new] == ["ready"] * len(new)
        return [*living, *new][:count]

    try:
        yield ready
    finally:
        for writer in started:
            writer.kill()
            for pipe in (writer.process.stdin, writer.process.stdout):
                if pipe:
                    with suppress(BrokenPipeError):
                        pipe.close()


def wait_for(seen: Callable[[], bool], writer: Writer) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not seen():
        assert writer.alive and time.monotonic() < limit, "the writer never got to the point at which it was to be killed"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def calm(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """A lake with the day's events, and the digests of the day of movelines, by recipe, when nothing disturbs its building."""
    lake = Lake(str(tmp_path_factory.mktemp("calm") / "lake"))
    lake.table("events").begin(DAY).commit(events(spark), counts={}, inputs={})
    digests = {}
    for cap in (8, 12, 16, 20):
        build(spark, recipe(cap), lake, DAY)
        digests[cap] = content(lake).digest
    return Path(lake.table("events").path), digests


@pytest.fixture
def ready(lake: Lake, calm: tuple[Path, dict[int, str]]) -> Lake:
    """A lake that has the day's events and nothing else."""
    shutil.copytree(calm[0], lake.table("events").path)
    return lake


def content(lake: Lake) -> DayCommit:
    found = lake.table("movelines").day(DAY)
    assert found is not None
    return found


def visible_tokens(spark: SparkSession, lake: Lake) -> list[int]:
    return [r.n_tokens for r in lake.read(spark, "movelines", [DAY]).collect()]


def test_of_two_processes_that_write_a_day_at_once_one_wins_on_the_first_write_and_on_a_rewrite(
        spark: SparkSession, ready: Lake, calm: tuple[Path, dict[int, str]], writers: Callable[[int], list[Writer]]) -> None:
    caps, lake, want = ((8, 12), (16, 20)), ready, calm[1]
    pair = writers(2)
    for round_caps in caps:
        for one, cap in zip(pair, round_caps, strict=True):
            one.go(lake, recipe(cap), together=True)
        assert [one.heard() for one in pair] == ["begun", "begun"]
        for one in pair:
            one.say("go on")
        said = [json.loads(one.heard()) for one in pair]
        winners = [cap for cap, answer in zip(round_caps, said, strict=True) if answer[0] == "built"]
        assert len(winners) == 1 and content(lake).digest == want[winners[0]]
        assert max(visible_tokens(spark, lake)) in winners and len(visible_tokens(spark, lake)) == 100
        lost = [answer[1] for answer in said if answer[0] != "built"]
        assert all("another writer committed it meanwhile" in message for message in lost)
    assert lake.table("movelines").version() >= 2


@pytest.mark.parametrize(("point", "exists"), [("computing", False), ("files_written", True), ("any_moment", True)])
def test_a_job_killed_at_any_point_leaves_the_old_day_and_runs_again_to_the_same_content(
        spark: SparkSession, ready: Lake, calm: tuple[Path, dict[int, str]], writers: Callable[[int], list[Writer]], point: str,
        exists: bool, recovery: Callable[[str], AbstractContextManager[None]]) -> None:
    lake, want = ready, calm[1][20]
    table, folder = lake.table("movelines"), Path(lake.table("movelines").path)
    if exists:
        build(spark, recipe(5), lake, DAY)
    before = set(folder.glob("ds=*/run=*"))

    def reached() -> bool:
        new = set(folder.glob("ds=*/run=*")) - before
        return any(point == "computing" or list(run.glob("part-*.parquet")) for run in new)

    pause = random.uniform(0.0, 2.0)
    [victim] = writers(1)
    victim.go(lake, recipe(20))
    if point == "any_moment":
        time.sleep(pause)
    else:
        wait_for(reached, victim)
    victim.kill()
    committed = table.day(DAY) if table.exists() else None
    late = committed is not None and committed.digest == want
    assert point == "any_moment" or not late, "it was killed after the commit, which is no kill at this point"
    if late:  # killed after the commit: all of the new day
        assert len(visible_tokens(spark, lake)) == 100 and max(visible_tokens(spark, lake)) == 20
    else:  # killed before it: all of the old day
        assert visible_tokens(spark, lake) == ([5] * 100 if exists else [])
    with recovery(f"a table's job killed ({point.replace('_', ' ')}): the table again"):
        build(spark, recipe(20), lake, DAY)
    assert content(lake).digest == want and len(visible_tokens(spark, lake)) == 100, f"killed after {pause} s"
    named = {Path(f).parent for f in table.files([DAY])}
    assert len(named) == 1


def test_a_driver_that_outlives_its_retry_changes_nothing_any_more(
        spark: SparkSession, ready: Lake, calm: tuple[Path, dict[int, str]], writers: Callable[[int], list[Writer]]) -> None:
    """Airflow has given it up and started the job again: the second try is done before the first wakes up."""
    lake, table = ready, ready.table("movelines")
    [old] = writers(1)
    old.go(lake, recipe(8), together=True)
    assert old.heard() == "begun"
    assert build(spark, recipe(20), lake, DAY).status == "built"
    version = table.version()
    old.say("go on")
    said = json.loads(old.heard())
    assert said[0] == "conflict" and "nothing of this run was made visible" in said[1]
    assert (table.version(), content(lake).digest) == (version, calm[1][20]) and max(visible_tokens(spark, lake)) == 20
    # What it wrote lies about until it is older than the longest job; then it goes, and only that.
    left = table.orphans(older_than_s=0)
    assert left and {Path(f).parent.name for f in left}.isdisjoint({Path(f).parent.name for f in table.files([DAY])})
    assert table.clean_orphans(older_than_s=0) == left and len(visible_tokens(spark, lake)) == 100


def test_running_twice_gives_the_same_content_and_no_new_version(spark: SparkSession, ready: Lake) -> None:
    lake = ready
    first = build(spark, recipe(20), lake, DAY)
    version, digest = lake.table("movelines").version(), content(lake).digest
    again = build(spark, recipe(20), lake, DAY)
    assert (first.status, again.status) == ("built", "skipped")
    assert (lake.table("movelines").version(), content(lake).digest) == (version, digest)
    # The same rows from other events (a new fingerprint): computed again, and the digest says that nothing changed.
    moved = lake.table("events").begin(DAY)
    moved.commit(events(spark).withColumn("query", F.lit("other")), counts={}, inputs={"x": "2"})
    assert build(spark, recipe(20), lake, DAY).status == "unchanged" and content(lake).digest == digest
