"""train_models: train, evaluate and register every model of the recipe on the newest complete days.

Started by the asset that `moveline_daily` updates, or by hand with the parameters `conf` and `ds`. Days whose tables a
registered version was already trained on are skipped.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import common


def newest_event(events: Any) -> dict[str, Any] | None:
    """The newest of some asset events that carries a fingerprint; events coalesce, and some carry nothing."""
    found = [e.extra for e in sorted(events, key=lambda e: e.timestamp, reverse=True) if (e.extra or {}).get("fingerprint")]
    return dict(found[0]) if found else None


@dag(
    schedule=[common.TABLES], start_date=common.ALWAYS, catchup=False, max_active_runs=1, default_args=common.defaults(),
    params=common.params(), user_defined_macros=common.macros(), tags=["moveline"], doc_md=__doc__,
)
def train_models() -> None:
    """Choose what to train on, then one mapped task a model: train, evaluate, register, set the alias."""

    @task
    def choose(*, triggering_asset_events: Any = None, dag_run: Any = None, params: Any = None) -> list[list[str]]:
        """Arguments of one `train_model` job a model."""
        event = newest_event((triggering_asset_events or {}).get(common.TABLES, []))
        if event is None:  # by hand
            day = ["--ds", params["ds"]] if params["ds"] else []
            event = {**common.ask("snapshot", "--conf", params["conf"], *day), "conf": params["conf"], "data": params["data"]}
        if event["reason"]:
            raise AirflowSkipException(event["reason"])
        todo = common.ask("untrained", "--conf", event["conf"], "--fingerprint", event["fingerprint"])
        if not todo:
            raise AirflowSkipException(f"every model is already registered for the tables {event['fingerprint']}")
        where = ["--conf", event["conf"], "--data", event["data"], "--ds", event["day"], "--fingerprint", event["fingerprint"]]
        return [["train_model", model, *where] for model in todo]

    SparkSubmitOperator.partial(
        task_id="train_model", name="moveline-train", map_index_template="{{ task.application_args[1] }}",
        **{**common.spark_settings(), "execution_timeout": timedelta(hours=12)},
    ).expand(application_args=choose())


train_models()
