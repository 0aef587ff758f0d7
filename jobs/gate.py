"""The gate: a new version and the champion score the same closed pages; limits of the recipe decide who is champion."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import islice, takewhile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from feature_store.errors import ModelError
from feature_store.recipe import Recipe
from feature_store.tables import Lake
from jobs.day import day_start, days_until
from models.artifact import describe
from models.evaluation import Shown
from models.gate import Verdict, interval, judge
from models.ledger import NOBODY
from models.metrics import Floats
from models.ranker import INPUT, LABELS, Ranker
from models.registry import CHAMPION, Registry, Version

DECISION = "gate.decision"
"""Tag of a version that the gate is done with: `passed`, `refused: ...`, `waits: ...`, or why it was not compared."""

WAITS = "waits: "
"""What the decision of a version begins with for which no closed day was built yet (`gate.wait` of a recipe)."""

_PAGES_AT_ONCE = 2_048


@dataclass(frozen=True)
class Slice:
    """The pages two versions are compared on: of these days, those whose label is closed before a moment; and why these.

    fresh : the days lie after the windows of both, so that nobody looked at results on them.
    """

    days: tuple[str, ...]
    closed_before: datetime
    why: str
    fresh: bool = False


@dataclass(frozen=True)
class Decision:
    """What the gate found. against : the champion at that time. compared : None where nothing was compared, `note` says why.
    waits : it is too early to compare."""

    against: Version | None
    compared: Slice | None
    verdict: Verdict
    note: str
    waits: bool = False

    @property
    def text(self) -> str:
        """The decision in one line."""
        if not self.verdict.passed:
            return "refused: " + "; ".join(self.verdict.reasons)
        return "passed" if self.compared else f"{WAITS}{self.note}" if self.waits else self.note


def gate(recipe: Recipe, lake: Lake, candidate: Version, registry: Registry) -> Version:
    """Decide about a version, write decision and numbers on it, and make it champion unless the recipe says no. The champion is
    left as it is; so is, with `gate.wait`, a version that is to be compared on days which are not closed yet.

    Raises
    ------
    ModelError : a version cannot be loaded, or there is no page to compare on. ConflictError : the champion changed meanwhile.
    """
    if CHAMPION in registry.current(candidate).aliases:
        return registry.current(candidate)
    found = decide(recipe, lake, candidate, registry)
    registry.log_metrics(candidate, {f"gate.{key}": value for key, value in found.verdict.numbers.items()})
    registry.tag(candidate, {"gate.mode": recipe.gate.mode, "gate.against": found.against.uri if found.against else "(none)",
                             **({"gate.slice": found.note, "gate.days": ", ".join(found.compared.days)} if found.compared else {})})
    if not found.waits and (found.verdict.passed or recipe.gate.mode != "enabled"):
        registry.set_alias(candidate, CHAMPION, reason(found), numbers=headline(found.verdict.numbers),
                           instead_of=found.against.version if found.against else NOBODY)
    # Written last: a version with a decision is finished.
    registry.tag(candidate, {DECISION: found.text})
    return registry.current(candidate)


def waiting(recipe: Recipe, registry: Registry) -> list[Version]:
    """Versions of a recipe's models that wait for a day to be compared on, the oldest first; not those older than the champion."""
    found = []
    for name in (f"{recipe.name}-{model}" for model in recipe.models):
        champion = registry.by_alias(name)
        newer = (v for v in reversed(registry.versions(name)) if champion is None or v.version > champion.version)
        found += [v for v in newer if v.tags.get(DECISION, "").startswith(WAITS)]
    return found


def decide(recipe: Recipe, lake: Lake, candidate: Version, registry: Registry) -> Decision:
    """Compare a version with the champion; nothing is changed. Raises as `gate` does."""
    champion = registry.by_alias(candidate.name)
    folder = registry.folder(candidate)
    if recipe.gate.mode == "disabled":
        return Decision(champion, None, Verdict((), {}), "the gate is disabled")
    if describe(folder)["reads"] != "pages":
        return Decision(champion, None, Verdict((), {}), "ranks no pages: not compared")
    pages = slice_for(recipe, lake, candidate, champion)
    if champion and recipe.gate.wait and not pages.fresh:
        return Decision(champion, None, Verdict((), {}), "no day after both versions is closed yet", waits=True)
    other = Ranker(registry.folder(champion)) if champion else None
    shown, scores = scored(lake, pages, [Ranker(folder), *([other] if other else [])])
    verdict = judge(shown, scores[0], scores[1] if other else None, recipe.gate)
    return Decision(champion, pages, verdict, pages.why)


def slice_for(recipe: Recipe, lake: Lake, candidate: Version, champion: Version | None) -> Slice:
    """The first closed days after the windows of both; while there is none, the test days of the later window, on which neither was
    trained (but on which results were looked at).
    """
    both = [v for v in (candidate, champion) if v]
    last, test = max(_tag(v, "day") for v in both), max(json.loads(_tag(v, "days"))["test"][0] for v in both)
    built = lake.table("pages").days()
    end = day_start(built[-1]) + timedelta(1) if built else datetime.min
    after = (d for d in built if d > last)
    closed = list(islice(takewhile(partial(is_closed, recipe, lake), after), recipe.gate.days))
    if closed:
        return Slice(tuple(closed), end, f"the first closed days after {last}, the last day either version knows", True)
    own = tuple(d for d in built if test <= d <= last)
    return Slice(own, end, f"no day after {last} is closed yet: the later test days, which neither version was trained on")


def is_closed(recipe: Recipe, lake: Lake, day: str) -> bool:
    """Whether all labels of a day's pages are known, and none of its rows may still come, by the end of the newest day of pages."""
    newest = lake.table("pages").days()[-1]
    late = max((i.late_days for i in recipe.source.inputs.values() if "{ds}" in i.path), default=0)
    return day <= days_until(newest, late + 1)[0] and _last_label(lake, day) < day_start(newest) + timedelta(1)


def _tag(version: Version, name: str) -> str:
    if name not in version.tags:
        raise ModelError(f"{version.uri} does not say what it was trained on (it has no tag {name}); train it again")
    return version.tags[name]


def _last_label(lake: Lake, day: str) -> datetime:
    return pc.max(lake.table("pages").read_arrow([day], ["label_time"])["label_time"]).as_py()


def scored(lake: Lake, pages: Slice, rankers: list[Ranker]) -> tuple[Shown, list[Floats]]:
    """The items of a slice, and their scores by each model. Raises ModelError when the slice has no page."""
    scores: list[list[Floats]] = [[] for _ in rankers]
    shown: list[pa.Table] = []
    for part in pages_of(lake, pages):
        for number, ranker in enumerate(rankers):
            encoded = ranker.encoded(part)
            scores[number].append(ranker.scores(encoded))
        shown.append(encoded.select(Shown.COLUMNS))
    if not shown:
        raise ModelError(f"no closed page of {', '.join(pages.days) or 'any day'} to compare on; build the next day first")
    return Shown.of(pa.concat_tables(shown).combine_chunks(), {}), [np.concatenate(own) for own in scores]


def pages_of(lake: Lake, pages: Slice) -> Iterator[pa.Table]:
    """The rows of a slice with what a model reads and their labels, some thousands at a time."""
    closed = pc.field("label_time") < pa.scalar(pages.closed_before, pa.timestamp("us", tz="UTC"))
    for file in lake.table("pages").files(pages.days):
        source = pads.dataset(file, format="parquet")
        for batch in source.to_batches(columns=[*INPUT, *LABELS], filter=closed, batch_size=_PAGES_AT_ONCE):
            if len(batch):
                yield pa.Table.from_batches([batch])


def reason(found: Decision) -> str:
    """Why a version was promoted, for the ledger."""
    if found.compared is None:
        return found.note
    said = "gate passed" if found.verdict.passed else f"gate not enabled, it {found.text}"
    return f"{said}; {found.note} ({', '.join(found.compared.days)})"


def headline(numbers: dict[str, float]) -> dict[str, float]:
    """The few numbers that an entry of the ledger carries."""
    wanted = ("gauc", "gauc.difference", "gauc.difference.low", "gauc.difference.high", "ndcg_10.difference", "calibration_error")
    return {key: numbers[key] for key in wanted if key in numbers}


def told(version: Version, numbers: dict[str, float]) -> str:
    """A decided version in one line, for people."""
    compared = [f"{name} {interval(*(numbers[f'gate.{name}.difference{end}'] for end in ('', '.low', '.high')))}"
                for name in ("gauc", "ndcg_10") if f"gate.{name}.difference" in numbers]
    alias = f"alias {', '.join(version.aliases)}" if version.aliases else "no alias"
    return "; ".join([f"{version.name} version {version.version}: {version.tags.get(DECISION, 'not decided')}", *compared, alias])

