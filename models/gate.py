"""Whether a new version may replace the champion: both have scored the same pages, which neither was trained on."""

from dataclasses import dataclass

import numpy as np

from feature_store.recipe import Gate
from models import metrics
from models.bootstrap import Estimate, Resampler, estimate
from models.evaluation import Shown
from models.metrics import Floats, Ratio


@dataclass(frozen=True)
class Verdict:
    """What the limits of a recipe say.

    Attributes
    ----------
    reasons : one line a limit that is not met; none when all are. numbers : everything that was compared, by name.
    """

    reasons: tuple[str, ...]
    numbers: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether every limit is met."""
        return not self.reasons


def judge(shown: Shown, candidate: Floats, champion: Floats | None, limits: Gate) -> Verdict:
    """Compare two models on the same items, by a paired bootstrap over users.

    Parameters
    ----------
    shown : N items of whole pages. candidate, champion : [N] click probabilities; without a champion only limits that need none
        are looked at. limits : of the recipe.
    """
    numbers = {key: float(n) for key, n in shown.counts().items()}
    users = int(numbers["users"])
    reasons = [f"{users} users in the pages compared, {limits.min_users} are needed"] if users < limits.min_users else []
    resampler = Resampler(shown.user)
    for name, most in (("gauc", limits.max_gauc_loss), ("ndcg_10", limits.max_ndcg_loss)):
        own = _parts(name, shown, candidate)
        numbers[name] = own.value
        if champion is not None:
            other = _parts(name, shown, champion)
            found = estimate(own.value - other.value, resampler.ratio(own) - resampler.ratio(other))
            numbers |= {f"{name}.champion": other.value, f"{name}.difference": found.value, f"{name}.difference.low": found.low,
                        f"{name}.difference.high": found.high}
            reasons += _loses(name, found, most)
        elif name == "gauc" and not own.value >= limits.min_gauc:  # also when it is nan
            reasons.append(f"gauc is {own.value:.4f}, a first version needs {limits.min_gauc:g}")
    calibrated, why = _calibration(shown, candidate, limits)
    numbers |= calibrated
    return Verdict((*reasons, *why), {key: value for key, value in numbers.items() if np.isfinite(value)})


def _parts(name: str, shown: Shown, score: Floats) -> Ratio:
    if name == "gauc":
        return metrics.gauc_parts(shown.user, shown.clicked, score, shown.weight)
    return metrics.ndcg_parts(10, shown.page, shown.clicked, score, shown.weight)


def _loses(name: str, difference: Estimate, most: float) -> list[str]:
    if difference.low >= -most:
        return []
    if not np.isfinite(difference.low):
        return [f"{name} is not defined on these pages"]
    return [f"{name} may lose more than {most:g}: {interval(difference.value, difference.low, difference.high)}"]


def interval(value: float, low: float, high: float) -> str:
    """A difference with its interval.

    Examples
    --------
    >>> interval(0.00123, -0.001, 0.0034)
    '+0.0012 [-0.0010, +0.0034]'
    """
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def _calibration(shown: Shown, score: Floats, limits: Gate) -> tuple[dict[str, float], list[str]]:
    judged = shown.clicked, score, shown.weight
    numbers = {"calibration_error": metrics.calibration_error(*judged), "bias": metrics.bias(*judged)}
    reasons = []
    if not numbers["calibration_error"] <= limits.max_calibration_error:
        reasons.append(f"calibration error is {numbers['calibration_error']:.4f}, the limit {limits.max_calibration_error:g}")
    if not abs(numbers["bias"]) <= limits.max_bias:
        reasons.append(f"it promises {1 + numbers['bias']:.2f} times the clicks there were, {limits.max_bias:.0%} off is the limit")
    return numbers, reasons
