"""unseen: train every arm on all scenarios but one and test it there, for one scenario after the other; one table and one plot.

Started by hand. What is finished is skipped, so that a run that was stopped goes on where it was.
"""

from typing import Any

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
        todo = common.ask("unseen_plan", *common.asked(params), *asked)
        return [["unseen_run", *common.asked(params), "--", scenario, arm, str(seed)] for scenario, arm, seed in todo]

    @task(trigger_rule="none_failed")  # with nothing left to train, the runs are skipped and still compared
    def collect(*, params: Any = None) -> None:
        """Compare the runs that are done."""
        common.tell("unseen_collect", *common.asked(params))

    called = "{{ task.application_args[-3:] | join(' ') }}"
    common.mapped_jobs("run", "moveline-unseen", called=called).expand(application_args=plan()) >> collect()


unseen()
