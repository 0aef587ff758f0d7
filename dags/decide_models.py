"""decide_models: versions that wait for closed days after their training (`gate.wait` of the recipe) are compared on them.

Started when the tables of a day are published (once it is switched on: like every graph it begins paused), or by hand.
"""

from typing import Any

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import common


@dag(
    schedule=[common.TABLES], start_date=common.ALWAYS, catchup=False, max_active_runs=1, default_args=common.defaults(),
    params={"conf": common.params()["conf"]}, user_defined_macros=common.macros(), tags=["moveline"], doc_md=__doc__,
)
def decide_models() -> None:
    """One task: a version whose day is not there yet goes on waiting."""

    @task(outlets=[common.MODELS])
    def decide(*, params: Any = None) -> list[dict[str, Any]]:
        """What the gate said of each version that waited."""
        found: list[dict[str, Any]] = common.ask("gate", "--conf", params["conf"])
        if not found:
            raise AirflowSkipException("no version waits")
        return found

    decide()


decide_models()
