"""What the registry holds, as plain rows."""

from pathlib import Path
from typing import Any

from feature_store.home import tracking_uri

FINGERPRINT_TAG = "fingerprint"
DECISION_TAG = "gate.decision"
_SHOWN = 6
BASELINES = ("popularity", "base_rate")


def versions() -> list[dict[str, Any]]:
    """One row a registered version, newest first: model, version, alias, day, fingerprint, metrics, tags.

    Raises ModelError when MLflow cannot be reached.
    """
    from models.tracking import ask, reaching

    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return []
    ask(uri)
    with reaching(uri):
        return _versions(uri)


def _versions(uri: str) -> list[dict[str, Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    rows = []
    for model in client.search_registered_models():
        by_version: dict[str, list[str]] = {}
        for alias, version in model.aliases.items():
            by_version.setdefault(str(version), []).append(alias)
        for found in client.search_model_versions(f"name='{model.name}'"):
            metrics = client.get_run(found.run_id).data.metrics if found.run_id else {}
            rows.append(
                {
                    "model": model.name,
                    "version": int(found.version),
                    "alias": ", ".join(sorted(by_version.get(str(found.version), []))),
                    "day": found.tags.get("day", ""),
                    "fingerprint": found.tags.get(FINGERPRINT_TAG, ""),
                    "metrics": _headline(metrics),
                    "all_metrics": metrics,
                    "tags": dict(found.tags),
                    "run_id": found.run_id,
                }
            )
    return sorted(rows, key=lambda r: (r["model"], -r["version"]))


def _headline(metrics: dict[str, float]) -> str:
    found = {k.removeprefix("test."): v for k, v in sorted(metrics.items()) if k.startswith("test.") and k.count(".") == 1}
    return ", ".join(f"{k} {v:.4f}" for k, v in list(found.items())[:_SHOWN])


def trained_on(rows: list[dict[str, Any]], fingerprint: str) -> set[str]:
    """Names of the models that have a finished version of these tables: one the gate decided about, one with an alias, or one that
    a newer one took it from.

    A run that was killed between registering and the gate leaves a version that is not finished.
    """
    finished: dict[str, int] = {}
    for row in rows:
        if row["alias"]:
            finished[row["model"]] = max(finished.get(row["model"], 0), row["version"])
    return {r["model"] for r in rows if r["fingerprint"] == fingerprint
            and (DECISION_TAG in r.get("tags", {}) or r["version"] <= finished.get(r["model"], 0))}


def beside_baselines(version: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a test metric of a version: its value and interval, and the same metric of the trivial baselines (None: not defined).

    Examples
    --------
    >>> logged = {"test.auc": 0.7, "test.auc.low": 0.6, "test.auc.high": 0.8, "test.popularity.auc": 0.6, "train.loss": 1.0}
    >>> beside_baselines({"model": "shop-din", "all_metrics": logged})
    [{'model': 'shop-din', 'metric': 'auc', 'test': 0.7, '95 %': '0.6000 to 0.8000', 'popularity': 0.6, 'base rate': None}]
    """
    metrics: dict[str, float] = version["all_metrics"]
    rows = []
    for key in sorted(k for k in metrics if k.startswith("test.") and k.count(".") == 1):
        name = key.removeprefix("test.")
        if not any(f"test.{b}.{name}" in metrics for b in BASELINES):
            continue
        low, high = metrics.get(f"{key}.low"), metrics.get(f"{key}.high")
        rows.append({
            "model": version["model"], "metric": name, "test": metrics[key],
            "95 %": "" if low is None or high is None else f"{low:.4f} to {high:.4f}",
            **{b.replace("_", " "): metrics.get(f"test.{b}.{name}") for b in BASELINES},
        })
    return rows


def chance(version: dict[str, Any]) -> str:
    """A line about a version whose test AUC may be that of chance: its interval reaches down to 0.5. Empty for any other.

    Examples
    --------
    >>> chance({"model": "shop-din", "all_metrics": {"test.auc": 0.52, "test.auc.low": 0.47, "test.auc.high": 0.57}})
    'shop-din is no better than chance on the test day: AUC 0.5200, and its 95 % interval, 0.4700 to 0.5700, contains 0.5.'
    >>> chance({"model": "shop-din", "all_metrics": {"test.auc": 0.7, "test.auc.low": 0.6, "test.auc.high": 0.8}})
    ''
    """
    auc, low, high = (version["all_metrics"].get(f"test.auc{part}") for part in ("", ".low", ".high"))
    if auc is None or low is None or high is None or low > 0.5:
        return ""
    reaches = "contains 0.5" if high >= 0.5 else "lies below 0.5"
    return (f"{version['model']} is no better than chance on the test day: AUC {auc:.4f}, and its 95 % interval, {low:.4f} to "
            f"{high:.4f}, {reaches}.")
