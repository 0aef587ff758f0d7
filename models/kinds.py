"""What every model reads; here and not in `models.catalog`, which loads torch."""

from feature_store.encoded_set import Kind

READS: dict[str, Kind] = {"din": "pages", "item2vec": "pairs", "nif": "flows", "amen": "pages", "ccn": "pages", "dihn": "pages",
                         "dei2n": "pages", "two_tower": "pages", "target_attention": "pages", "tarq": "pages"}
"""Model name -> what a row is that it is trained on."""
