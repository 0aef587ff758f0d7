"""upkeep: once a week, fewer files, no versions of tables that nobody can ask for, no checkpoints of runs that were given up.

What registered models were trained on stays readable. It begins switched off, like every graph.
"""

from airflow.sdk import CronTriggerTimetable, dag

from dags import common


@dag(
    schedule=CronTriggerTimetable("0 4 * * 0", timezone="UTC"), start_date=common.ALWAYS, catchup=False, max_active_runs=1,
    default_args=common.defaults(), params={"conf": common.params()["conf"]}, user_defined_macros=common.macros(),
    tags=["moveline"], doc_md=__doc__,
)
def upkeep() -> None:
    """One application; what it has done stays done when it is tried again."""
    common.Application(task_id="upkeep", name="moveline-upkeep", application_args=["upkeep", "--conf", "{{ params.conf }}"],
                       **common.spark_settings())


upkeep()
