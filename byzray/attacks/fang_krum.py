"""The attack of Fang et al. on Krum.

Shapes in names: H honest submissions, F Byzantine ones, N both, D parameters.
"""

import math

import torch
from torch import Tensor

from byzray.aggregators._scoring import Scoring, krum_scores
from byzray.aggregators.krum import Krum
from byzray.attacks._base import Attack, View
from byzray.distances import distances, norms
from byzray.line import Line
from byzray.submissions import OnLine

HALVINGS = 17
"""lambda is halved until it is below 1e-5 of where it began."""


class FangKrum(Attack):
    """-lambda sign(a) from all attackers, with lambda halved until Krum selects one of them.

    lambda begins at an upper bound of those that succeed, and ends at 1e-5 of it. Krum scores as the rule under attack
    does, if that is `krum` or `multi-krum`, else by its defaults.

    Needs n >= 2f+3 and enough honest neighbours: h-1 >= n-f-2.

    Reference: M. Fang, X. Cao, J. Jia, N. Gong. Local Model Poisoning Attacks to Byzantine-Robust Federated Learning.
    USENIX Security 2020.
    """

    def __call__(self, honest_HD: Tensor, view: View) -> Tensor:
        n, f, h = len(honest_HD) + view.byzantine, view.step.f, len(honest_HD)
        mean_D = view.mean(honest_HD)
        sign_D = mean_D.sign()
        line = Line(honest_HD, mean_D, torch.zeros_like(mean_D), -sign_D, view.byzantine)
        root = math.sqrt(honest_HD.shape[1])
        nearest_H = krum_scores(distances(honest_HD), n - f - 2)
        factor = nearest_H.min() / ((n - 2 * f - 1) * root) + norms(honest_HD).max() / root
        rule = view.defence.defence.rule
        options = rule.model_dump(include={"squared", "neighbours"}) if isinstance(rule, Scoring) else {}
        krum = Krum(**options)
        found = torch.zeros_like(factor, dtype=torch.bool)
        for _ in range(HALVINGS):
            selected_1 = krum.rows(OnLine(line, factor), f)
            found = found | (selected_1[0] >= h)
            factor = torch.where(found, factor, factor / 2)
        return line.vector(factor).to(honest_HD.dtype).expand(view.byzantine, -1)

    def check(self, honest: int, byzantine: int, f: int) -> str | None:
        n = honest + byzantine
        if n < 2 * f + 3:
            return f"needs n >= 2f+3 = {2 * f + 3}; got n = {n}, f = {f}"
        if honest - 1 < n - f - 2:
            return f"needs honest-1 >= n-f-2 = {n - f - 2}; got honest = {honest}, n = {n}, f = {f}"
        return None
