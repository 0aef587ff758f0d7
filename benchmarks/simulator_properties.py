"""Print what can be known of the clicks of a simulated recipe: best AUC, gap in log loss, and how much of it simple rules close.

    python benchmarks/simulator_properties.py [--conf conf/simulated.yaml] [--users 4000]

The first days of the recipe train, the last one tests. Nothing is written; no Spark is started.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score

from feature_store.recipe import load_recipe
from feature_store.simulator.raw import BLOCK, unix_day
from feature_store.simulator.settings import SimulatorSettings, settings_of
from feature_store.simulator.slates import Slates, slates_of
from feature_store.simulator.walk import Walk, walk_of

LAST = (3, 8, 20, 50)
FUTURE = 8
NAMES = [*(f"same category in last {n}" for n in LAST), "ring neighbours in last 8", "ring neighbours in last 50",
         "same category in the last hour", "trigger's category", "position", "scenario"]
SIMPLE = [2, 3, 7, 8]


def tokens_of(walks: list[tuple[Walk, Slates]], categories: int) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """User -> times, categories and the number of the page clicked on (-1 for none) of everything the user did, in order."""
    users, times, kinds, pages = [], [], [], []
    for walk, slates in walks:
        row, step = np.nonzero(walk.real)
        page, slot = np.nonzero(slates.clicked)
        users += [walk.user[row], slates.user[page]]
        times += [walk.time[row, step], slates.click_time[page, slot]]
        kinds += [walk.category[row, step], slates.item[page, slot] % categories]
        pages += [np.full(len(row), -1), slates.shown_time[page]]
    user, time_, kind, page = (np.concatenate(a) for a in (users, times, kinds, pages))
    order = np.lexsort((time_, user))
    user, time_, kind, page = user[order], time_[order], kind[order], page[order]
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    ends = np.r_[starts[1:], len(user)]
    return {int(user[a]): (time_[a:b], kind[a:b], page[a:b]) for a, b in zip(starts, ends, strict=True)}


def rows_of(settings: SimulatorSettings, day: list[tuple[Walk, Slates]], tokens: dict) -> Iterator[tuple[np.ndarray, ...]]:
    """Features, label, true probability, item and position of the viewed items, page by page; the last feature looks ahead."""
    for _, slates in day:
        for p, user in enumerate(slates.user):
            times, kinds, pages = tokens[int(user)]
            n = np.searchsorted(times, slates.shown_time[p])
            past, ages = kinds[max(0, n - 50):n], slates.shown_time[p] - times[max(0, n - 50):n]
            later = kinds[n:][pages[n:] != slates.shown_time[p]][:FUTURE]
            category = slates.item[p] % settings.categories
            first = category - category % settings.ring
            sides = [first + (category + s) % settings.ring for s in (1, settings.ring - 1)]
            counts = [_count(past[-m:], settings) for m in LAST]
            columns = [*(c[category] for c in counts), *(counts[k][sides[0]] + counts[k][sides[1]] for k in (1, 3)),
                       _count(past[ages < 3_600_000_000], settings)[category], category == slates.trigger[p] % settings.categories,
                       np.arange(len(category)), np.full(len(category), slates.scenario[p]), _count(later, settings)[category]]
            seen = slates.viewed[p]
            yield (np.stack(columns, 1)[seen], slates.clicked[p][seen], slates.click_probability[p][seen], slates.item[p][seen],
                   np.flatnonzero(seen))


def _count(kinds: np.ndarray, settings: SimulatorSettings) -> np.ndarray:
    return np.bincount(kinds[kinds >= 0], minlength=settings.categories)


def main() -> None:
    """Simulate, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conf", default="conf/simulated.yaml")
    parser.add_argument("--users", type=int, default=4_000)
    options = parser.parse_args()
    recipe = load_recipe(options.conf)
    settings = settings_of(recipe).model_copy(update={"users": options.users})
    start = time.process_time()
    days = [[(w := walk_of(settings, np.arange(b, b + BLOCK), unix_day(recipe.days.last) + d), slates_of(settings, w))
             for b in range(0, options.users, BLOCK)] for d in (-2, -1, 0)]
    spent = time.process_time() - start
    tokens = tokens_of([pair for day in days for pair in day], settings.categories)
    parts = [[np.concatenate(c) for c in zip(*rows_of(settings, day, tokens), strict=True)] for day in days]
    train, test = [np.concatenate(c) for c in zip(*parts[:2], strict=True)], parts[2]
    report(settings, train, test)
    print(f"{'CPU seconds to simulate three days of ' + str(options.users) + ' users':52} {spent:8.1f}")


def report(settings: SimulatorSettings, train: list[np.ndarray], test: list[np.ndarray]) -> None:
    """Print the table."""
    base = train[1].mean()
    constant, truth = (log_loss(test[1], p) for p in (np.full(len(test[1]), base), test[2]))

    def line(name: str, score: np.ndarray) -> None:
        print(f"{name:52} {(constant - log_loss(test[1], score)) / (constant - truth):8.3f} {roc_auc_score(test[1], score):8.3f}")

    print(f"viewed items: {len(train[1])} train, {len(test[1])} test; clicked {base:.4f}")
    print(f"log loss of the test day: constant {constant:.4f}, truth {truth:.4f}")
    print(f"{'':52} {'of gap':>8} {'AUC':>8}")
    line("the true probabilities", test[2])
    shows, clicks = (np.bincount(train[3], w, minlength=settings.items) for w in (None, train[1]))
    line("popularity (clicks + 100 base) / (shows + 100)", ((clicks + 100 * base) / (shows + 100))[test[3]])
    rates = np.bincount(train[4], train[1]) / np.bincount(train[4])
    line("position alone", rates[test[4]])
    every = list(range(len(NAMES)))
    for name, columns in (("boosting on counts of 20 and 50, trigger, position", SIMPLE), ("boosting on all features", every),
                          ("boosting on all and the next 8 tokens (oracle)", [*every, len(NAMES)])):
        model = HistGradientBoostingClassifier(max_iter=150, random_state=0).fit(train[0][:, columns], train[1])
        line(name, model.predict_proba(test[0][:, columns])[:, 1])


if __name__ == "__main__":
    main()
