"""ablate: train a model with parts of it left out, every arm with every seed, and log one table and one plot to MLflow.

Started by hand. What is finished is skipped, so that a run that was stopped goes on where it was.
"""

from typing import Any

from airflow.sdk import Param, dag, task

from dags import common


@dag(
    schedule=None, start_date=common.ALWAYS, catchup=False, max_active_runs=1, default_args=common.defaults(),
    params={
        **common.params(), "model": Param("amen", type="string", minLength=1, description="the model to take apart"),
        "seeds": Param(5, type="integer", minimum=1, maximum=20, description="every arm is trained with the seeds 1 to this"),
        "arms": Param("", type="string", description="arms, separated by commas; empty: all"),
    },
    user_defined_macros=common.macros(), tags=["moveline"], doc_md=__doc__,
)
def ablate() -> None:
    """Encode once, then one mapped task an arm and seed, then compare."""

    @task
    def plan(*, params: Any = None) -> list[list[str]]:
        """Arguments of one `ablate_arm` job an unfinished arm and seed."""
        todo = common.ask("ablate_plan", *_where(params), "--seeds", str(params["seeds"]), "--arms", params["arms"])
        return [["ablate_arm", arm, str(seed), *_where(params)] for arm, seed in todo]

    @task(trigger_rule="none_failed")  # with nothing left to train, the arms are skipped and still compared
    def collect(*, params: Any = None) -> None:
        """Compare the arms that are done."""
        common.tell("ablate_collect", *_where(params))

    called = "{{ task.application_args[1] }} {{ task.application_args[2] }}"
    common.mapped_jobs("arm", "moveline-ablate", called=called).expand(application_args=plan()) >> collect()


def _where(params: Any) -> list[str]:
    return ["--model", params["model"], *common.asked(params)]


ablate()
