"""What can be chosen about a simulated log. Each strength is a plain factor: at zero the effect does not exist."""

from pydantic import Field, ValidationError, model_validator

from feature_store.errors import ConfigError
from feature_store.recipe import Recipe, Strict


class SimulatorSettings(Strict):
    """Size, strengths and shares of a simulated log; the days are the recipe's `days`.

    Strengths: `intent_drift` (speed of the drift within and across days, and length of the jumps), `scene_causality` (how far a
    search or a campaign moves the intent), `irrelevant_triggers` (share of pages whose trigger has nothing to do with the intent).
    """

    seed: int = Field(7, ge=0, lt=2**32)
    users: int = Field(12_000, ge=1)
    active_share: float = Field(0.8, gt=0, le=1, description="share of the users that come on a day")
    items: int = Field(20_480, ge=20_000, description="a multiple of `categories`")
    categories: int = Field(160, ge=8, description="a multiple of `ring`")
    ring: int = Field(8, ge=3, description="categories on one great circle: the way an intent drifts")
    dimension: int = Field(16, ge=4, description="of the sphere the intents live on; even")

    intent_drift: float = Field(1.0, ge=0, le=2)
    scene_causality: float = Field(0.5, ge=0, le=1)
    irrelevant_triggers: float = Field(0.3, ge=0, le=1)
    drift_degrees: float = Field(80.0, ge=0, le=180, description="mean drift of a day at strength 1")
    jump_days: float = Field(3.0, ge=1, description="days from one jump of an intent to the next")

    steps: int = Field(16, ge=4, le=60, description="most events of a session; the mean is three quarters of it")
    second_session: float = Field(0.7, ge=0, le=1, description="share of the user-days with a second session")
    pages_a_day: float = Field(2.5, gt=0, description="mean pages of a user-day")
    page_size: int = Field(20, ge=2, le=100)
    attribution_s: int = Field(1_800, ge=600, description="label_time = shown_time + this, for every row")

    intent_weight: float = Field(3.2, ge=0, description="what a perfect match adds to the logit of a click")
    match_width: float = Field(0.35, gt=0, description="match = exp((intent . item - 1) / match_width)")
    position_bias: float = Field(0.45, ge=0, description="logit falls by this times ln(position)")
    quality_spread: float = Field(0.15, ge=0, description="standard deviation of an item's own logit")
    base_logit: float = Field(-3.0, description="logit of a click without match at position 1")
    event_focus: float = Field(9.0, ge=0, description="an event's category is drawn with odds exp(event_focus * intent . centre)")

    late_share: float = Field(0.02, ge=0, le=1, description="share of the events that arrive on the next day")
    duplicate_share: float = Field(0.01, ge=0, le=1, description="share of the events that are logged twice")

    @model_validator(mode="after")
    def _divisible(self) -> "SimulatorSettings":
        if self.items % self.categories or self.categories % self.ring or self.dimension % 2:
            raise ValueError("`items` must be a multiple of `categories`, `categories` of `ring`, and `dimension` even")
        if self.items_a_category < self.page_size:
            raise ValueError("`items` / `categories` must be at least `page_size`")
        if self.pages_a_day > self.steps:
            raise ValueError("`pages_a_day` must not be above `steps`")
        return self

    @property
    def items_a_category(self) -> int:
        """Items of each category."""
        return self.items // self.categories

    @property
    def page_share(self) -> float:
        """Chance that a page is shown at a step."""
        return self.pages_a_day / (0.75 * self.steps * (1 + self.second_session))


def settings_of(recipe: Recipe) -> SimulatorSettings:
    """The simulator section of a recipe.

    Raises
    ------
    ConfigError : the recipe has no `simulator` section or no `days`, or a setting is unknown or out of range.
    """
    if recipe.simulator is None:
        raise ConfigError(f"recipe {recipe.name}: no `simulator` section, so there is nothing to simulate; use conf/simulated.yaml")
    if recipe.days is None or recipe.days.last is None:
        raise ConfigError(f"recipe {recipe.name}: the simulator needs `days` with `first` and `last`")
    try:
        return SimulatorSettings.model_validate(recipe.simulator)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("simulator", *first["loc"]))
        raise ConfigError(f"recipe {recipe.name}: {key}: {first['msg']}") from error
