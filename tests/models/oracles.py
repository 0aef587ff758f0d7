"""The equations of the flow losses and of TSP, written once more: plain numpy in float64, loops where an equation has an index."""

import math
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def log_at(x: Array, y: Array) -> Array:
    theta = math.acos(np.clip(x @ y, -1 + 1e-12, 1 - 1e-12))
    return theta / math.sin(theta) * (y - math.cos(theta) * x)


def exp_at(x: Array, u: Array) -> Array:
    length = float(np.linalg.norm(u))
    return x if length == 0 else math.cos(length) * x + math.sin(length) / length * u


def carried(x: Array, y: Array, w: Array) -> Array:
    there, back = log_at(x, y), log_at(y, x)
    return w - (there @ w) / (there @ there) * (there + back)


def bends(path: Array) -> Array:
    """[K - 2, d] covariant second differences of one path [K, d]."""
    return np.stack([log_at(b, c) - carried(a, b, log_at(a, b)) for a, b, c in zip(path, path[1:], path[2:], strict=False)])


def flat_diversity(path: Array, margin: float) -> float:
    found = [max(path[i] @ path[j] - margin, 0.0) ** 2 for i in range(len(path)) for j in range(i + 2, len(path))]
    return float(np.mean(found))


def sphere_diversity(base: Array, path: Array) -> float:
    tangents = np.stack([log_at(base, f) for f in path])
    heading = unit(tangents.mean(0))
    across = unit(tangents - (tangents @ heading)[:, None] * heading)
    return float(np.mean([(across[i] @ across[j]) ** 2 for i in range(len(path)) for j in range(i)]))


def sphere_velocity(path: Array, longest: float) -> float:
    jumps = [max(math.acos(a @ b) - longest, 0.0) ** 2 for a, b in pairwise(path)]
    return float((bends(path) ** 2).sum(1).mean() + np.mean(jumps))


def info_nce(flow: list[Array], target: list[Array], item: list[list[int]], logq: list[Array], user: list[int], part: list[int],
             vector: Array, others: list[int], others_logq: Array, walk: list[list[tuple[int, Array]]],
             tau: float, again: float = 0.0) -> list[list[float]]:
    """Of each future: -log of exp(f.z / tau) over itself plus the sum of exp(f.n / tau - log(number * q)) over its negatives, and
    of exp((f.n + again) / tau) over the items of its own walk; f.z has `again` too where the future is one of them."""
    out: list[list[float]] = []
    for cut in range(len(flow)):
        mine = [c for c in range(len(flow)) if user[c] == user[cut] and part[c] == part[cut]]
        ahead = {i for c in mine for i in item[c]}
        pool = [(z, i, q) for c in range(len(flow)) if part[c] == part[cut] and user[c] != user[cut]
                for z, i, q in zip(target[c], item[c], logq[c], strict=True)]
        pool += list(zip(vector, others, others_logq, strict=True))
        past = {i: n for i, n in reversed(walk[cut]) if i > 0}
        kept = [(z, q) for z, i, q in pool if i not in ahead and i not in past]
        losses = []
        for k, z in enumerate(target[cut]):
            f = flow[cut][k]
            own = (f @ z + again * (item[cut][k] in past)) / tau
            total = math.exp(own) + sum(math.exp(f @ n / tau - q - math.log(len(kept))) for n, q in kept)
            total += sum(math.exp((f @ n + again) / tau) for i, n in past.items() if i not in item[cut])
            losses.append(math.log(total) - own)
        out.append(losses)
    return out


def tsp_pairs(user: Array, page: Array, hours: Array, clicked: Array, longest: float) -> list[tuple[int, int]]:
    """Every clicked and unclicked item of one user on different pages that are not further apart."""
    return [(p, n) for p in range(len(user)) for n in range(len(user))
            if clicked[p] == 1 and clicked[n] == 0 and user[p] == user[n] and page[p] != page[n]
            and abs(hours[p] - hours[n]) <= longest]


def tsp_loss(score: Array, hours: Array, pairs: list[tuple[int, int]], fade: float) -> tuple[float, float]:
    """Sum and weight of -log sigmoid(score of the clicked - score of the other), fading with the time between."""
    weights = [math.exp(-abs(hours[p] - hours[n]) / fade) for p, n in pairs]
    losses = [math.log1p(math.exp(-(score[p] - score[n]))) for p, n in pairs]
    return float(np.dot(weights, losses)), float(np.sum(weights))


def aligned(flow: Array, scale: Array, shift: Array, norm: Array, bias: Array) -> Array:
    """[K, d] layer norm of an affine map of each step."""
    mapped = flow @ scale.T + shift
    return (mapped - mapped.mean(1, keepdims=True)) / np.sqrt(mapped.var(1, keepdims=True) + 1e-5) * norm + bias


def cosines(steps: Array, end: Array) -> Array:
    """[K] cosine of each step to one vector."""
    return unit(steps) @ unit(end)


def attended(query: Array, keys: Array, values: Array, heads: int) -> Array:
    """[d] scaled dot-product attention of one query, head by head."""
    out = []
    for q, k, v in zip(*(np.split(x, heads, axis=-1) for x in (query, keys, values)), strict=True):
        score = np.exp(k @ q / math.sqrt(len(q)))
        out.append(score / score.sum() @ v)
    return np.concatenate(out)


def page_pair_losses(vector: Array, page: Array, clicked: Array, weight: Array, tau: float) -> tuple[list[float], list[int]]:
    """Of viewed items of one page: sums of -log sigmoid(+-cosine / tau) and numbers of co-click, co-non-click, mono-click pairs."""
    unit_vector, sums, counts = unit(vector), [0.0, 0.0, 0.0], [0, 0, 0]
    for i in range(len(page)):
        for j in range(i):
            if page[i] == page[j] and weight[i] > 0 and weight[j] > 0:
                kind = 2 if clicked[i] != clicked[j] else 0 if clicked[i] else 1
                score = unit_vector[i] @ unit_vector[j] / tau
                sums[kind] += float(np.logaddexp(0.0, score if kind == 2 else -score))
                counts[kind] += 1
    return sums, counts


def page_contrast(vector: Array, page: Array, clicked: Array, weight: Array, tau: float) -> tuple[float, int]:
    """Over anchors with both an item alike and one unlike on their page: -mean over those alike of log softmax over all others."""
    unit_vector, total, anchors = unit(vector), 0.0, 0
    for i in range(len(page)):
        others = [j for j in range(len(page)) if j != i and page[j] == page[i] and weight[i] > 0 and weight[j] > 0]
        alike = [j for j in others if clicked[j] == clicked[i]]
        if alike and len(alike) < len(others):
            score = {j: unit_vector[i] @ unit_vector[j] / tau for j in others}
            log_sum = math.log(sum(math.exp(s) for s in score.values()))
            total += float(np.mean([log_sum - score[j] for j in alike]))
            anchors += 1
    return total, anchors


def residual_codes(vector: Array, books: Array) -> tuple[list[int], Array]:
    """Codes of one vector [d] by books [L, K, d], and [L + 1, d] what is left before the first level and after each."""
    left, codes = [vector], []
    for book in books:
        codes.append(int(np.argmin([float(((left[-1] - code) ** 2).sum()) for code in book])))
        left.append(left[-1] - book[codes[-1]])
    return codes, np.stack(left)


def quantiser_loss(vector: Array, books: Array) -> float:
    """Of each level the squared distance of what is left to its code: once for the code, a quarter for the vector."""
    codes, left = residual_codes(vector, books)
    return float(sum(1.25 * ((left[level] - books[level][code]) ** 2).sum() for level, code in enumerate(codes)))


def nearness(point: Array, book: Array) -> Array:
    """[K] softmax of minus the squared distances of a point to the rows of a book."""
    score = np.exp(-np.array([float(((point - code) ** 2).sum()) for code in book]))
    return score / score.sum()


def code_alignment(vector: Array, books: Array, attended: Array, target: Array) -> tuple[float, float, Array]:
    """Of one item: both divergences of the two distributions over codes, summed over the levels; half the squared distance of the
    student's vector to the target; and that vector, the sum of the attended codes."""
    codes, left = residual_codes(vector, books)
    kl, student = 0.0, np.zeros_like(target)
    for level, code in enumerate(codes):
        raw, seen = nearness(left[level], books[level]), nearness(target - student, attended[level])
        for one, other in ((raw, seen), (seen, raw)):
            kl += sum(p * math.log(p / (q + 1e-8) + 1e-8) for p, q in zip(one, other, strict=True))
        student = student + attended[level][code]
    return kl, float(0.5 * ((student - target) ** 2).sum()), student
