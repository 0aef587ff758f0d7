"""watch_models: every champion on the newest day whose labels are closed, beside the day before. A limit that is passed fails the
task.

Started when the tables of a day are published (once it is switched on: like every graph it begins paused), or by hand.
"""

from typing import Any

from airflow.sdk import dag, task

from dags import common


@dag(
    schedule=[common.TABLES], start_date=common.ALWAYS, catchup=False, max_active_runs=1, default_args=common.defaults(),
    params=common.params(), user_defined_macros=common.macros(), tags=["moveline"], doc_md=__doc__,
)
def watch_models() -> None:
    """One task, without retries: the numbers stay what they are."""

    @task(retries=0)
    def look(*, params: Any = None) -> str:
        """What was seen; an error names the limits that are passed."""
        return common.tell("watch", *common.asked(params))

    look()


watch_models()
