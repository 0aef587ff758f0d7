"""Pairs of the real logs: the figures are known from elsewhere and must come out exactly."""

import pytest
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import PAIR_KINDS
from feature_store.recipe import Pages
from jobs import pages, pairs


def sampled(kind: str) -> Column:
    # One parameter only: Spark hands a second one the element's index.
    return F.sum(F.size(F.filter("kind", lambda k: k == kind)))


@pytest.mark.real
@pytest.mark.parametrize(("name", "n_pages", "several_clicks", "counts"), [
    ("trivago", 9_267, 1_814, (4_838, 2_170_635, 257_230)),
    ("ebnerd", 1_046, 1, (1, 81_454, 9_808)),
])
def test_pair_counts_of_a_real_log_are_exact(spark: SparkSession, request: pytest.FixtureRequest, name: str, n_pages: int,
                                             several_clicks: int, counts: tuple[int, ...]) -> None:
    log = request.getfixturevalue(name)
    recipe, lake = log.recipe.model_copy(update={"pages": Pages(cuts=["at_show"])}), log.lake  # what pairs are made from
    for ds in log.days:
        pages.build(spark, recipe, lake, ds, f"conf/{recipe.name}.yaml")
        pairs.build(spark, recipe, lake, ds)
    rows = lake.read(spark, "pairs")
    found = rows.agg(F.count("*"), F.sum((F.col("n_clicked") > 1).cast("int")), *(F.sum(k) for k in PAIR_KINDS)).first()
    assert tuple(found or ()) == (n_pages, several_clicks, *counts)
    kept = rows.agg(*(sampled(kind) for kind in PAIR_KINDS)).first()
    most = rows.agg(*(F.sum(F.least(F.col(k), F.lit(recipe.pairs.max_a_page))) for k in PAIR_KINDS)).first()
    assert tuple(kept or ()) == tuple(most or ())
    weighted = lake.read(spark, "pair_counts").agg(*(F.sum(k) for k in PAIR_KINDS)).first()
    assert tuple(weighted or ()) == pytest.approx(counts)
