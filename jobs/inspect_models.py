"""What the registry holds, as plain rows."""

from typing import Any

from feature_store.home import home, tracking_uri

FINGERPRINT_TAG = "fingerprint"
_SHOWN = 6


def versions() -> list[dict[str, Any]]:
    """One row a registered version, newest first: model, version, alias, day, fingerprint, metrics, tags."""
    from mlflow import MlflowClient

    if tracking_uri().startswith("sqlite") and not (home() / "mlflow.db").is_file():
        return []
    client = MlflowClient(tracking_uri())
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
    test = {k: v for k, v in sorted(metrics.items()) if k.startswith("test")}
    return ", ".join(f"{k} {v:.4f}" for k, v in list(test.items())[:_SHOWN])


def beside_baselines(version: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a test metric of a version, with the same metric of the trivial baselines where it was logged."""
    metrics: dict[str, float] = version["all_metrics"]
    return [{"model": version["model"], "metric": name, "value": value} for name, value in sorted(metrics.items())]
