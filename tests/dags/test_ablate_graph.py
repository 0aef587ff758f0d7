"""The graph `ablate`, really run on a small random log: what it trains, and that it skips what is trained."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from feature_store.home import home
from jobs.ablation import prepare, run_arm
from models.registry import Registry
from tests.dags.test_operate_graphs import recorded, run_graphs
from tests.jobs.test_train_generators import AMEN, NIF, RANKED, conf, root  # noqa: F401


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(900)
def test_arms_are_mapped_tasks_and_what_is_trained_is_not_trained_again(root: Path, spark: SparkSession) -> None:  # noqa: F811
    recipe = conf(root, "small", RANKED, {"generator_folds": 2}, {"nif": NIF, "amen": AMEN, "din": {"dim": 4, "epochs": 1}})
    run_arm(recipe, prepare(recipe, spark=spark), "din", 1)
    [ran] = run_graphs(home(), recipe, ("ablate", {"conf": str(recipe), "seeds": 1, "arms": "din,no NIF"}))
    assert ran[:2] == ("success", {"plan": "success", "arm": "success", "collect": "success"})
    assert recorded(home(), "select rendered_map_index from task_instance where task_id = 'arm'") == [("no NIF 1",)]
    client = Registry().client
    [run] = client.search_runs([client.get_experiment_by_name("small").experiment_id], "tags.ablation != ''")
    assert {"din.gauc", "no NIF.gauc"} <= set(run.data.metrics)
