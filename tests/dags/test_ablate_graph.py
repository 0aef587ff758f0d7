"""The graph `ablate`, really run on a small random log: what it trains, and that a second run trains only what is new."""

from pathlib import Path

import mlflow
import pytest

from feature_store.home import home
from tests.dags.test_operate_graphs import run_graphs
from tests.jobs.test_train_generators import AMEN, NIF, RANKED, conf, root  # noqa: F401


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(900)
def test_arms_are_mapped_tasks_and_a_second_run_trains_only_what_is_new(root: Path) -> None:  # noqa: F811
    recipe = conf(root, "small", RANKED, {"generator_folds": 2}, {"nif": NIF, "amen": AMEN, "din": {"dim": 4, "epochs": 1}})
    given = {"conf": str(recipe), "seeds": 1}
    first, second = run_graphs(home(), recipe, ("ablate", {**given, "arms": "din"}), ("ablate", {**given, "arms": "din,no NIF"}))
    assert first[:2] == second[:2] == ("success", {"plan": "success", "arm": "success", "collect": "success"})
    [folder] = home().glob("cache/small/ablation/amen-*")
    assert sorted(path.name for path in (folder / "arms").iterdir()) == ["din-1", "no_NIF-1"]
    assert "no NIF, seed 1: gauc" in second[2] and second[2].count("din, seed 1: gauc") == 1
    runs = mlflow.search_runs(experiment_names=["small"], filter_string="tags.ablation != ''", output_format="list")
    assert len(runs) == 1 and {"din.gauc", "no NIF.gauc"} <= set(runs[0].data.metrics)
