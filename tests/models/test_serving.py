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
from models.kinds import READS
from models.scoring import page_scores
from models.serving import FLOW_COLUMNS, PAGE_COLUMNS, PAIR_COLUMNS, TOKENS, Deployed, RefusedInput, serving_pages, to_pages
from tests.models.registered import artifact, raw_pages, vocabulary
from tests.models.served import whole_artifact, whole_example


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
    with pytest.raises(InputError, match="column cut_time: a time is missing; it must hold timestamp"):
        model.predict(None, rows.assign(cut_time=None))
    with pytest.raises(InputError, match="column moveline_time: a time is missing"):
        model.predict(None, rows.assign(**{name: [[0, None]] * 2 for name in TOKENS}))
    with pytest.raises(InputError, match=r"column moveline_time: .*too large.*; it must hold list"):
        model.predict(None, rows.assign(moveline_time=[[2**63]] * 2))


PLAIN = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=3)
         | st.sampled_from(["i1", "c1", "", "\ud83d", 2**63]))
ODD = (None, True, -1, 2**31, 2**63, -2**63 - 1, 2**200, 1.5, float("nan"), float("inf"), -1e308, "", "i1", "\ud83d",
       "\x00", b"\xff", {})
"""One of each kind of thing that a caller can send where another is expected."""

CELLS = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
                     max_leaves=6)


@pytest.fixture(scope="module")
def models(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Deployed]:
    made = tmp_path_factory.mktemp("made")
    return {"pages": deployed(folder), **{READS[name]: deployed(whole_artifact(made / name, name)) for name in ("item2vec", "nif")}}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reads=st.sampled_from(["pages", "pairs", "flows"]), changes=st.lists(st.tuples(st.integers(0, 40), CELLS), max_size=3),
       count=st.integers(0, 3))
def test_any_input_is_scored_or_refused_in_words(
        models: dict[str, Deployed], reads: str, changes: list[tuple[int, object]], count: int) -> None:
    rows = good_rows(reads)[:count]
    for n, cell in changes:
        if rows:
            rows[n % len(rows)][COLUMNS[reads][n % len(COLUMNS[reads])]] = cell
    scored_or_refused(models[reads], rows, reads)


@pytest.mark.parametrize("reads", ["pages", "pairs", "flows"])
def test_each_odd_thing_in_each_column_is_scored_or_refused_in_words(models: dict[str, Deployed], reads: str) -> None:
    good = good_rows(reads)
    for name in COLUMNS[reads]:
        own = good[1][name]
        values = own if isinstance(own, list) else []
        for odd in ODD:
            for cell in (odd, [odd], [[odd]], [odd] * len(values), [*values[:1], odd]):
                scored_or_refused(models[reads], [good[0], good[1] | {name: cell}], reads)


COLUMNS = {"pages": PAGE_COLUMNS, "pairs": PAIR_COLUMNS, "flows": FLOW_COLUMNS}


def good_rows(reads: str) -> list[dict[str, object]]:
    names = COLUMNS[reads]
    good = pd.DataFrame({name: ["i1", "i2", ""] for name in names}) if reads == "pairs" else serving_pages(raw_pages(3), names)
    return good.to_dict(orient="records")


def scored_or_refused(model: Deployed, rows: list[dict[str, object]], reads: str) -> None:
    with suppress(RefusedInput):
        found = model.predict(None, pd.DataFrame(rows, columns=list(COLUMNS[reads])))
        assert len(found) == len(rows)
        assert np.isfinite(np.concatenate([np.ravel(score) for score in found.iloc[:, 0]] or [np.zeros(1)])).all()


@pytest.mark.parametrize("reads", ["pages", "pairs", "flows"])
def test_a_request_that_is_too_large_is_refused(models: dict[str, Deployed], monkeypatch: pytest.MonkeyPatch, reads: str) -> None:
    model = models[reads]
    name, text = {"pages": ("din", "user_id"), "pairs": ("item2vec", "left_item"), "flows": ("nif", "user_id")}[reads]
    row = whole_example(name).iloc[[0]]
    with pytest.raises(RefusedInput, match="the request has 10001 rows; send at most 10000 at once"):
        model.predict(None, row.loc[row.index.repeat(10_001)])
    monkeypatch.setattr(serving, "MAX_BYTES", 100_000)
    assert len(model.predict(None, row.assign(**{text: "x" * 90_000}))) == 1
    with pytest.raises(RefusedInput, match=r"the request holds 10\d{4} bytes; send at most 100000 at once"):
        model.predict(None, row.assign(**{text: "x" * 100_001}))


def test_a_user_without_a_name_is_one_user(tmp_path: Path) -> None:
    """A generator of folds looks at the name to choose the fold."""
    model, rows = deployed(whole_artifact(tmp_path / "amen", "amen")), whole_example("amen")
    nobody, empty = (model.predict(None, rows.assign(user_id=name))["scores"].to_list() for name in (None, ""))
    assert nobody == empty and nobody != model.predict(None, rows.assign(user_id="u2"))["scores"].to_list()
