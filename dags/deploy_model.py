"""deploy_model: put new champions to use, when their scores of a slice of users look like those of the version in use.

Started when models were trained (once it is switched on: like every graph it begins paused), or by hand. A refusal fails the task
with its reason; the version in use stays.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import common


@dag(
    schedule=[common.MODELS], start_date=common.ALWAYS, catchup=False, max_active_runs=1, default_args=common.defaults(),
    params=common.params(), user_defined_macros=common.macros(), tags=["moveline"], doc_md=__doc__,
)
def deploy_model() -> None:
    """Find the champions that are not in use, then one mapped task a model: try it on a slice, and set the alias `deployed`."""

    @task
    def choose(*, params: Any = None) -> list[list[str]]:
        """Arguments of one `deploy` job a model."""
        found = common.ask("undeployed", "--conf", params["conf"])
        if not found:
            raise AirflowSkipException("every champion is in use already")
        day = ["--ds", params["ds"]] if params["ds"] else []
        return [["deploy", model, "--conf", params["conf"], *day] for model in found]

    SparkSubmitOperator.partial(
        task_id="deploy", name="moveline-deploy", map_index_template="{{ task.application_args[1] }}",
        **{**common.spark_settings(), "execution_timeout": timedelta(hours=1), "retries": 0},
    ).expand(application_args=choose())


deploy_model()
