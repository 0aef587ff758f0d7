"""The deployed form scores raw ids as the encoded evaluation does, and refuses bad input in words."""

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_store.encoding import encode_pages
from feature_store.errors import InputError
from models import serving
from models.artifact import load_artifact
from models.baselines import lengths
from models.scoring import page_scores
from models.serving import PAGE_COLUMNS, PAIR_COLUMNS, Deployed, serving_pages, to_pages
from tests.models.registered import artifact, raw_pages, vocabulary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact(tmp_path_factory.mktemp("din"))


def deployed(folder: Path) -> Deployed:
    model = Deployed()
    model.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    return model


def test_rows_in_serving_form_are_encoded_as_the_table_is() -> None:
    pages, words = raw_pages(40), vocabulary()
    assert encode_pages(to_pages(serving_pages(pages)), words).drop(["clicked"]) == encode_pages(pages, words).drop(["clicked"])


def test_raw_ids_are_scored_as_the_encoded_pages_are(folder: Path) -> None:
    pages = raw_pages(40)
    encoded = page_scores(load_artifact(folder), encode_pages(pages, vocabulary()))
    served = deployed(folder).predict(None, serving_pages(pages))
    assert [len(s) for s in served["scores"]] == lengths(pages, "item_id").tolist()
    assert np.abs(np.concatenate(served["scores"].to_list()) - encoded).max() < 1e-5


def test_one_page_alone_is_scored_as_among_others(folder: Path) -> None:
    rows, model = serving_pages(raw_pages(8)), deployed(folder)
    alone = [model.predict(None, rows.iloc[[n]])["scores"].iloc[0] for n in range(8)]
    assert np.abs(np.concatenate(alone) - np.concatenate(model.predict(None, rows)["scores"].to_list())).max() < 1e-5


def test_no_rows_give_no_scores(folder: Path) -> None:
    assert deployed(folder).predict(None, serving_pages(raw_pages(2)).iloc[:0])["scores"].to_list() == []


def test_pairs_are_scored_alike_in_both_orders(tmp_path: Path) -> None:
    model = deployed(artifact(tmp_path, "item2vec"))
    rows = {"left_item": ["i1", "i2", "new"], "right_item": ["i2", "i1", "i3"], "left_category": ["c1", "c2", ""],
            "right_category": ["c2", "c1", "new"]}
    scores = model.predict(None, pd.DataFrame(rows))["score"]
    assert scores[0] == pytest.approx(scores[1]) and np.isfinite(scores).all()


def test_bad_input_is_refused_with_the_column_and_the_fix(folder: Path) -> None:
    model, rows = deployed(folder), serving_pages(raw_pages(2))
    with pytest.raises(InputError, match="the input lacks the columns price, visit_time; a row needs page_id, user_id"):
        model.predict(None, rows.drop(columns=["price", "visit_time"]))
    with pytest.raises(InputError, match=r"row 1: position has 1 values and item_id has \d; they need one value each"):
        model.predict(None, rows.assign(position=[rows["position"][0], [1]], item_id=[rows["item_id"][0], ["i1", "i2"]],
                                        category_id=[rows["category_id"][0], ["c1", "c2"]]))
    with pytest.raises(InputError, match=r"column position: .*; it must hold list<item: int32>"):
        model.predict(None, rows.assign(position=[["first"] * len(p) for p in rows["position"]]))
    with pytest.raises(InputError, match="column cut_time"):
        model.predict(None, rows.assign(cut_time="yesterday"))


PLAIN = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=3)
         | st.sampled_from(["i1", "c1", "", "\ud83d", 2**63]))
CELLS = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
                     max_leaves=6)


@pytest.fixture(scope="module")
def models(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Deployed]:
    return {"pages": deployed(folder), "pairs": deployed(artifact(tmp_path_factory.mktemp("pairs"), "item2vec"))}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reads=st.sampled_from(["pages", "pairs"]), changes=st.lists(st.tuples(st.integers(0, 40), CELLS), max_size=3),
       count=st.integers(0, 3))
def test_any_input_is_scored_or_refused_in_words(
        models: dict[str, Deployed], reads: str, changes: list[tuple[int, object]], count: int) -> None:
    names = PAGE_COLUMNS if reads == "pages" else PAIR_COLUMNS
    good = serving_pages(raw_pages(3)) if reads == "pages" else pd.DataFrame({name: ["i1", "i2", ""] for name in PAIR_COLUMNS})
    rows = good.head(count).to_dict(orient="records")
    for n, cell in changes:
        if rows:
            rows[n % len(rows)][names[n % len(names)]] = cell
    with suppress(InputError):
        found = models[reads].predict(None, pd.DataFrame(rows, columns=list(names)))
        assert len(found) == len(rows)
        assert np.isfinite(np.concatenate([np.ravel(score) for score in found.iloc[:, 0]] or [np.zeros(1)])).all()


def test_a_request_that_is_too_large_is_refused_before_it_is_scored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = deployed(folder), serving_pages(raw_pages(2))
    with pytest.raises(InputError, match="the request has 10002 rows; send at most 10000 at once"):
        model.predict(None, pd.concat([rows] * 5_001))
    monkeypatch.setattr(serving, "MAX_BYTES", 1_000)
    with pytest.raises(InputError, match=r"the request holds \d+ bytes; send at most 1000 at once"):
        model.predict(None, rows)
