"""The page of all keys of a recipe."""

from jobs.recipe_page import PAGE, recipe_page


def test_the_page_of_keys_is_that_of_the_contracts() -> None:
    assert PAGE.read_text() == recipe_page(), "run `python -m jobs.recipe_page`"
