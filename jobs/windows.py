"""The windows of time of one training run (`recipe.Split`): what trains, validates and tests, and the rows each may hold."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from feature_store.encoded_set import Kind
from feature_store.folds import FoldUsers
from feature_store.recipe import Recipe
from jobs.day import day_start

TRAIN, VALIDATE, TEST = "train", "validate", "test"


@dataclass(frozen=True)
class Window:
    """Rows whose cut lies in [start, end), of some users (None: of all).

    Pages and pairs whose label closes at or after `closed_before` are left out and counted; so are flows with any future at or
    after `end`, always: nothing a generator is trained on lies outside its window.
    """

    name: str
    start: datetime
    end: datetime
    closed_before: datetime | None = None
    users: FoldUsers | None = None


@dataclass(frozen=True)
class SplitTimes:
    """Boundaries of one training run, all UTC: train, validate, test follow each other without a gap."""

    train_start: datetime
    validate_start: datetime
    test_start: datetime
    test_end: datetime

    @property
    def windows(self) -> tuple[Window, Window, Window]:
        """Train and validation pages need a label that closed before the next window; test pages are taken as they are."""
        return (Window(TRAIN, self.train_start, self.validate_start, self.validate_start),
                Window(VALIDATE, self.validate_start, self.test_start, self.test_start),
                Window(TEST, self.test_start, self.test_end))


def split_times(recipe: Recipe, latest_day: str) -> SplitTimes:
    """The boundaries relative to the newest complete day, which is the last test day.

    Days that `split.generator_days` sets aside belong to no model but the generator: whatever ranks is trained on the same rows.

    Examples
    --------
    >>> from feature_store.recipe import Recipe
    >>> recipe = Recipe.model_validate({"name": "x", "source": {"inputs": {}, "events": [{"from": "a", "columns": {}}]}})
    >>> [str(w.start)[:16] for w in split_times(recipe, "2026-05-03").windows]
    ['2026-05-01 00:00', '2026-05-02 18:00', '2026-05-03 00:00']
    """
    split, end = recipe.split, day_start(latest_day) + timedelta(days=1)
    test = end - timedelta(days=split.test_days)
    return SplitTimes(test - timedelta(days=split.train_days - split.generator_days), test - timedelta(hours=split.validate_hours),
                      test, end)


def generator_windows(recipe: Recipe, latest_day: str, fold: int = 0) -> tuple[Window, Window, Window]:
    """The windows of a generator: the days set aside for it (all train days, when none are) and the test days.

    With `split.generator_folds`, generator `fold` trains and validates on the users outside its fold, and is tested on those in it.
    """
    split, times = recipe.split, split_times(recipe, latest_day)
    start = times.test_start - timedelta(days=split.train_days)
    end = times.train_start if split.generator_days else times.test_start
    validate = end - timedelta(hours=split.validate_hours)
    folds = split.generator_folds
    others, own = (None if folds == 1 else FoldUsers(fold, folds, inside) for inside in (False, True))
    return (Window(TRAIN, start, validate, users=others), Window(VALIDATE, validate, end, users=others),
            Window(TEST, times.test_start, times.test_end, users=own))


def windows_for(recipe: Recipe, latest_day: str, reads: Kind, fold: int = 0) -> tuple[Window, Window, Window]:
    """The train, validation and test window of a model that reads flows, or pages or pairs."""
    return generator_windows(recipe, latest_day, fold) if reads == "flows" else split_times(recipe, latest_day).windows


def days_of(windows: tuple[Window, ...]) -> list[str]:
    """The days (`YYYY-MM-DD`) that some windows touch, ascending."""
    return sorted({str((w.start + timedelta(days=n)).date()) for w in windows
                   for n in range(((w.end - timedelta(microseconds=1)).date() - w.start.date()).days + 1)})
