"""rollback: return a model to the champion before the present one, in one step. Started by hand; write the model's name twice.

The ledger (`moveline history`) keeps who did it and why. Run again, it goes back one champion more. It starts `deploy_model`.
"""

from typing import Any

from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowFailException

from dags import common


@dag(
    schedule=None, start_date=common.ALWAYS, catchup=False, max_active_runs=1, default_args=common.defaults(),
    params={
        "conf": common.params()["conf"],
        "model": Param("din", type="string", minLength=1, description="the model to roll back"),
        "confirm": Param("", type="string", description="the same name again: the version that is used changes at once"),
        "reason": Param("", type="string", description="why; kept in the ledger"),
    },
    user_defined_macros=common.macros(), tags=["moveline"], doc_md=__doc__,
)
def rollback() -> None:
    """One task, without retries: a second try would go back twice."""

    @task(retries=0, outlets=[common.MODELS])
    def back(*, params: Any = None) -> str:
        """Move the alias; what is said of it."""
        if params["confirm"] != params["model"]:
            raise AirflowFailException(f"nothing was changed: write {params['model']!r} as `confirm`, too, to roll it back")
        return common.tell("rollback", params["model"], "--conf", params["conf"], "--reason", params["reason"])

    back()


rollback()
