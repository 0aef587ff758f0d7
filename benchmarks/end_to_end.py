"""Where the time of `moveline run` goes, from Airflow's own records: how much is Airflow and the start of JVMs, how much work.

    PYTHONPATH=. python benchmarks/end_to_end.py [--home var] [--plot docs/pictures/end_to_end.svg]

Reads what `make demo` (or `moveline run`) left below the state folder: the task instances of the newest backfill in Airflow's
database and the logs of the tasks, in which every line has its time. Nothing is run and nothing is changed. The time is that from
the moment the days were asked for until the last task ended; each moment counts once. Prints a table, a line a task and, on the
last line, JSON; exits with 1 when Airflow and the start of JVMs take more than 30 %.

scheduling: no task runs. airflow: a task's process is being made ready or is ended, or a task without Spark runs. start: from
`spark-submit` to the first work (JVM, Python's imports, SparkContext). stop: from the last line of work to the end of the JVM.
"""

import argparse
import json
import re
import sqlite3
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import pyplot

import benchmarks.plots  # noqa: F401  sets how pictures look
from feature_store.home import home
from jobs.follow import DAILY, TRAIN

GOAL = 0.30
OVERHEAD = ("scheduling", "airflow", "start", "stop")
COLOURS = {"airflow": "#9aa5b1", "start": "#d97706", "stop": "#f5c518", "tables": "#2563eb", "encode": "#0891b2",
           "train": "#059669", "judge": "#9333ea", "register": "#db2777"}

_NAMED = 4.0
"""Seconds that a table must have taken to be named in the picture."""
_TABLE = re.compile(r"^\d{4}-\d\d-\d\d (\w+) +(?:built|unchanged|skipped) .*? (\d+\.\d) s(?: |$)")
_TRAINED = re.compile(r" registered in (\d+) s; ")
_SUBMITTED, _CONTEXT, _ENDED = "Spark-Submit cmd", "Setting Spark log level", "::group::Post Execute"


@dataclass(frozen=True)
class Span:
    """Some seconds (unix time) of one task: what they were spent on, and what exactly."""

    task: str
    kind: str
    what: str
    begin: float
    end: float


@dataclass(frozen=True)
class Task:
    """A task instance of the run, in unix time."""

    name: str
    begin: float
    end: float
    log: Path


def tasks(state: Path) -> tuple[float, list[Task]]:
    """When the newest backfill was asked for, and the task instances that ran for it and for the training that it started."""
    with sqlite3.connect(f"file:{state / 'airflow' / 'airflow.db'}?mode=ro", uri=True) as database:
        newest, asked = database.execute("select id, created_at from backfill order by id desc limit 1").fetchone()
        found = database.execute(
            "select t.dag_id, t.run_id, t.task_id, t.map_index, t.try_number, t.start_date, t.end_date, r.data_interval_start, "
            "t.rendered_map_index from task_instance t join dag_run r on r.dag_id = t.dag_id and r.run_id = t.run_id "
            "where t.start_date is not null and ((r.dag_id = ? and r.backfill_id = ?) or (r.dag_id = ? and r.run_after > ?)) "
            "order by t.start_date", (DAILY, newest, TRAIN, asked)).fetchall()
    return _unix(asked), [_task(state, *row) for row in found]


def _task(state: Path, dag: str, run: str, task: str, index: int, attempt: int, begin: str, end: str, day: str | None,
          mapped: str | None) -> Task:
    folder = state / "airflow" / "logs" / f"dag_id={dag}" / f"run_id={run}" / f"task_id={task}"
    own = folder if index < 0 else folder / f"map_index={index}"
    return Task(" ".join(filter(None, (task, mapped, day and day[:10]))), _unix(begin), _unix(end), own / f"attempt={attempt}.log")


def _unix(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "")).replace(tzinfo=UTC).timestamp()


def lines(log: Path) -> list[tuple[float, str]]:
    """Time and text of every line of a task's log."""
    return [(_unix(line["timestamp"]), line["event"]) for line in map(json.loads, log.read_text().splitlines())]


def spans(task: Task, state: Path) -> list[Span]:
    """What the seconds of a task were spent on."""
    said = lines(task.log)
    submitted = next((time for time, text in said if text.startswith(_SUBMITTED)), None)
    if submitted is None:
        return [Span(task.name, "airflow", "a task without Spark", task.begin, task.end)]
    ended = max(time for time, text in said if text.startswith(_ENDED) or time <= submitted)
    work = _tables(task.name, said) or _training(task.name, said, state)
    if not work:
        raise SystemExit(f"{task.log}: says neither what tables were built nor what was registered; did the task fail?")
    first, last = min(span.begin for span in work), max(span.end for span in work)
    around = (("airflow", "made ready", task.begin, submitted), ("start", "JVM and Python", submitted, first),
              ("stop", "JVM", last, ended), ("airflow", "ended", ended, task.end))
    return [*(Span(task.name, kind, what, begin, end) for kind, what, begin, end in around if end > begin), *work]


def _tables(task: str, said: list[tuple[float, str]]) -> list[Span]:
    """Tables, one after the other. Several that are told of at once lie before that moment, in the order of the lines."""
    found: list[Span] = []
    until = float("inf")
    for time, text in reversed(said):
        if match := _TABLE.match(text):
            end = min(time, until)
            until = end - float(match[2])
            found.append(Span(task, "tables", match[1], until, end))
    return found[::-1]


def _training(task: str, said: list[tuple[float, str]], state: Path) -> list[Span]:
    """The stages of a training: how long it took in all is said; where a stage ended, the files that it wrote tell."""
    found = next(((time, float(match[1])) for time, text in said if (match := _TRAINED.search(text))), None)
    if found is None:
        return []
    ended, seconds = found
    context = next(time for time, text in said if text.startswith(_CONTEXT))
    begin = max(ended - seconds, context)  # seconds are rounded
    marks = {"encode": "vocabulary.parquet", "train": "model/model.json", "judge": "result.json"}
    model = task.split()[1]
    times = {stage: _written(state, model, name, begin, ended) for stage, name in marks.items()}
    if None in times.values():
        return [Span(task, "train", model, begin, ended)]
    edges = [begin, *(time for time in times.values() if time), ended]
    return [Span(task, stage, model, a, b) for stage, (a, b) in zip((*marks, "register"), pairwise(edges), strict=True)]


def _written(state: Path, model: str, name: str, after: float, before: float) -> float | None:
    found = [path.stat().st_mtime for path in state.glob(f"cache/*/runs/{model}-*/{name}")]
    return max((time for time in found if after < time < before), default=None)


def shares(asked: float, found: list[Span]) -> dict[str, float]:
    """Seconds a kind; of several spans at one moment the one that works counts, and a moment without any is scheduling."""
    rank = {kind: n for n, kind in enumerate((*OVERHEAD, *(k for k in COLOURS if k not in OVERHEAD)))}
    edges = sorted({asked, *(s.begin for s in found), *(s.end for s in found)})
    total = dict.fromkeys(rank, 0.0)
    for begin, end in pairwise(edges):
        now = [s.kind for s in found if s.begin <= begin and s.end >= end]
        total[max(now, key=rank.__getitem__, default="scheduling")] += end - begin
    return total


def plot(asked: float, found: list[Span], path: Path) -> None:
    """A Gantt picture: a row a task, coloured by what its seconds were spent on."""
    names = list(dict.fromkeys(span.task for span in found))
    figure, axes = pyplot.subplots(figsize=(10, 0.6 + 0.58 * len(names)))
    for span in found:
        seconds, row = span.end - span.begin, names.index(span.task)
        axes.barh(row, seconds, left=span.begin - asked, height=0.9, color=COLOURS[span.kind], edgecolor="white", linewidth=0.4)
        if span.kind == "tables" and seconds > _NAMED:
            axes.text((span.begin + span.end) / 2 - asked, row, span.what, ha="center", va="center", fontsize=6, color="white",
                      rotation=90)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="seconds since the days were asked for")
    axes.invert_yaxis()
    axes.legend(handles=[pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()], labels=list(COLOURS),
                ncols=len(COLOURS), loc="lower center", bbox_to_anchor=(0.4, 1.0), frameon=False, fontsize=8)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def show(asked: float, found: list[Span]) -> dict[str, Any]:
    """Print the table and the tasks; what the JSON line says."""
    total, by_what = shares(asked, found), dict[str, float]()
    whole = sum(total.values())
    for kind, seconds in total.items():
        print(f"{kind:12} {seconds:7.1f} s {seconds / whole:7.1%}")
    for span in found:
        if span.kind == "tables":
            by_what[span.what] = by_what.get(span.what, 0.0) + span.end - span.begin
    print("tables:", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in by_what.items()))
    for name in dict.fromkeys(span.task for span in found):
        own = [span for span in found if span.task == name]
        print(f"{own[0].begin - asked:6.0f} s  {name:30} " + ", ".join(
            f"{kind} {sum(s.end - s.begin for s in own if s.kind == kind):.1f}" for kind in dict.fromkeys(s.kind for s in own)))
    overhead = sum(total[kind] for kind in OVERHEAD) / whole
    print(f"{whole:.0f} s in all, of which {overhead:.1%} are Airflow and the start and stop of JVMs")
    return {"seconds": round(whole, 1), "overhead": round(overhead, 4), **{kind: round(s, 1) for kind, s in total.items()},
            "tables_by_name": {name: round(s, 1) for name, s in by_what.items()}}


def main() -> None:
    """Read, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=home(), help="state folder of the run; default: MOVELINE_HOME")
    parser.add_argument("--plot", type=Path, help="SVG file to draw the Gantt picture into")
    given = parser.parse_args()
    asked, ran = tasks(given.home)
    found = [span for task in ran for span in spans(task, given.home)]
    result = show(asked, found)
    if given.plot:
        plot(asked, found, given.plot)
    print(json.dumps(result))
    if result["overhead"] > GOAL:
        sys.exit(f"Airflow and the start of JVMs take {result['overhead']:.1%}; the goal is {GOAL:.0%}")


if __name__ == "__main__":
    main()
