"""deploy_model: put new champions to use, when their scores of a slice of users look like those of the version in use.

Started when models were trained or rolled back by a graph (once it is switched on: like every graph it begins paused), or by hand.
A refusal fails the task with its reason; the version in use stays.
"""

from typing import Any

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
        return [["deploy", model, *common.asked(params)] for model in found]

    common.mapped_jobs("deploy", "moveline-deploy", retries=0).expand(application_args=choose())


deploy_model()
