"""Residual quantisation and its losses beside their equations, and what k-means starts with."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.code_start import begin
from models.layers import Jagged
from models.quantiser import ResidualQuantiser, alignment, code_counts, code_figures, sum_of_codes
from tests.models import oracles
from tests.models.behaviours import CLOSE

PAGES, LEVELS, CODES, DIM = [3, 0, 4, 1], 3, 6, 8


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantiser(seed: int = 1) -> ResidualQuantiser:
    made = ResidualQuantiser(LEVELS, CODES, DIM)
    with torch.no_grad():
        made.books.copy_(drawn(LEVELS, CODES, DIM, seed=seed) * 0.6)
    return made


def array(x: Tensor) -> oracles.Array:
    return x.detach().double().numpy()


def test_codes_and_losses_of_quantisation_are_those_of_the_equations() -> None:
    made, vectors = quantiser(), drawn(40, DIM)
    found = made(vectors)
    for n, vector in enumerate(array(vectors)):
        codes, left = oracles.residual_codes(vector, array(made.books))
        assert found.codes[n].tolist() == codes
        assert array(found.vector)[n] == pytest.approx(vector - left[-1], abs=1e-5)
        assert float(found.loss[n].detach()) == pytest.approx(oracles.quantiser_loss(vector, array(made.books)), rel=1e-5)
    torch.testing.assert_close(made.decode(found.codes), found.vector, **CLOSE)


def test_the_gradient_goes_straight_through_to_the_vectors_and_not_to_the_books() -> None:
    made, vectors = quantiser(), drawn(40, DIM).requires_grad_()
    made(vectors).vector.sum().backward()
    assert torch.equal(vectors.grad, torch.ones_like(vectors)) and made.books.grad is None


def test_the_loss_of_quantisation_pulls_code_and_vector_to_each_other_four_to_one() -> None:
    made, vectors = quantiser(), drawn(1, DIM).requires_grad_()
    made(vectors).loss.sum().backward()
    codes, left = oracles.residual_codes(array(vectors)[0], array(made.books))
    for level, code in enumerate(codes):
        assert array(made.books.grad)[level, code] == pytest.approx(-2 * left[level + 1], abs=1e-5)
    assert array(vectors.grad)[0] == pytest.approx(0.5 * left[1:].sum(0), abs=1e-5)


def parts(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Jagged]:
    """Vectors, attended books and targets of items on some pages."""
    shown = Jagged(torch.tensor(PAGES))
    attended = drawn(len(PAGES), LEVELS, CODES, 5, seed=seed + 7)
    return drawn(shown.total, DIM, seed=seed), attended, drawn(shown.total, 5, seed=seed + 8), shown


def test_alignment_and_reconstruction_are_those_of_the_equations() -> None:
    made, (vectors, attended, target, shown) = quantiser(), parts()
    codes = made.encode(vectors)
    found = alignment(vectors, codes, made.books, attended, target, shown)
    for n, page in enumerate(shown.page.tolist()):
        kl, rest, student = oracles.code_alignment(array(vectors)[n], array(made.books), array(attended)[page], array(target)[n])
        assert float(found.kl[n].detach()) == pytest.approx(kl, rel=1e-5)
        assert float(found.rest[n].detach()) == pytest.approx(rest, rel=1e-5)
        places = codes[n: n + 1] + page * LEVELS * CODES
        assert array(sum_of_codes(attended.flatten(0, 2), places, CODES))[0] == pytest.approx(student, abs=1e-5)


def test_alignment_teaches_books_vectors_and_attention_but_never_the_teacher() -> None:
    made, (vectors, attended, target, shown) = quantiser(), parts()
    vectors, attended, target = (x.requires_grad_() for x in (vectors, attended, target))
    found = alignment(vectors, made.encode(vectors), made.books, attended, target, shown)
    found.kl.sum().backward(retain_graph=True)
    assert all(torch.isfinite(x.grad).all() and float(x.grad.abs().sum()) > 0 for x in (vectors, attended, made.books))
    found.rest.sum().backward()
    assert target.grad is None


def test_equal_books_and_vectors_have_no_divergence_and_a_linear_attention_reconstructs_what_was_quantised() -> None:
    made, vectors, shown = quantiser(), drawn(8, DIM), Jagged(torch.tensor([5, 3]))
    codes, mix = made.encode(vectors), drawn(DIM, DIM, seed=3)
    same = alignment(vectors, codes, made.books, made.books.expand(2, -1, -1, -1), vectors, shown)
    assert float(same.kl.detach().abs().max()) < 1e-4
    mapped = alignment(vectors, codes, made.books, (made.books @ mix).expand(2, -1, -1, -1), made.decode(codes) @ mix, shown)
    assert float(mapped.rest.detach().max()) < 1e-8


def test_k_means_uses_every_code_and_leaves_less_from_level_to_level() -> None:
    made, groups = ResidualQuantiser(2, 16, DIM), drawn(16, DIM, seed=5) * 3
    vectors = (groups.repeat(20, 1) + 0.3 * drawn(320, DIM, seed=6)).double().numpy()
    left = [float((vectors**2).sum())]
    begin(made, vectors, seed=7)
    codes = made.encode(torch.from_numpy(vectors).float())
    for levels in (1, 2):
        kept = torch.stack([made.books[n][codes[:, n]] for n in range(levels)]).sum(0)
        left.append(float(((vectors - array(kept)) ** 2).sum()))
    assert left[1] < 0.1 * left[0] and left[2] < left[1]
    figures = code_figures(code_counts(codes, torch.ones(320), 16))
    assert figures["code_use"] == 1.0 and figures["code_entropy_1"] > 0.9 * math.log(16)
    again = ResidualQuantiser(2, 16, DIM)
    begin(again, vectors, seed=7)
    assert torch.equal(again.books, made.books)


def test_k_means_of_fewer_vectors_than_codes_keeps_all_of_them() -> None:
    made, vectors = ResidualQuantiser(2, 16, DIM), np.repeat(drawn(3, DIM).double().numpy(), 5, axis=0)
    begin(made, vectors, seed=7)
    wanted = torch.from_numpy(vectors).float()
    assert torch.isfinite(made.books).all()
    torch.testing.assert_close(made.decode(made.encode(wanted)), wanted, **CLOSE)


def test_monitors_count_items_of_weight_alone() -> None:
    codes = torch.tensor([[0, 1], [0, 2], [3, 1], [2, 2]])
    counts = code_counts(codes, torch.tensor([1.0, 1.0, 1.0, 0.0]), 4)
    assert counts.tolist() == [[2, 0, 0, 1], [0, 2, 1, 0]]
    found = code_figures(counts)
    assert found["code_use_1"] == found["code_use"] == 0.5 and found["code_most_frequent_2"] == 1
    assert found["code_most_frequent_share_1"] == pytest.approx(2 / 3)
    assert found["code_entropy_1"] == pytest.approx(-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3))
