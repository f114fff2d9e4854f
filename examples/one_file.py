"""Distributed SGD under attack, from data to theta, in plain PyTorch: the idea of byzray in one file.

Seven honest workers train a network on handwritten digits. Four Byzantine workers see what the honest ones submit and
answer with -0.1 times their mean ("fall of empires"). The server averages the submissions closest to the others
(multi-Krum). Momentum is kept in the update, after the rule, as usual; or at each worker, before attack and rule, and
training succeeds. As a setup of byzray this is digits.yaml; tests/examples/test_one_file.py compares the parameters.

Shapes in names: S steps, N submissions, H honest ones, F Byzantine ones, B examples of a batch, D parameters.
"""

from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import nll_loss
from torch.nn.utils import parameters_to_vector, vector_to_parameters

H, F, STEPS, BATCH, RATE, BETA = 7, 4, 300, 4, 0.2, 0.9
N = H + F
Rule = Callable[[Tensor], Tensor]

digits = load_digits()
x, y = torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target)
test = torch.arange(len(y)) % 5 == 4  # every fifth example
x_train, y_train, x_test, y_test = x[~test], y[~test], x[test], y[test]

torch.manual_seed(1)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), nn.LogSoftmax(dim=1))


def gradient(theta_D: Tensor, rows_B: Tensor) -> Tensor:
    """What one worker computes: the gradient of the loss of its batch."""
    vector_to_parameters(theta_D, model.parameters())
    loss = nll_loss(model(x_train[rows_B]), y_train[rows_B])
    return parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))


def empire(honest_HD: Tensor, factor: float = 1.1) -> Tensor:
    """The attack: a step back, small enough to lie among the honest submissions."""
    return ((1 - factor) * honest_HD.mean(dim=0)).expand(F, -1)


def multi_krum(submissions_ND: Tensor) -> Tensor:
    """The rule: the mean of the N-F-2 submissions whose N-F-1 nearest others are closest."""
    distances_NN = (submissions_ND[:, None] - submissions_ND).norm(dim=2).fill_diagonal_(torch.inf)
    scores_N = distances_NN.sort(dim=1).values[:, : N - F - 1].sum(dim=1)
    return submissions_ND[scores_N.argsort(stable=True)[: N - F - 2]].mean(dim=0)


def median(submissions_ND: Tensor) -> Tensor:
    """Another rule: the median of each coordinate."""
    return submissions_ND.median(dim=0).values


def train(theta_D: Tensor, rows_SHB: Tensor, momentum_at_workers: bool, rule: Rule = multi_krum) -> Tensor:
    """All steps, given the positions in the training set of every batch: the parameters after them."""
    momentum_HD, momentum_D = torch.zeros(H, len(theta_D)), torch.zeros_like(theta_D)
    for rows_HB in rows_SHB:
        gradients_HD = torch.stack([gradient(theta_D, rows_B) for rows_B in rows_HB])
        momentum_HD = BETA * momentum_HD + gradients_HD
        honest_HD = momentum_HD if momentum_at_workers else gradients_HD
        aggregate_D = rule(torch.cat((honest_HD, empire(honest_HD))))
        momentum_D = BETA * momentum_D + aggregate_D
        theta_D = theta_D - RATE * (aggregate_D if momentum_at_workers else momentum_D)
    return theta_D


def accuracy(theta_D: Tensor) -> float:
    vector_to_parameters(theta_D, model.parameters())
    return (model(x_test).argmax(dim=1) == y_test).float().mean().item()


if __name__ == "__main__":
    initial = parameters_to_vector(model.parameters()).detach()
    batches = torch.randint(len(y_train), (STEPS, H, BATCH))
    for place, at_workers in {"in the update": False, "at the workers": True}.items():
        print(f"momentum {place:<14}  accuracy {accuracy(train(initial, batches, at_workers)):.3f}")
