"""moveline_daily: one day of raw logs becomes that day's tables.

Compact profile (default): one Spark application builds all tables of the day; each is still committed and skipped on its own.
Cluster profile (MOVELINE_PROFILE=cluster): one Spark application a table.
"""

from typing import Any

from airflow.sdk import CronDataIntervalTimetable, chain, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import common

_RECIPE = common.recipe()
_FIRST, _LAST = common.bounds(_RECIPE)


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"), start_date=_FIRST, end_date=_LAST,
    catchup=common.catches_up(_RECIPE), max_active_runs=1, default_args=common.defaults(),
    params=common.params(), user_defined_macros=common.macros(), tags=["moveline"], doc_md=__doc__,
)
def moveline_daily() -> None:
    """Build the tables of a day, then tell `train_models` once all days of a training run are there."""

    @task(outlets=[common.TABLES])
    def publish(*, outlet_events: Any = None, dag_run: Any = None, params: Any = None) -> dict[str, Any]:
        found = common.ask("snapshot", "--conf", params["conf"], "--ds", common.day_of(dag_run))
        if found["reason"]:
            raise AirflowSkipException(found["reason"])
        event = {**found, "conf": params["conf"], "data": params["data"]}
        outlet_events[common.TABLES].extra = event
        return event

    done = publish()
    if common.PROFILE == "compact":
        chain(common.spark_job("daily"), done)
        return
    job = {name: common.spark_job(name) for name in ("ingest", "movelines", "vocabulary", "visits", "pages", "pairs", "flows")}
    job["ingest"] >> [job["movelines"], job["vocabulary"]]
    job["movelines"] >> job["visits"] >> [job["pages"], job["flows"]]
    job["pages"] >> job["pairs"]
    [job["pairs"], job["flows"], job["vocabulary"]] >> done


moveline_daily()
