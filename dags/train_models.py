"""train_models: train, evaluate and register every model of the recipe on the newest complete days.

Models that read the flow of a generator (`generator` among their settings) wait for all others, the generator among them.

Started by the asset that `moveline_daily` updates, or by hand with the parameters `conf` and `ds`. Days whose tables a
registered version was already trained on are skipped.
"""

from typing import Any

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import common
from feature_store.recipe import Recipe, load_recipe


def newest_event(events: Any) -> dict[str, Any] | None:
    """The newest of some asset events that carries a fingerprint; events coalesce, and some carry nothing."""
    found = [e.extra for e in sorted(events, key=lambda e: e.timestamp, reverse=True) if (e.extra or {}).get("fingerprint")]
    return dict(found[0]) if found else None


def in_order(recipe: Recipe, models: list[str]) -> tuple[list[str], list[str]]:
    """The models that need no generator, and those that come after their generator."""
    return [m for m in models if not recipe.generator_of(m)], [m for m in models if recipe.generator_of(m)]


@dag(
    schedule=[common.TABLES], start_date=common.ALWAYS, catchup=False, max_active_runs=1, default_args=common.defaults(),
    params=common.params(), user_defined_macros=common.macros(), tags=["moveline"], doc_md=__doc__,
)
def train_models() -> None:
    """Choose what to train on, then one mapped task a model: train, evaluate, register, set the alias."""

    @task
    def choose(*, triggering_asset_events: Any = None, ti: Any = None, params: Any = None) -> list[list[str]]:
        """Arguments of one `train_model` job a model; of those that need a generator as XCom `later`."""
        event = newest_event((triggering_asset_events or {}).get(common.TABLES, []))
        if event is None:  # by hand
            event = {**common.ask("snapshot", *common.asked(params)), "conf": params["conf"], "data": params["data"]}
        if event["reason"]:
            raise AirflowSkipException(event["reason"])
        todo = common.ask("untrained", "--conf", event["conf"], "--fingerprint", event["fingerprint"])
        if not todo:
            raise AirflowSkipException(f"every model is already registered for the tables {event['fingerprint']}")
        where = ["--conf", event["conf"], "--data", event["data"], "--ds", event["day"], "--fingerprint", event["fingerprint"]]
        now, later = in_order(load_recipe(event["conf"]), todo)
        ti.xcom_push("later", [["train_model", model, *where] for model in later])
        return [["train_model", model, *where] for model in now]

    @task
    def choose_later(found: list[list[str]]) -> list[list[str]]:
        """The same as a result of its own: Airflow maps over nothing else."""
        return found

    chosen = choose()
    # Without anything to train now (its generator is registered already), what comes later still runs.
    later = _train("train_after_generator", trigger_rule="none_failed_min_one_success").expand(
        application_args=choose_later(chosen["later"]))
    _train("train_model").expand(application_args=chosen) >> later


def _train(task_id: str, **settings: Any) -> Any:
    return common.mapped_jobs(task_id, "moveline-train", hours=12, outlets=[common.MODELS], **settings)


train_models()
