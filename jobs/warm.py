"""Where a warm start begins: the champion's weights, which fit as long as its vocabulary is an earlier state of this run's."""

from pathlib import Path

from feature_store.errors import ModelError
from feature_store.vocabulary import FIELDS, Vocabulary
from models.artifact import VOCABULARY
from models.registry import CHAMPION, Fetched, Registry


def champion(registry: Registry, name: str) -> Fetched:
    """The champion of a registered model. Raises ModelError when there is none."""
    found = registry.by_alias(name)
    if found is None:
        raise ModelError(f"{name} has no version with the alias {CHAMPION} to start from; train one without --warm first")
    return Fetched(found, registry.folder(found))


def check_fits(start: Fetched, vocabulary: Path) -> None:
    """The rows of the champion's tables mean what they will mean now.

    Raises
    ------
    ModelError : an id of the champion has another index now, or none; it would get another id's vector.
    """
    old, new = Vocabulary.load(start.folder / VOCABULARY), Vocabulary.load(vocabulary)
    own = {field: old.entries(field) for field in FIELDS}
    moved = sum(int((new.encode(field, own[field]["id"]) != own[field]["index"].to_numpy()).sum()) for field in FIELDS)
    if moved or old.buckets != new.buckets:
        raise ModelError(f"{start.version.uri} was trained with a vocabulary that is no earlier state of this one ({moved} of its "
                         "ids have another index or none): train without --warm, or on later days of the same tables")
