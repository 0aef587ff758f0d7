import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from models.evaluation import evaluate_pages, evaluate_pairs
from models.report import DataPicture, report
from tests.models.test_evaluation import simulated

HISTORY = [{"epoch": n, "train_loss": 0.5 - 0.1 * n, "validate_loss": 0.5 - 0.05 * n, "validate_auc": 0.6} for n in range(3)]


def picture() -> DataPicture:
    found = DataPicture(pair_counts={"co_click": 12, "mono_click": 3_400, "co_non_click": 56_000})
    found.add_pages(pa.table({"moveline_item": [[1, 2, 3], [], [4]], "visit_scene": [[5, 6, 5], [6], []]}))
    found.add_pages(pa.table({"moveline_item": [[1]], "visit_scene": pa.array([[5, 6]], pa.list_(pa.int64()))}))
    return found


@pytest.fixture(scope="module")
def page() -> str:
    shown, truth = simulated(900)
    near = np.clip(truth + 0.1 * np.sin(np.arange(len(truth))), 0.01, 0.99)
    score = {"base_rate": np.full(len(truth), 0.2), "popularity": near}
    result = evaluate_pages(shown, truth, score, truth)
    scenes, lineage = {5: "home", 6: "search"}, {"day": "2026-05-03", "tables": "{}"}
    return report("shop-din & <friends>", result, HISTORY, picture(), scenes, lineage)


class Balanced(HTMLParser):
    """Fails on a tag that is closed without having been opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise AssertionError(f"</{tag}> closes nothing")


def test_the_page_is_one_well_formed_file_that_asks_nothing_of_the_network(page: str) -> None:
    checker = Balanced()
    checker.feed(page)
    assert checker.open == []
    assert not re.search(r"<(script|link|img|iframe)|url\(http|@import|src=|href=\"http", page)
    assert len(page.encode()) < 2_000_000


def test_the_page_shows_every_section_it_has_data_for(page: str) -> None:
    heads = re.findall(r"<h2>(.*?)</h2>", page)
    assert heads == ["Against the baselines", "Training", "ROC", "Calibration", "AUC by scenario", "Known truth",
                     "Moveline lengths", "From scene to scene", "Pairs", "Lineage"]
    assert page.count("<svg") == 6
    assert "shop-din &amp; &lt;friends&gt;" in page and "56,000" in page and "share of the gap closed" in page


def test_every_picture_is_xml_with_ids_of_its_own(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page, re.S)
    ids = [found for picture in pictures for found in re.findall(r'\bid="([^"]+)"', picture)]
    assert len(ids) == len(set(ids))
    for picture in pictures:
        ElementTree.fromstring(picture)
        asked = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', picture))
        assert asked <= set(re.findall(r'\bid="([^"]+)"', picture))


def test_the_same_numbers_give_the_same_page(page: str) -> None:
    shown, truth = simulated(50)
    result = evaluate_pages(shown, truth, {"base_rate": truth})
    assert len({report("x", result, HISTORY, picture(), {5: "home"}, {}) for _ in range(2)}) == 1


def test_transitions_are_counted_within_a_page_and_shared_out_by_row() -> None:
    found = picture()
    assert found.transitions == {(5, 6): 2, (6, 5): 1}
    assert found.moveline_lengths == {0: 1, 1: 2, 3: 1}
    names, shares = found.transition_shares({5: "home", 6: "search"})
    assert names == ["home", "search"] and shares.tolist() == [[0, 1], [1, 0]]


def test_pairs_and_empty_data_give_a_page_without_the_sections_they_lack() -> None:
    result = evaluate_pairs(np.array([0.9, 0.1]), np.array([0, 2]), np.ones(2), np.arange(2), {"popularity": np.zeros(2)})
    heads = re.findall(r"<h2>(.*?)</h2>", report("x", result, [], DataPicture(), {}, {}))
    assert heads == ["Against the baselines", "ROC", "Lineage"]
