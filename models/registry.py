"""Registered models in MLflow: a version holds everything needed to score raw ids and to say what it was trained on."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import wraps
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import mlflow
import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from feature_store.contracts import PAGES
from feature_store.errors import ModelError
from feature_store.home import home, tracking_uri
from models.aliases import ANY, Alias
from models.artifact import describe
from models.ledger import PROMOTE, Change
from models.tracking import ask, reaching

CHAMPION = "champion"
FINGERPRINT = "fingerprint"
"""Tag of a version: digest of the data and settings it was trained on. One version a fingerprint."""

_PACKAGES = ("mlflow", "torch", "torchrec", "fbgemm-gpu-cpu", "numpy", "pandas", "pyarrow", "safetensors", "pydantic",
             "psutil", "rich")
_CODE = Path(__file__).resolve().parent
_MAX_TAG = 5_000
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Candidate:
    """A trained and evaluated model, ready to be registered.

    Attributes
    ----------
    name : registered name, `<recipe>-<model>`. experiment : MLflow experiment, the recipe's name.
    folder : artifact of `models.artifact.save_artifact`, with its vocabulary. fingerprint : see `FINGERPRINT`.
    example : rows as the deployed model takes them. metrics : by name. params : settings. tags : lineage, plain text.
    curve : epoch -> metrics of training. files : further files of the run (report, result, manifest of the training set).
    """

    name: str
    experiment: str
    folder: Path
    fingerprint: str
    example: pd.DataFrame
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    curve: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Version:
    """A registered version."""

    name: str
    version: int
    run_id: str
    fingerprint: str
    aliases: tuple[str, ...]
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """Address for `mlflow.pyfunc.load_model` and `mlflow models serve`."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Fetched:
    """A registered version, and its artifact on this machine."""

    version: Version
    folder: Path


def _reached(method: Callable[Concatenate["Registry", P], R]) -> Callable[Concatenate["Registry", P], R]:
    """Errors of MLflow in a method are a ModelError that names the address."""
    @wraps(method)
    def asked(self: "Registry", /, *given: P.args, **named: P.kwargs) -> R:
        with reaching(self.uri):
            return method(self, *given, **named)

    return asked


class Registry:
    """The registry behind a tracking address (default: `home.tracking_uri()`).

    Its methods raise ModelError when MLflow cannot be reached or refuses; the message names the address.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or tracking_uri()
        ask(self.uri)
        with reaching(self.uri):
            if self.uri.startswith("sqlite:///"):
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self.client = MlflowClient(self.uri)

    @_reached
    def versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first; empty when it was never registered."""
        found = self.client.search_model_versions(f"name='{name}'")
        if not found:
            return []
        # The search does not fill in the aliases of a version: the model has them.
        aliases = self.client.get_registered_model(name).aliases
        return sorted((_version(v, aliases) for v in found), key=lambda v: -v.version)

    @_reached
    def every(self) -> list[Version]:
        """All versions of all models, without their aliases."""
        found, token = [], None
        while True:
            page = self.client.search_model_versions(page_token=token)
            found += [_version(v, {}) for v in page]
            if not (token := page.token):
                return found

    def find(self, name: str, fingerprint: str) -> Version | None:
        """The version trained on this fingerprint, if there is one."""
        return next((v for v in self.versions(name) if v.fingerprint == fingerprint), None)

    def by_alias(self, name: str, alias: str = CHAMPION) -> Version | None:
        """The version an alias points to, or None."""
        return next((v for v in self.versions(name) if alias in v.aliases), None)

    @_reached
    def folder(self, version: Version) -> Path:
        """Local copy of a version's artifact (`models.artifact`), e.g. to start training from it."""
        mlflow.set_tracking_uri(self.uri)  # to the address it is given MLflow adds a look into the one that is set
        local = mlflow.artifacts.download_artifacts(artifact_uri=version.uri, tracking_uri=self.uri)
        # The first is the model's own: one that it carries lies deeper.
        found = sorted(Path(local).rglob("model.json"), key=lambda path: len(path.parts))
        if not found:
            raise ModelError(f"{version.uri} holds no model of moveline (no model.json); register one with `moveline train_model`")
        return found[0].parent

    @_reached
    def metrics(self, version: Version) -> dict[str, float]:
        """Metrics of the version's run."""
        return dict(self.client.get_run(version.run_id).data.metrics)

    @_reached
    def set_alias(self, version: Version, alias: str = CHAMPION, reason: str = "", *, action: str = PROMOTE,
                  numbers: Mapping[str, float] | None = None, instead_of: int = ANY) -> Version:
        """Point an alias to a version: the one way in which an alias is changed. Every change is an entry of the ledger.

        Parameters
        ----------
        action, reason, numbers : what the entry says. instead_of : number of the version that the decision was made against,
            `models.ledger.NOBODY` for none, ANY for whichever it is now.

        Raises
        ------
        ConflictError : the alias does not stand on `instead_of` any more, or somebody else changes it at this moment.
        """
        self.current(version)  # the ledger names none that does not exist
        change = Change(action, instead_of, version.version, reason or "set by hand", numbers or {})
        Alias(self.client, version.name, alias).move(change)
        return self.current(version)

    @_reached
    def previous(self, name: str, alias: str = CHAMPION) -> Version | None:
        """The version the alias stood on before the present one, as the ledger has it; None when there is none left."""
        if not (there := {v.version: v for v in self.versions(name)}):
            return None
        return next((there[v] for v in Alias(self.client, name, alias).stood_on()[-2::-1] if v in there), None)

    @_reached
    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Write tags on a version."""
        for key, value in _texts(tags).items():
            self.client.set_model_version_tag(version.name, str(version.version), key, value)

    @_reached
    def log_metrics(self, version: Version, metrics: Mapping[str, float], day: date | None = None) -> None:
        """Write metrics on a version, which are those of its run; of a day, they become one point of a curve over days."""
        for key, value in metrics.items():
            self.client.log_metric(version.run_id, key, value, step=day.toordinal() if day else 0)

    @_reached
    def by_day(self, version: Version, prefix: str) -> dict[str, dict[date, float]]:
        """Metrics of a version that are curves over days (see `log_metrics`), by the rest of their name; of a day that was looked
        at twice the newer look counts."""
        names = [name for name in self.client.get_run(version.run_id).data.metrics if name.startswith(prefix)]
        curves = {name: sorted(self.client.get_metric_history(version.run_id, name), key=lambda p: p.timestamp) for name in names}
        return {name.removeprefix(prefix): {date.fromordinal(p.step): p.value for p in points} for name, points in curves.items()}

    @_reached
    def log_page(self, version: Version, name: str, text: str) -> str:
        """Keep an HTML page among the artifacts of a version's run; its address."""
        self.client.log_text(version.run_id, text, name)
        return f"runs:/{version.run_id}/{name}"

    @_reached
    def current(self, version: Version) -> Version:
        """The version as it stands now: its tags and aliases."""
        found = self.client.get_model_version(version.name, str(version.version))
        return _version(found, self.client.get_registered_model(version.name).aliases)

    def register(self, candidate: Candidate) -> Version:
        """Log a run with everything about the candidate, and register it; a fingerprint that is registered already is returned.

        A version is made in the last step and complete at once: a run that was cut short leaves none.

        Raises
        ------
        ModelError : the artifact folder is not complete, or the tracking server refuses.
        """
        found = self.find(candidate.name, candidate.fingerprint)
        if found is not None:
            return found
        described = describe(candidate.folder)
        mlflow.set_tracking_uri(self.uri)
        try:
            with mlflow.start_run(experiment_id=self.experiment(candidate.experiment), run_name=candidate.name,
                                  tags=_texts({**candidate.tags, FINGERPRINT: candidate.fingerprint})) as run:
                self._log(candidate)
                logged = _log_model(candidate, described["reads"])
            return self._make_version(candidate, logged.model_uri, run.info.run_id)
        except MlflowException as error:
            raise ModelError(f"{candidate.name}: MLflow at {self.uri} refused: {str(error).splitlines()[0]}") from error

    def _log(self, candidate: Candidate) -> None:
        mlflow.log_params(dict(candidate.params))
        mlflow.log_metrics(dict(candidate.metrics))
        for step, figures in candidate.curve.items():
            mlflow.log_metrics(dict(figures), step=step)
        for file in candidate.files:
            mlflow.log_artifact(str(file))

    def _make_version(self, candidate: Candidate, uri: str, run_id: str) -> Version:
        try:
            self.client.create_registered_model(candidate.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = _texts({**candidate.tags, FINGERPRINT: candidate.fingerprint})
        made = mlflow.register_model(uri, candidate.name, tags=tags)
        return Version(candidate.name, int(made.version), run_id, candidate.fingerprint, (), tags)

    @_reached
    def experiment(self, name: str) -> str:
        """Id of an experiment; it is made when there is none of this name."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        # A tracking server decides itself where artifacts lie; beside a database of our own they lie in the state folder.
        place = (home() / "artifacts" / name).as_uri() if self.uri.startswith("sqlite:") else None
        try:
            return self.client.create_experiment(name, artifact_location=place)
        except MlflowException:  # another process was first
            time.sleep(0.2)
            return self.client.get_experiment_by_name(name).experiment_id


def load(uri: str, tracking: str | None = None) -> Any:
    """The deployed form of a version (`models:/name@champion`), with `predict(DataFrame)`; see `models.serving`.

    Nothing is unpickled. Raises ModelError when there is no such version, or nobody answers.
    """
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    mlflow.set_tracking_uri(tracking or tracking_uri())
    ask(tracking or tracking_uri())
    try:
        return mlflow.pyfunc.load_model(uri)
    except MlflowException as error:
        raise ModelError(f"{uri}: {str(error).splitlines()[0]}; `moveline models` lists what is registered") from error


def signature(reads: str) -> ModelSignature:
    """Columns and types that a deployed model takes and gives, by what it reads (`pages`, `pairs` or `flows`)."""
    from models.serving import FLOW_COLUMNS, PAGE_COLUMNS, PAIR_COLUMNS

    if reads == "pairs":
        pair = Schema([ColSpec(DataType.string, name) for name in PAIR_COLUMNS])
        return ModelSignature(pair, Schema([ColSpec(DataType.double, "score")]))
    names, given = (FLOW_COLUMNS, "flow") if reads == "flows" else (PAGE_COLUMNS, "scores")
    inputs = [ColSpec(_kind(PAGES.schema.field(name).type), name) for name in names]
    return ModelSignature(Schema(inputs), Schema([ColSpec(Array(DataType.double), given)]))


def requirements() -> list[str]:
    """Pinned packages a deployed model needs (a local label such as `+cpu` is left out: no index has it)."""
    return [f"{name}=={installed(name).split('+')[0]}" for name in _PACKAGES]


def _kind(kind: pa.DataType) -> DataType | Array:
    # Whole numbers are `long` whatever their width in the table: callers send JSON or pandas, which have 64 bits.
    if pa.types.is_list(kind):
        return Array(_kind(kind.value_type))
    return DataType.string if kind == pa.string() else DataType.double if kind == pa.float64() else DataType.long


def _log_model(candidate: Candidate, reads: str) -> Any:
    return mlflow.pyfunc.log_model(
        name="model", python_model=str(_CODE / "serving.py"), artifacts={"model": str(candidate.folder)},
        code_paths=[str(_CODE), str(_CODE.parent / "feature_store")], signature=signature(reads), input_example=candidate.example,
        pip_requirements=requirements())


def _texts(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: str(value)[:_MAX_TAG] for key, value in tags.items()}


def _version(found: ModelVersion, aliases: Mapping[str, Any]) -> Version:
    own = tuple(sorted(alias for alias, version in aliases.items() if int(version) == int(found.version)))
    return Version(found.name, int(found.version), found.run_id, found.tags.get(FINGERPRINT, ""), own, dict(found.tags))
