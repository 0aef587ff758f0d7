"""Aliases by command: promote, promote, roll back, and what the history says of it. A real MLflow on SQLite."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from feature_store.errors import ConflictError, ModelError
from feature_store.recipe import load_recipe
from jobs import cli
from jobs.promote import promote, rollback, version_of
from models.registry import Registry, Version

RECIPE = {"name": "shop", "source": {"inputs": {"log": {"path": "log"}}, "events": [{"from": "log", "columns": {}}]}}


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe with two registered versions of din, and another recipe with one."""
    root = tmp_path_factory.mktemp("promote")
    path = root / "shop.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVELINE_HOME", str(root / "var"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MOVELINE_LAKE", raising=False)
        cli._load_commands()
        registry = Registry()
        for name, count in (("shop-din", 2), ("big-din", 1)):
            registry.client.create_registered_model(name)
            for n in range(count):
                registry.client.create_model_version(name, f"file:///nowhere/{n}")
        yield path


def moveline(*arguments: str) -> None:
    cli.app([*arguments], standalone_mode=False)


def test_the_history_after_promote_promote_and_rollback(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--conf", str(conf))
    moveline("history", *where)
    assert "no alias was ever set" in capsys.readouterr().out
    moveline("promote", "din", "1", *where)
    moveline("promote", "din", "2", *where, "--reason", "more days")
    moveline("rollback", "din", *where)
    assert capsys.readouterr().out.splitlines() == [
        "shop-din: version 1 is champion", "shop-din: version 2 is champion", "shop-din: version 1 is champion again"]
    Registry().set_alias(Registry().versions("big-din")[0])
    moveline("history", *where, "--json")
    found = json.loads(capsys.readouterr().out)
    assert [(e["action"], e["from_version"], e["to_version"], e["reason"]) for e in found] == [
        ("promote", 0, 1, "set by hand"), ("promote", 1, 2, "more days"), ("rollback", 2, 1, "back from version 2")]
    moveline("history")
    table = capsys.readouterr().out
    assert "big-din" in table and "rollback" in table and "more days" in table
    moveline("history", "din", *where)
    assert "big-din" not in capsys.readouterr().out
    with pytest.raises(ModelError, match=r"shop-din has no champion to go back to \(it stands on version 1\)"):
        rollback(load_recipe(conf), "din", "")


class Overtaken(Registry):
    """A registry in which somebody else promotes version 1 once a version was chosen."""

    def current(self, version: Version) -> Version:
        other = Registry()
        other.set_alias(next(v for v in other.versions(version.name) if v.version == 1))
        return super().current(version)


def test_of_two_promotions_by_hand_at_once_the_later_is_refused(conf: Path) -> None:
    recipe, registry = load_recipe(conf), Registry()
    promote(recipe, "din", "2", "", registry)
    with pytest.raises(ConflictError, match="shop-din: alias champion stands on version 1, and 2 was chosen against 2; nothing was "
                                            "changed, choose again"):
        promote(recipe, "din", "2", "", Overtaken())
    champion = registry.by_alias("shop-din")
    assert champion is not None and champion.version == 1


def test_a_version_is_named_by_number_or_alias_and_those_there_are_are_listed(conf: Path) -> None:
    recipe, registry = load_recipe(conf), Registry()
    registry.set_alias(version_of(recipe, "din", "2", registry), "challenger")
    assert version_of(recipe, "din", "challenger", registry).version == 2
    with pytest.raises(ModelError, match=r"shop-din has no version '7'; its versions are 2 \(challenger\), 1"):
        version_of(recipe, "din", "7", registry)
    with pytest.raises(ModelError, match="shop-nif has no registered version; `moveline train_model nif` makes one"):
        version_of(recipe, "nif", "1", registry)
