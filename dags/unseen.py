"""unseen: train every arm on all scenarios but one and test it there, for one scenario after the other; one table and one plot.

Started by hand. What is finished is skipped, so that a run that was stopped goes on where it was.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Param, dag, task

from dags import common


@dag(
    schedule=None, start_date=common.ALWAYS, catchup=False, max_active_runs=1, default_args=common.defaults(),
    params={
        **common.params(),
        "seeds": Param(3, type="integer", minimum=1, maximum=20, description="every arm is trained with the seeds 1 to this"),
        "arms": Param("", type="string", description="arms, separated by commas; empty: ccn, its rivals and its controls"),
        "scenarios": Param("", type="string", description="scenarios to hold out, separated by commas; empty: the largest"),
        "largest": Param(10, type="integer", minimum=1, description="without `scenarios`: so many, by test pages"),
    },
    user_defined_macros=common.macros(), tags=["moveline"], doc_md=__doc__,
)
def unseen() -> None:
    """Encode once, then one mapped task a scenario, arm and seed, then compare."""

    @task
    def plan(*, params: Any = None) -> list[list[str]]:
        """Arguments of one `unseen_run` job an unfinished scenario, arm and seed."""
        asked = [part for key in ("seeds", "arms", "scenarios", "largest") for part in (f"--{key}", str(params[key]))]
        todo = common.ask("unseen_plan", *_where(params), *asked)
        return [["unseen_run", *_where(params), "--", scenario, arm, str(seed)] for scenario, arm, seed in todo]

    @task(trigger_rule="none_failed")  # with nothing left to train, the runs are skipped and still compared
    def collect(*, params: Any = None) -> None:
        """Compare the runs that are done."""
        common.tell("unseen_collect", *_where(params))

    SparkSubmitOperator.partial(
        task_id="run", name="moveline-unseen", map_index_template="{{ task.application_args[-3:] | join(' ') }}",
        **{**common.spark_settings(), "execution_timeout": timedelta(hours=1)},
    ).expand(application_args=plan()) >> collect()


def _where(params: Any) -> list[str]:
    return ["--conf", params["conf"], *(["--ds", params["ds"]] if params["ds"] else [])]


unseen()
