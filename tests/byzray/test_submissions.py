"""The three forms of submissions: what a rule asks of each is what the explicitly formed rows answer.

Shapes in names: N submissions, H honest ones, D parameters, M mixed submissions.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from byzray import submissions as submissions_module
from byzray.distances import distances
from byzray.line import Line
from byzray.order_statistics import mean_of_rows, order_statistics, repeated
from byzray.submissions import COMPARED, Matrix, Mixed, OnLine, Submissions, uniform

N, D = 9, 40
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
EXACT = {torch.float32: 1e-5, torch.float64: 1e-12}
"""The relative error of lengths that are those of differences, and of sums of coordinates."""

OF_SQUARES = {torch.float32: 1e-6, torch.float64: 1e-13}
"""The error of squared lengths that follow from others, relative to the largest of these."""


def normal(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def set_row(x_ND: Tensor, row: int, value: float) -> Tensor:
    x_ND[row] = value
    return x_ND


def set_one(x_ND: Tensor, row: int, value: float) -> Tensor:
    x_ND[row, 3] = value
    return x_ND


ROWS: dict[str, Callable[[], Tensor]] = {
    "ordinary": lambda: normal(N, D),
    "near consensus": lambda: 1e3 + 1e-4 * normal(N, D),
    "an outlier": lambda: set_row(normal(N, D), 2, 1e8),
    "near consensus with an outlier": lambda: set_row(1e3 + 1e-4 * normal(N, D), 2, 1e8),
    "equal": lambda: normal(1, D).expand(N, D).clone(),
    "some equal": lambda: normal(3, D).repeat(3, 1),
    "zero": lambda: torch.zeros(N, D, dtype=torch.float64),
    "NaN": lambda: set_row(normal(N, D), 4, math.nan),
    "one NaN": lambda: set_one(normal(N, D), 4, math.nan),
    "infinite": lambda: set_one(set_row(normal(N, D), 8, -math.inf), 4, math.inf),
    "none finite": lambda: torch.full((N, D), math.inf, dtype=torch.float64),
}
FINITE = [case for case, rows in ROWS.items() if rows().isfinite().all()]
CASES = pytest.mark.parametrize("case", ROWS)

WEIGHTS: dict[str, Callable[[], Tensor]] = {
    "identity": lambda: torch.eye(N, dtype=torch.float64),
    "means of buckets": lambda: torch.block_diag(*[torch.full((1, 3), 1 / 3, dtype=torch.float64)] * 3),
    "means of neighbours": lambda: sum(torch.eye(N).double().roll(k, 1) for k in range(7)) / 7,  # type: ignore[return-value]
    "shrunk": lambda: torch.diag(torch.linspace(0, 1, N, dtype=torch.float64)),
    "any": lambda: normal(5, N, 11),
    "more of them": lambda: normal(14, N, 12) / 3,
    "nothing": lambda: torch.zeros(4, N, dtype=torch.float64),
}
MIXES = pytest.mark.parametrize("mix", WEIGHTS)


def exactly_mixed(weights_MN: Tensor, x_ND: Tensor) -> Tensor:
    """The rows in double precision: sums over those of the others that have a weight."""
    mixed = np.zeros((len(weights_MN), x_ND.shape[1]))
    for row, weights_N in zip(mixed, weights_MN.double().numpy(), strict=True):
        used = weights_N != 0
        with np.errstate(invalid="ignore"):  # of infinities
            row[:] = (weights_N[used][:, None] * x_ND.double().numpy()[used]).sum(axis=0)
    mixed[~np.isfinite(mixed).all(axis=1)] = math.nan
    return torch.from_numpy(mixed)


def exact_lengths(rows_ND: Tensor) -> Tensor:
    """The norms of rows in double precision, infinite where one is not finite."""
    return rows_ND.norm(dim=-1).nan_to_num(nan=math.inf, posinf=math.inf)


def exact_distances(rows_ND: Tensor) -> Tensor:
    lengths_NN = exact_lengths(rows_ND[:, None] - rows_ND)
    return lengths_NN.fill_diagonal_(0)


def assert_lengths(found: Tensor, expected: Tensor, rtol: float) -> None:
    assert found.dtype is torch.float64
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)


def assert_squares(found: Tensor, expected: Tensor, rtol: float, largest: float, from_origin: float = 0.0) -> None:
    """Lengths that follow from others, of which `largest` is the largest. A sum of weights that should be 1 is so but
    for its rounding, which moves a mixture by as much of its distance `from_origin`."""
    assert found.dtype is torch.float64
    assert torch.equal(found.isinf(), expected.isinf())
    finite = ~expected.isinf()
    found, expected, rounding = found[finite], expected[finite], 1e-15 * from_origin
    allowed = rtol * (expected.square() + largest**2) + 2 * expected * rounding + rounding**2
    worst = ((found.square() - expected.square()).abs() - allowed).max() if len(found) else torch.tensor(0.0)
    assert (found >= 0).all()
    assert worst <= 0, f"squares are too far off by {worst}"


def longest(lengths: Tensor) -> float:
    return lengths.masked_fill(lengths.isinf(), 0).max().item()


# A matrix


@CASES
@DTYPES
def test_a_matrix(case: str, dtype: torch.dtype) -> None:
    x_ND = ROWS[case]().to(dtype)
    found = Matrix(x_ND)
    assert (found.n, found.device) == (N, x_ND.device)
    assert found.rows_ND is x_ND
    assert_lengths(found.distances_NN(), exact_distances(x_ND.double()), EXACT[dtype])
    assert_lengths(found.norms_N(), exact_lengths(x_ND.double()), EXACT[dtype])
    assert torch.equal(found.ranks_DK(2, 4), order_statistics(x_ND, 2, 4))


@CASES
@DTYPES
def test_a_matrix_whose_last_row_is_repeated(case: str, dtype: torch.dtype) -> None:
    x_UD = ROWS[case]().to(dtype)
    whole_ND = repeated(x_UD, 5)
    n = len(whole_ND)
    matrix_ND = whole_ND.clone()
    matrix_ND[len(x_UD) :] = -7.0  # not written yet
    version = matrix_ND._version
    found, expected = Matrix(matrix_ND, distinct=len(x_UD)), Matrix(whole_ND)
    assert (found.n, len(found.distinct_UD)) == (n, len(x_UD))
    assert torch.equal(found.distances_NN(), expected.distances_NN())
    assert torch.equal(found.norms_N(), expected.norms_N())
    assert torch.equal(found.ranks_DK(2, 4), expected.ranks_DK(2, 4))
    for same in (
        lambda one: one.mean_of(torch.tensor([n - 1, 0, len(x_UD), 1])),
        lambda one: one.mean_of_ranks(2, n - 4),
        lambda one: one.mean_around(2, n - 4, n - 2),
    ):
        torch.testing.assert_close(same(found), same(expected), rtol=0, atol=0, equal_nan=True)
    assert (matrix_ND[len(x_UD) :] == -7).all()
    torch.testing.assert_close(found.rows_ND, whole_ND, rtol=0, atol=0, equal_nan=True)
    assert matrix_ND._version == version  # for PyTorch nothing has changed


def test_a_matrix_has_no_other_rows() -> None:
    for found in (Matrix(normal(N, D)), Matrix(normal(N, D), distinct=3)):
        assert torch.equal(found.mean_of(torch.tensor([-1])), found.rows_ND[-1])
        for row in (N, -N - 1):
            with pytest.raises(IndexError):
                found.mean_of(torch.tensor([row]))


def test_lengths_are_computed_once() -> None:
    for found in (Matrix(normal(N, D)), Mixed(normal(4, N, 1), Matrix(normal(N, D)))):
        assert found.distances_NN() is found.distances_NN()
        assert found.norms_N() is found.norms_N()


# All forms


def on_line(x_ND: Tensor, x: float = 0.0) -> OnLine:
    """The same rows, of which the last two are equal and have moved to where they are."""
    direction_D = normal(1, x_ND.shape[1], 21, x_ND.dtype)[0]
    line = Line(x_ND[:-2], x_ND[:-2].mean(dim=0), x_ND[-1] - x * direction_D, direction_D, 2)
    return OnLine(line, torch.tensor(x, dtype=torch.float64))


TURNED_NN = torch.eye(N, dtype=torch.float64).roll(2, 0)
FORMS: dict[str, Callable[[Tensor], Submissions]] = {
    "matrix": Matrix,
    "line": on_line,
    "mixed": lambda x_ND: Mixed(TURNED_NN.T, Matrix(x_ND.roll(2, 0))),
    "mixed line": lambda x_ND: Mixed(torch.eye(N, dtype=torch.float64), on_line(x_ND)),
    "mixed twice": lambda x_ND: Mixed(TURNED_NN.T, Mixed(TURNED_NN, Matrix(x_ND))),
}
# Whatever Byzantine rows are, an honest row that is not finite leaves a line without a mean: see below.
KNOWN = [(form, case) for form in FORMS for case in ROWS if case in FINITE or "line" not in form]


@pytest.mark.parametrize(("form", "case"), KNOWN)
@DTYPES
def test_every_form_answers_alike(form: str, case: str, dtype: torch.dtype) -> None:
    x_ND = ROWS[case]().to(dtype)
    x_ND[-1] = x_ND[-2]
    found = FORMS[form](x_ND)
    sound_N = x_ND.isfinite().all(dim=1)
    assert found.n == N
    assert torch.equal(found.rows_ND[sound_N], x_ND[sound_N])
    assert not found.rows_ND[~sound_N].isfinite().all(dim=1).any()
    expected_NN, expected_N = exact_distances(x_ND.double()), exact_lengths(x_ND.double())
    if "line" in form:
        assert_squares(found.distances_NN(), expected_NN, OF_SQUARES[dtype], longest(expected_NN))
    else:
        assert_lengths(found.distances_NN(), expected_NN, EXACT[dtype])
    assert_lengths(found.norms_N(), expected_N, EXACT[dtype])
    if sound_N.all():
        assert torch.equal(found.ranks_DK(2, 4), order_statistics(x_ND, 2, 4))
    rows_K = sound_N.nonzero()[:3, 0]
    if len(rows_K):
        expected_D = mean_of_rows(x_ND, rows_K)
        torch.testing.assert_close(found.mean_of(rows_K), expected_D, rtol=EXACT[dtype], atol=EXACT[dtype])
    positions_K = torch.tensor([3, 0, 17])
    columns = found.columns(positions_K)
    assert columns.n == N
    assert torch.equal(columns.rows_ND[sound_N], x_ND[sound_N][:, positions_K])
    # What is not finite elsewhere does not matter to a matrix; a mixture forms NaN in every coordinate of those it has.
    assert torch.equal(columns.norms_N().isfinite(), x_ND[:, positions_K].isfinite().all(dim=1))


@pytest.mark.parametrize("form", FORMS)
@DTYPES
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_combination_never_reads_rows_of_weight_0(form: str, dtype: torch.dtype, poison: float) -> None:
    """Weights need not sum to 1; where a row that is not finite has one, the combination is NaN throughout."""
    x_ND = normal(N, D, 3, dtype)
    x_ND[4, 3], x_ND[-2:] = poison, poison
    found = FORMS[form](x_ND)
    weights_N = torch.tensor([0.5, -2.0, 0.25, 3.0, 0.0, 1e-3, 0.125, 0.0, 0.0], dtype=torch.float64)
    used_N = weights_N != 0
    expected_D = weights_N[used_N] @ x_ND[used_N].double()
    combined_D = found.combine(weights_N)
    assert combined_D.dtype is dtype
    torch.testing.assert_close(combined_D.double(), expected_D, rtol=EXACT[dtype], atol=EXACT[dtype])
    for row in (4, 7, 8):
        assert found.combine(weights_N + 1e-6 * torch.eye(N)[row]).isnan().all()
    assert not found.combine(torch.zeros(N, dtype=torch.float64)).any()


# On a line


@DTYPES
@pytest.mark.parametrize(("mean", "noise"), [(0.0, 1.0), (1.0, 1.0), (1e3, 1e-4)])
def test_on_a_line_are_the_honest_rows_and_what_moves(mean: float, noise: float, dtype: torch.dtype) -> None:
    honest_HD = (mean + noise * normal(7, D, 1)).to(dtype)
    mean_D = honest_HD.mean(dim=0)
    line = Line(honest_HD, mean_D, mean_D * 1, honest_HD.std(dim=0), 3)
    for x in (0.0, 1e-3, 1.5, -2.0, 300.0, 1e8):
        at = OnLine(line, torch.tensor(x, dtype=torch.float64))
        moved_D = mean_D.double() + x * line.direction_D.double()
        exact_ND = torch.cat((honest_HD.double(), moved_D.expand(3, -1)))
        assert at.n == 10
        assert_lengths(at.distances_NN(), exact_distances(exact_ND), EXACT[torch.float32])
        assert_lengths(at.norms_N(), exact_lengths(exact_ND), EXACT[torch.float32])
        formed = Matrix(at.rows_ND.clone())
        torch.testing.assert_close(formed.rows_ND.double(), exact_ND, rtol=EXACT[dtype], atol=EXACT[dtype])
        assert torch.equal(at.ranks_DK(0, 10), formed.ranks_DK(0, 10))
        weights_N = torch.linspace(-1, 1, 10, dtype=torch.float64)
        assert torch.equal(at.combine(weights_N), formed.combine(weights_N))
        rows_K = torch.tensor([8, 0, 3])
        assert torch.equal(at.mean_of(rows_K), formed.mean_of(rows_K))
        # Those that move are equal to the bit.
        assert not at.distances_NN()[7:, 7:].any()
        assert torch.equal(at.distances_NN()[7:, :7], at.distances_NN()[7:8, :7].expand(3, -1))
        assert len(at.norms_N()[7:].unique()) == 1


@pytest.mark.parametrize("case", [case for case in ROWS if case not in FINITE and case != "none finite"])
def test_on_a_line_an_honest_row_that_is_not_finite_harms_without_end(case: str) -> None:
    """No aggregate is at a distance from the honest mean; the honest rows are what they are."""
    x_ND = ROWS[case]()
    x_ND[-2:] = 1.0
    at = on_line(x_ND)
    assert torch.equal(at.distances_NN()[:7, :7], distances(x_ND[:7]))
    assert_lengths(at.norms_N()[:7], exact_lengths(x_ND[:7]), EXACT[torch.float64])
    weights_N = uniform(torch.tensor([0, 8]), N)
    for harm in (at.line.harm(x_ND[0]), at.line.harm_of_weights(weights_N, 1 - weights_N.sum(), at.x)):
        assert not harm.isfinite()


# Mixtures


@MIXES
@CASES
@DTYPES
def test_mixtures_are_their_explicit_rows(mix: str, case: str, dtype: torch.dtype) -> None:
    x_ND, weights_MN = ROWS[case]().to(dtype), WEIGHTS[mix]()
    found, exact_MD = Mixed(weights_MN, Matrix(x_ND)), exactly_mixed(weights_MN, x_ND)
    assert found.n == len(weights_MN)
    assert found.rows_ND.dtype is dtype
    largest = longest(x_ND.double().abs().nan_to_num(nan=math.inf))
    reach = max(1.0, weights_MN.abs().sum(dim=1).max().item())
    torch.testing.assert_close(
        found.rows_ND.double(), exact_MD, rtol=0, atol=EXACT[dtype] * reach * largest, equal_nan=True
    )
    # Lengths follow from those of the others: between mixtures of a sum of weights from the distances alone.
    sums_M = weights_MN.sum(dim=1)
    balanced = bool((sums_M - sums_M[0]).abs().max() < 1e-12)
    of_others = longest(exact_distances(x_ND.double()))
    from_origin = max(of_others, longest(exact_lengths(x_ND.double())))
    between = reach * (of_others if balanced else from_origin)
    assert_squares(found.distances_NN(), exact_distances(exact_MD), OF_SQUARES[dtype], between, reach * from_origin)
    assert_squares(found.norms_N(), exact_lengths(exact_MD), OF_SQUARES[dtype], reach * from_origin)
    assert torch.equal(found.norms_N().isfinite(), exact_MD.isfinite().all(dim=1))
    assert not found.distances_NN().diagonal().any()
    assert torch.equal(found.distances_NN(), found.distances_NN().T)
    if exact_MD.isfinite().all():
        assert torch.equal(found.ranks_DK(0, found.n), order_statistics(found.rows_ND, 0, found.n))
    used_M = torch.linspace(-1, 1, found.n, dtype=torch.float64)
    exact_D = exactly_mixed(used_M[None], exact_MD)[0]
    torch.testing.assert_close(
        found.combine(used_M).double(),
        exact_D,
        rtol=0,
        atol=EXACT[dtype] * found.n * reach * largest,
        equal_nan=True,
    )


@pytest.mark.parametrize("d", [1, 17, 79])
@pytest.mark.parametrize("n", [9, 13, 51])
@DTYPES
def test_equal_mixtures_are_equal_to_the_bit(dtype: torch.dtype, n: int, d: int) -> None:
    """So that ties go to the lowest index, as between submissions that are equal. Products of these sizes are not."""
    different = n // 3 + 1
    weights_NN = normal(different, n, 5).abs().repeat(3, 1)[:n]
    weights_NN[:, 4] = 0
    x_ND = normal(n, d, 6, dtype)
    x_ND[4] = math.nan
    found = Mixed(weights_NN, Matrix(x_ND))
    first_N = torch.arange(n) % different
    assert torch.equal(found.rows_ND, found.rows_ND[first_N])
    assert torch.equal(found.norms_N(), found.norms_N()[first_N])
    assert torch.equal(found.distances_NN(), found.distances_NN()[first_N][:, first_N])
    assert torch.equal(found.distances_NN() == 0, first_N[:, None] == first_N)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_mixture_by_weights_that_are_not_finite_is_not_finite(poison: float) -> None:
    weights_MN = normal(4, N, 5)
    weights_MN[2] = poison
    found = Mixed(weights_MN, Matrix(normal(N, D)))
    expected = [True, True, False, True]
    assert found.rows_ND.isfinite().all(dim=1).tolist() == expected
    assert found.norms_N().isfinite().tolist() == expected
    assert found.distances_NN().isfinite()[0].tolist() == expected
    assert (found.distances_NN()[2] == torch.tensor([math.inf, math.inf, 0, math.inf])).all()
    used_M = torch.tensor([0.5, 0, 0, 2], dtype=torch.float64)
    torch.testing.assert_close(found.combine(used_M), (used_M[[0, 3]] @ weights_MN[[0, 3]]) @ normal(N, D))


@DTYPES
def test_mixtures_of_equal_submissions(dtype: torch.dtype) -> None:
    """Different weights of equal submissions make mixtures at distance 0."""
    x_ND = ROWS["some equal"]().to(dtype)
    found = Mixed(torch.eye(N, dtype=torch.float64), Matrix(x_ND)).distances_NN()
    for i in range(N):
        for j in range(N):
            assert (found[i, j] == 0) == (i % 3 == j % 3)
            assert found[i, j] == found[i % 3, j % 3]


@MIXES
@DTYPES
def test_a_mixture_of_mixtures_is_one_of_the_submissions(mix: str, dtype: torch.dtype) -> None:
    x_ND, first_MN = normal(N, D, 7, dtype), WEIGHTS[mix]()
    x_ND[4, 3] = math.nan
    second_KM = normal(6, len(first_MN), 8)
    second_KM[0, (first_MN[:, 4] != 0)] = 0  # without what is not finite
    found = Mixed(second_KM, Mixed(first_MN, Matrix(x_ND)))
    assert isinstance(found.others, Matrix)
    torch.testing.assert_close(found.weights_MN, second_KM @ first_MN)
    exact_KD = exactly_mixed(second_KM, exactly_mixed(first_MN, x_ND))
    assert exact_KD[0].isfinite().all()
    reach = max(1.0, (second_KM.abs() @ first_MN.abs()).sum(dim=1).max().item())
    largest = exact_lengths(x_ND.double())
    torch.testing.assert_close(
        found.rows_ND.double(), exact_KD, rtol=0, atol=EXACT[dtype] * reach * longest(largest), equal_nan=True
    )
    between = reach * longest(largest)
    assert_squares(found.distances_NN(), exact_distances(exact_KD), OF_SQUARES[dtype], between)
    assert_squares(found.norms_N(), exact_lengths(exact_KD), OF_SQUARES[dtype], between)
    weights_K = torch.tensor([0.5, 0, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(found.combine(weights_K), 0.5 * found.rows_ND[0], rtol=EXACT[dtype], atol=EXACT[dtype])
    torch.testing.assert_close(found.of_others(weights_K), 0.5 * second_KM[0] @ first_MN)
    torch.testing.assert_close(found.mean_of(torch.tensor([0])), found.rows_ND[0], rtol=EXACT[dtype], atol=EXACT[dtype])


class Unreadable(Matrix):
    """A matrix of which lengths may be asked, but not the rows."""

    @property
    def distinct_UD(self) -> Tensor:
        raise AssertionError("the rows were formed")


@pytest.mark.parametrize(("n", "within"), [(127, True), (130, False)])
def test_beyond_a_size_distances_are_those_of_the_rows(n: int, within: bool) -> None:
    x_ND = normal(n, 6, 9)
    x_ND[5, 2] = math.nan
    assert (n**2 * (n + 1) ** 2 <= COMPARED) == within
    weights_NN = torch.eye(n, dtype=torch.float64).roll(1, 0) * 0.75 + torch.eye(n, dtype=torch.float64) * 0.25
    expected_NN = exact_distances(exactly_mixed(weights_NN, x_ND))
    found = Mixed(weights_NN, Matrix(x_ND))
    assert_squares(found.distances_NN(), expected_NN, OF_SQUARES[torch.float64], longest(expected_NN))
    assert torch.equal(found.distances_NN(), distances(found.rows_ND)) != within
    unreadable = Mixed(weights_NN, Unreadable(x_ND))
    if within:
        assert torch.equal(unreadable.distances_NN(), found.distances_NN())
    else:
        with pytest.raises(AssertionError, match="formed"):
            unreadable.distances_NN()
    assert torch.equal(unreadable.norms_N(), found.norms_N())


@CASES
@MIXES
def test_on_either_side_of_that_size_they_agree(case: str, mix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x_ND, weights_MN = ROWS[case](), WEIGHTS[mix]()
    within = Mixed(weights_MN, Matrix(x_ND)).distances_NN()
    monkeypatch.setattr(submissions_module, "COMPARED", 0)
    beyond = Mixed(weights_MN, Matrix(x_ND)).distances_NN()
    reach = max(1.0, weights_MN.abs().sum(dim=1).max().item())
    # Rows far from the origin are rounded there, their differences are not.
    largest = max(longest(exact_distances(x_ND)), longest(exact_lengths(x_ND)))
    assert_squares(within, beyond, 1e-10, reach * largest)


def test_weights_of_a_mean_count_a_row_as_often_as_it_is_selected() -> None:
    x_ND, rows_K = normal(N, D), torch.tensor([3, 1, 3, 0])
    weights_N = uniform(rows_K, N)
    assert weights_N.tolist() == [0.25, 0.25, 0, 0.5, *[0] * 5]
    assert weights_N.dtype is torch.float64
    torch.testing.assert_close(weights_N @ x_ND, mean_of_rows(x_ND, rows_K))
    mixed = Mixed(torch.eye(N, dtype=torch.float64), Matrix(x_ND))
    torch.testing.assert_close(mixed.mean_of(rows_K), mean_of_rows(x_ND, rows_K))
    at = on_line(x_ND, 0.5)
    torch.testing.assert_close(
        at.line.harm_of_weights(uniform(rows_K, at.n), torch.zeros_like(at.x), at.x), at.line.harm(at.mean_of(rows_K))
    )


def test_weights_that_add_up_to_nothing_do_not_hide_what_is_not_finite() -> None:
    rows_ND = torch.ones(5, 8)
    rows_ND[3:] = math.nan
    weights_MN = torch.tensor([[1.0, 0, 0, 0.5, -0.5], [1.0, 0, 0, 0, 0]], dtype=torch.float64)
    mixed = Mixed(weights_MN, Matrix(rows_ND, distinct=4))
    assert mixed.rows_ND[0].isnan().all()
    assert torch.equal(mixed.rows_ND[1], rows_ND[0])
    assert mixed.norms_N()[0] == math.inf
