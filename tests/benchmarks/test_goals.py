"""The page of benchmarks says of each goal what the figures say."""

from benchmarks.goals import BEGIN, END, PAGE, Measured, known, table


def test_the_table_of_the_page_is_that_of_the_figures() -> None:
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0] == table(known())


def test_a_goal_is_reached_from_the_side_it_names() -> None:
    least = Measured.of({"benchmark": "b", "what": "w", "measured": 3, "at least": 3, "date": "2026-12-01"})
    most = Measured.of({"benchmark": "b", "what": "w", "measured": 3, "at most": 2, "date": "2026-12-01"})
    assert (least.reached, most.reached) == (True, False) and most.times == 2 / 3
    assert "| ≤ 2 | **missed** |" in table([most]) and "| ≥ 3 | reached |" in table([least])
