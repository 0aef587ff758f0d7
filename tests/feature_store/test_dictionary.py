"""The data dictionary is what the contracts say."""

from feature_store.contracts import CONTRACTS
from feature_store.dictionary import PAGE, dictionary


def test_the_data_dictionary_is_current_and_has_every_column() -> None:
    page = dictionary()
    assert PAGE.read_text() == page, "run `python -m feature_store.dictionary`"
    for contract in CONTRACTS.values():
        own = page.split(f"\n## {contract.name}\n")[1].split("\n## ")[0]
        assert all(f"| `{name}` |" in own for name in contract.columns)
