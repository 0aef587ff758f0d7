"""A recipe: one YAML file that says where a log lies, how it is read, and what is built and trained from it.

A recipe is trusted code (it holds Spark SQL expressions); the data it reads is not.
"""

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from feature_store.errors import ConfigError

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


class Strict(BaseModel):
    """Base of every section: an unknown key is an error, values cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(Strict):
    """One raw file or folder. `{ds}` in the path is replaced by a day."""

    path: str = Field(description="file, folder or glob: relative to --data, absolute, or s3a://..., hdfs://...; {ds} is the day")
    format: Literal["parquet", "csv", "json", "orc"] = "parquet"
    options: dict[str, str] = Field({}, description="options of Spark's reader")
    columns: str | None = Field(None, description="Spark DDL of the columns, for formats that carry none")
    late_days: int = Field(0, ge=0, le=31, description="with {ds}: also read the folders of this many following days")
    optional: bool = Field(False, description="a missing file is an empty input instead of an error")


class Step(Strict):
    """One step of a view: columns are added first, then rows are kept where `where` is true, then `explode` multiplies them."""

    add: dict[str, str] = Field({}, description="new column -> Spark SQL expression; a later one sees those before it")
    where: str | None = Field(None, description="rows are kept where this is true")
    explode: dict[str, str] = Field({}, description="new column (a struct for arrays_zip) -> array expression; one per step")


class View(Strict):
    """A named intermediate result, made from an input or an earlier view."""

    source: str = Field(alias="from", description="an input or another view")
    steps: list[Step] = []
    group_by: list[str] = Field([], description="columns that are one row a group")
    aggregate: dict[str, str] = Field({}, description="new column -> aggregate expression")


class Mapping(Strict):
    """How one canonical table is filled: contract column -> Spark SQL expression over the rows of `from`."""

    source: str = Field(alias="from", description="an input or a view")
    where: str | None = Field(None, description="rows are taken where this is true")
    columns: dict[str, str] = Field(description="column of the table (docs/data_dictionary.md) -> Spark SQL expression")


class Source(Strict):
    """Raw inputs, intermediate views, and one mapping (or several, taken together) a canonical table."""

    inputs: dict[Slug, Input]
    views: dict[Slug, View] = {}
    events: list[Mapping] = []
    exposures: list[Mapping] = []
    clicks: list[Mapping] = []
    items: list[Mapping] = []
    users: list[Mapping] = []
    available_delay_s: int = Field(0, ge=0, description="where the log has no available_time: the row's own time plus this")
    scenes: list[str] | None = Field(None, description="the scenes that may occur; None takes any")
    actions: list[str] | None = Field(None, description="the actions that may occur; None takes any")

    @model_validator(mode="after")
    def _needs_events(self) -> "Source":
        if not self.events:
            raise ValueError("a source needs at least one mapping under `events`")
        return self


class Quality(Strict):
    """Limits on what may be rejected. A run stops when a table's rejected share is above `max_reject_share`."""

    max_reject_share: float = Field(0.05, ge=0, le=1, description="of the rows of a table and day; above it the run stops")
    max_text_bytes: int = Field(512, ge=8, description="longest id, scene, action or scenario in UTF-8 bytes")
    max_page_items: int = Field(2_000, ge=1, description="a page with more shown items is rejected")
    max_future_s: int = Field(300, ge=0, description="how far an event may lie after the moment it became available")


class Movelines(Strict):
    """A moveline as of time t: the last `tokens` tokens before t - delay, of the last `days` days."""

    tokens: int = Field(50, ge=1, le=1_000, description="most tokens of a moveline; the last ones stay")
    visits: int = Field(20, ge=0, le=200, description="most scene visits of a moveline; the last ones stay")
    days: int = Field(3, ge=1, le=90, description="how many days before the cut it reaches back")
    delay_s: int = Field(0, ge=0, description="nothing of the last seconds before the cut is used: what a service knows late")
    visit_gap_s: int = Field(1_800, ge=1, le=86_400, description="a pause longer than this closes a visit")
    visit_wait_s: int = Field(60, ge=0, description="a visit is known this long after it closed; later rows are no part of it")
    max_tokens_a_day: int = Field(5_000, ge=1, description="a user's tokens a day over this are counted, not kept (the first stay)")
    clicked_actions: list[str] = Field(["click"], description="actions that count as a click inside a visit")
    carted_actions: list[str] = Field(["cart"], description="actions that count as a cart inside a visit")


class Pages(Strict):
    """Which cuts are built. `at_show` is the headline; `at_click` is for sources that log a page only when it is clicked."""

    cuts: list[Literal["at_show", "at_click"]] = ["at_show"]


class Pairs(Strict):
    """Caps of the sampled pairs of a page and kind; the exact counts beside them are never capped."""

    max_a_page: int = Field(400, ge=1, description="sampled pairs of a page and kind")


class Flows(Strict):
    """Generator rows: cuts of a day's walk and the next `future` items after each."""

    future: int = Field(8, ge=1, le=64, description="next items that a row holds")
    cuts_a_day: int = Field(4, ge=1, description="at most this many cuts a user and day, chosen by hash")
    actions: list[str] | None = Field(None, description="actions whose item counts as an interest; None takes all with an item")


class Split(Strict):
    """Days of one training run, counted back from the newest complete day: test, then train days before it.

    The last `validate_hours` of the train days validate. A page trains when its label_time lies before the cut. What a generator
    was trained on must not be among the rows that read its output: it gets days, or folds of users, of its own.
    """

    train_days: int = Field(2, ge=1, description="days before the test days")
    test_days: int = Field(1, ge=1, description="the newest days")
    validate_hours: int = Field(6, ge=1, le=48, description="the end of the train days, which picks the epoch")
    generator_days: int = Field(0, ge=0, description="the first n train days train the generator, and no model but it")
    generator_folds: int = Field(1, ge=1, le=8, description="one generator a fold of users, trained on the users of all others")

    @model_validator(mode="after")
    def _one_way(self) -> "Split":
        if self.generator_days >= self.train_days:
            raise ValueError("`generator_days` must be fewer than `train_days`: the other train days train what reads its output")
        if self.generator_days and self.generator_folds > 1:
            raise ValueError("give `generator_days` or `generator_folds`, not both: each alone keeps the generator out of sample")
        return self


class Gate(Strict):
    """When a new version becomes champion. It and the champion score the same pages, which neither was trained on.

    `enabled` decides, `dry_run` writes down what it would have decided, `disabled` compares nothing; both of them promote.
    """

    mode: Literal["disabled", "dry_run", "enabled"] = "dry_run"
    days: int = Field(1, ge=1, le=28, description="compare on the first so many closed days after both were trained")
    wait: bool = Field(False, description="leave a version undecided until there is such a day, the champion stays so long")
    min_users: int = Field(100, ge=1, description="with fewer users who saw these pages, nothing is promoted")
    max_gauc_loss: float = Field(0.01, ge=0, le=1, description="the 95 % interval of candidate - champion lies above minus this")
    max_ndcg_loss: float = Field(0.01, ge=0, le=1, description="the same of NDCG@10 of a page")
    min_gauc: float = Field(0.5, ge=0, le=1, description="of a first version, which has no champion to be compared with")
    max_calibration_error: float = Field(0.05, ge=0, le=1)
    max_bias: float = Field(0.25, ge=0, description="share by which the promised clicks may differ from those there were")


class Deploy(Strict):
    """When a champion is put to use: its scores of a slice of users are compared with those of the version in use."""

    canary_share: float = Field(0.1, gt=0, le=1, description="share of the users of a day whose pages are tried")
    max_stability: float = Field(0.25, gt=0, description="most that the population stability index of the scores may be")


class Watch(Strict):
    """What the champion may be like on a day before somebody has to look."""

    min_gauc: float = Field(0.5, ge=0, le=1)
    max_calibration_error: float = Field(0.1, ge=0, le=1)
    max_unknown: float = Field(0.5, ge=0, le=1, description="share of the shown items that the champion's vocabulary lacks")
    max_stability: float = Field(0.25, gt=0, description="stability index of scores and main columns, against the day before")


class Upkeep(Strict):
    """What the weekly upkeep keeps. Versions of tables that a registered model names are kept in any case."""

    version_days: int = Field(7, ge=0, description="a version of a table can be read for so long after it was replaced")
    checkpoint_days: int = Field(14, ge=0, description="a training run that was not touched for so long does not go on")
    small_mb: int = Field(32, ge=1, description="a day whose files are smaller on average is written again in fewer")


class Candidates(Strict):
    """The lists of candidates by which pre-ranking is judged (benchmarks/tarq.py), one for each of some test pages with a click.

    Nothing on them was unknown at the page's cut. Without `within` a list is the page's clicks and a sample of the catalogue.
    """

    within: str | None = Field(None, description="expression over events, e.g. `query`: a page has the value of its user's last "
                                                 "event, its list are the items shown before on pages of this value")
    most: int = Field(1_000, ge=1, description="items a list: those shown last, or the size of the sample")
    pages: int = Field(2_000, ge=1, description="pages that get a list, chosen by hash")


class Days(Strict):
    """First and last day (UTC, both inclusive) that a graph builds; a log that still grows has no last."""

    first: date
    last: date | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Days":
        if self.last is not None and self.last < self.first:
            raise ValueError("`last` lies before `first`")
        return self

    def until(self, today: date) -> list[str]:
        """The days that are over: up to the last, or to the day before `today`."""
        last = today - timedelta(1) if self.last is None else self.last
        return [str(self.first + timedelta(n)) for n in range((last - self.first).days + 1)]


class Recipe(Strict):
    """Everything one log needs, from raw files to registered models."""

    name: Slug
    source: Source
    days: Days | None = Field(None, description="the days of the log; None: each run says which day")
    simulator: dict[str, Any] | None = Field(None, description="settings of the simulator that writes this log")
    quality: Quality = Quality()
    movelines: Movelines = Movelines()
    pages: Pages = Pages()
    pairs: Pairs = Pairs()
    flows: Flows = Flows()
    split: Split = Split()
    gate: Gate = Gate()
    deploy: Deploy = Deploy()
    watch: Watch = Watch()
    upkeep: Upkeep = Upkeep()
    candidates: Candidates = Candidates()
    vocabulary_buckets: int = Field(16, ge=1, description="out-of-vocabulary buckets a field")
    models: dict[str, dict[str, Any]] = Field({}, description="model name -> its settings")

    def generator_of(self, model: str) -> str:
        """The model whose flow this one reads, "" for none; it is trained first."""
        return str(self.models.get(model, {}).get("generator", ""))

    def with_model(self, model: str, settings: dict[str, Any]) -> "Recipe":
        """The recipe with these settings of a model."""
        return self.model_copy(update={"models": {**self.models, model: settings}})

    @property
    def has_exposures(self) -> bool:
        """Whether the log says what was shown; without it there are no pages, pairs or ranking models."""
        return bool(self.source.exposures)

    @model_validator(mode="after")
    def _generators_are_named(self) -> "Recipe":
        for model in self.models:
            if self.generator_of(model) and self.generator_of(model) not in self.models:
                raise ValueError(f"`models.{model}.generator` is {self.generator_of(model)!r}, which is not among the models")
        return self


def load_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe.

    With the key `extends: other.yaml` (a path from the recipe's folder) it has all sections of the other recipe that it does not
    give itself; sections are taken whole. Without a `name` of its own it works on the tables of the other.

    Raises
    ------
    ConfigError : the file is missing, is not YAML, or a key is unknown, missing or of the wrong type; names file and key.
    """
    path = Path(path)
    content = _sections(path, ())
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        raise ConfigError(f"{path}: {key}: {first['msg']}") from error


_UNREADABLE = (yaml.YAMLError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What reading YAML raises: for a value that is not what its tag says, or too deep a nesting, no error of YAML's own."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node. Raises yaml.constructor.ConstructorError for a key given twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for n, key in enumerate(keys) if key in keys[:n]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _sections(path: Path, before: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in before:
        raise ConfigError(f"{path}: extends: a recipe cannot extend itself, also not by way of others")
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe; the ones that come with moveline are conf/*.yaml")
    try:
        content = yaml.load(path.read_text(), _Loader)
    except _UNREADABLE as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split()) or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a recipe is a mapping with the keys `name` and `source`")
    other = content.pop("extends", None)
    if other is None:
        return content
    if not isinstance(other, str) or "\0" in other:
        raise ConfigError(f"{path}: extends: names another recipe's file, such as simulated.yaml")
    return _sections(path.parent / other, (*before, path.resolve())) | content
