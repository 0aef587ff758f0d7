"""One page about one model: opens from disk, needs no network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa

from feature_store.collate import flat, lengths
from models import report_plots as plots

NAMES = {"auc": "AUC", "gauc": "GAUC (by user)", "page_gauc": "GAUC (by page)", "recall_5": "recall at 5", "ndcg_5": "NDCG at 5",
         "ndcg_10": "NDCG at 10", "log_loss": "log loss", "calibration_error": "calibration error",
         "recall_50": "recall at 50 of the next items", "recall_200": "recall at 200 of the next items", "loss": "loss (InfoNCE)",
         "pairwise_cosine": "mean cosine of two steps of a flow", "effective_rank": "effective rank of the flows"}
_MOST_SCENES = 16
_LOWER_IS_BETTER = ("log_loss", "calibration_error")


@dataclass
class DataPicture:
    """What a report shows of the data: counts that can be added up table by table.

    Attributes
    ----------
    moveline_lengths : pages by number of tokens. transitions : (scene index, scene index) -> visits of the second right after the
        first, in the pages' own movelines. pair_counts : exact pairs by kind.
    """

    moveline_lengths: dict[int, int] = field(default_factory=dict)
    transitions: dict[tuple[int, int], int] = field(default_factory=dict)
    pair_counts: dict[str, int] = field(default_factory=dict)

    def add_pages(self, pages: pa.Table) -> None:
        """Count encoded pages."""
        for length, count in zip(*np.unique(lengths(pages, "moveline_item"), return_counts=True), strict=True):
            self.moveline_lengths[int(length)] = self.moveline_lengths.get(int(length), 0) + int(count)
        scene, row = flat(pages, "visit_scene").astype(np.int64), np.repeat(np.arange(len(pages)), lengths(pages, "visit_scene"))
        steps = np.stack([scene[:-1], scene[1:]], 1)[row[:-1] == row[1:]]
        for (a, b), count in zip(*np.unique(steps, axis=0, return_counts=True), strict=True):
            step = int(a), int(b)
            self.transitions[step] = self.transitions.get(step, 0) + int(count)

    def transition_shares(self, names: Mapping[int, str]) -> tuple[list[str], np.ndarray]:
        """The most frequent scenes, and of the steps out of each the share that leads to each."""
        out: dict[int, int] = {}
        for (a, b), count in self.transitions.items():
            out[a], out[b] = out.get(a, 0) + count, out.get(b, 0)
        kept = sorted(out, key=lambda scene: (-out[scene], scene))[:_MOST_SCENES]
        table = np.array([[self.transitions.get((a, b), 0) for b in kept] for a in kept], float).reshape(len(kept), len(kept))
        return [names.get(s, "(unknown)") for s in kept], table / np.maximum(table.sum(1, keepdims=True), 1)


def report(title: str, result: Mapping[str, Any], history: Sequence[Mapping[str, Any]], data: DataPicture,
           scenes: Mapping[int, str], lineage: Mapping[str, str]) -> str:
    """The page as HTML text.

    Parameters
    ----------
    result : from `models.evaluation`. history : a row an epoch, from the trainer. scenes : names of the scene indexes.
    lineage : what the model was made from, name -> text.
    """
    names, shares = data.transition_shares(scenes)
    curves = result["curves"]
    sections = [
        ("Against the baselines", _wide(_metric_table(result)), _note(result)),
        ("Training", plots.training(history) if history else "",
         "Loss of each epoch; kept was the one with the best validation AUC, or loss where nothing is ranked."),
        ("Code books", _code_table(history), "Codes of the shown items of the validation rows, by epoch. Entropy in nats."),
        ("ROC", plots.roc(curves["roc"]) if "roc" in curves else "", "Held-out rows, viewed items only."),
        ("Calibration", plots.calibration(curves["calibration"]) if "calibration" in curves else "",
         "Twenty bins of equal size: on the line, the predicted probability is the click rate."),
        ("AUC by scenario", plots.by_scenario(result["scenarios"]) if result["scenarios"] else "",
         "Number of viewed items in brackets."),
        ("Known truth", _truth(result.get("truth")), "The simulator knows the probability of every click."),
        ("Moveline lengths", plots.histogram(data.moveline_lengths, "tokens before the page") if data.moveline_lengths else "",
         "What was known of the user when a test page was shown."),
        ("From scene to scene", plots.heat_map(names, shares) if names else "",
         "Of the visits that follow a scene, the share in each, in %."),
        ("Pairs", _pair_table(data.pair_counts), "Two items shown on one page: both clicked, neither, or one. Exact counts."),
        ("Lineage", _wide(table(("what", "value"), list(lineage.items()))), "Everything this version was made from."),
    ]
    return page(title, result["rows"], sections)


def page(title: str, counts: Mapping[str, int], sections: Iterable[tuple[str, str, str]]) -> str:
    """A page as HTML text that needs nothing else: some counts at its head, then its sections (heading, HTML, note)."""
    body = "\n".join(_section(*section) for section in sections if section[1])
    rows = "".join(f"<div><b>{count:,}</b><span>{escape(name.replace('_', ' '))}</span></div>" for name, count in counts.items())
    return _PAGE.format(title=escape(title), rows=rows, body=body)


def _section(head: str, content: str, note: str) -> str:
    return f"<section><h2>{escape(head)}</h2><p class=note>{escape(note)}</p>{content}</section>"


def _note(result: Mapping[str, Any]) -> str:
    what = "pages" if result["reads"] == "pairs" else "users"
    return (f"95 % intervals by resampling {what}. 'Over' is model minus baseline, paired; 'detectable' is the smallest difference "
            "these rows would show four times in five. Higher is better but for log loss and calibration error (resampling adds "
            "noise to its bins, so its interval lies high).")


def _metric_table(result: Mapping[str, Any]) -> str:
    model, baselines = result["metrics"]["model"], [name for name in result["metrics"] if name != "model"]
    rows = []
    for metric, name in NAMES.items():
        if metric not in model:
            continue
        cells = [name, _number(model[metric], strong=True)]
        for other in baselines:
            found = result["metrics"][other].get(metric)
            apart = result["differences"].get(other, {}).get(metric)
            cells.append("" if found is None else _number(found) + _apart(apart, metric in _LOWER_IS_BETTER))
        rows.append(cells)
    heads = ["", "model", *(name.replace("_", " ") for name in baselines)]
    return table(heads, rows, raw=True)


def _number(found: Mapping[str, float | None], strong: bool = False) -> str:
    if found["value"] is None:
        return "<span class=quiet>undefined</span>"
    value = f"<b>{found['value']:.4f}</b>" if strong else f"{found['value']:.4f}"
    return value + ("" if found["low"] is None else f" <span class=quiet>{found['low']:.4f} to {found['high']:.4f}</span>")


def _apart(found: Mapping[str, float | None] | None, lower_is_better: bool) -> str:
    if found is None or found["value"] is None or found["low"] is None or found["high"] is None:
        return ""
    higher, lower = found["low"] > 0, found["high"] < 0
    clear = "quiet" if not (higher or lower) else "better" if lower == lower_is_better else "worse"
    return (f"<div class={clear}>over {found['value']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})</div>"
            f"<div class=quiet>detectable {found['detectable']:.4f}</div>")


def _truth(found: Mapping[str, float | None] | None) -> str:
    if not found:
        return ""
    names = {"log_loss_base_rate": "log loss of the base rate", "log_loss_model": "log loss of the model",
             "log_loss_truth": "log loss of the true probabilities", "gap_closed": "share of the gap closed",
             "auc_model": "AUC of the model", "auc_truth": "AUC of the true probabilities"}
    rows = [(text, "undefined" if found[key] is None else f"{found[key]:.4f}") for key, text in names.items()]
    return table(("", "value"), rows)


def _code_table(history: Sequence[Mapping[str, Any]]) -> str:
    """Use, entropy and most frequent code of each level by epoch; empty for a model without codes."""
    kept = [row for row in history if "validate_code_use" in row]
    levels = sum(key.startswith("validate_code_use_") for key in kept[0]) if kept else 0
    rows: list[Sequence[str]] = []
    for row in kept:
        for level in range(1, levels + 1):
            use, entropy, most, share = (row[f"validate_code_{name}_{level}"]
                                         for name in ("use", "entropy", "most_frequent", "most_frequent_share"))
            often = f"{most:.0f} ({share:.1%} of the items)"
            rows.append((f"{row['epoch'] + 1}", str(level), f"{use:.1%}", f"{entropy:.3f}", often))
    return table(("epoch", "level", "codes in use", "entropy", "most frequent code"), rows) if rows else ""


def _pair_table(counts: Mapping[str, int]) -> str:
    return table(("kind", "pairs"), [(kind.replace("_", "-"), f"{n:,}") for kind, n in counts.items()]) if counts else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], raw: bool = False) -> str:
    """A table as HTML; `raw`: the cells are HTML already."""
    def cells(row: Sequence[str], tag: str) -> str:
        texts = (text if raw and tag == "td" else escape(str(text)) for text in row)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    return "<table>" + cells(heads, "th") + "".join(cells(row, "td") for row in rows) + "</table>"


def _wide(text: str) -> str:
    return f"<div class=wide>{text}</div>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light; }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #f5f7fa; margin: 0; }}
header {{ background: #102a43; color: #fff; padding: 28px 5vw; }}
h1 {{ font-size: 22px; margin: 0 0 14px; font-weight: 600; }}
header div.rows {{ display: flex; flex-wrap: wrap; gap: 28px; }}
header b {{ display: block; font-size: 20px; }} header span {{ color: #9fb3c8; font-size: 13px; }}
main {{ display: flex; flex-wrap: wrap; gap: 18px; padding: 22px 5vw; align-items: flex-start; }}
section {{ background: #fff; border: 1px solid #e4e7eb; border-radius: 8px; padding: 16px 20px; max-width: 100%;
  box-sizing: border-box; }}
section:has(.wide) {{ flex-basis: 100%; overflow-x: auto; }}
h2 {{ font-size: 16px; margin: 0; }} p.note {{ color: #7b8794; font-size: 13px; margin: 2px 0 12px; max-width: 70ch; }}
table {{ border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }}
th {{ text-align: left; color: #7b8794; font-weight: 500; }}
th, td {{ padding: 6px 22px 6px 0; border-bottom: 1px solid #edf0f3; vertical-align: top; }}
td {{ overflow-wrap: anywhere; }} td:first-child {{ white-space: nowrap; }}
.quiet {{ color: #9aa5b1; font-size: 12px; }} .better, .worse {{ font-size: 12px; }}
.better {{ color: #047857; }} .worse {{ color: #b91c1c; }} td div, td span {{ white-space: nowrap; }}
svg {{ max-width: 100%; height: auto; display: block; }}
</style></head><body><header><h1>{title}</h1><div class="rows">{rows}</div></header><main>
{body}
</main></body></html>
"""
