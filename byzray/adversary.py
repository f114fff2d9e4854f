"""The adversary of a run: it plays all Byzantine workers, and remembers.

Shapes in names: N submissions that come, of which H honest and F Byzantine, D parameters.
"""

import torch
from torch import Tensor

from byzray.attacks import View
from byzray.contract import Contract
from byzray.defence import Bound
from byzray.deviations import Spread
from byzray.setups import Setup
from byzray.state import State, keep
from byzray.step import Step
from byzray.submissions import Matrix, Submissions


class Adversary:
    """Answers for the Byzantine workers.

    Args:
        setup: the setup of the run.
        contract: watches the attack.
        first: the first step.
        like_D: a vector of the shape, the type and the device of a submission.

    Attributes:
        state: what the attack carries to the next step.
    """

    def __init__(self, setup: Setup, contract: Contract, first: Step, like_D: Tensor) -> None:
        self.setup = setup
        self.contract = contract
        self.state: State = {}
        if setup.attack is not None:
            self.state = contract.start_attack(setup.attack, first, like_D)

    def answer(
        self, came_ND: Tensor, workers_H: tuple[int, ...], step: Step, defence: Bound, honest: Spread | None
    ) -> tuple[Submissions, Tensor | None]:
        """The submissions with those of the Byzantine workers last, and those by themselves if there are any.

        Args:
            came_ND: what came, in which the last rows are written to, unless they hold what Byzantine workers computed.
            workers_H: the numbers of the honest workers whose submissions came.
            step: the step.
            defence: the defence at this step.
            honest: the spread of the honest submissions, if it is known.
        """
        attack = self.setup.attack
        if attack is None:
            return Matrix(came_ND), None
        honest_HD, own_FD = came_ND[: len(workers_H)], came_ND[len(workers_H) :]
        view = View(
            step=step.of(attack),
            byzantine=self.setup.byzantine,
            defence=defence,
            workers_H=workers_H,
            own_FD=own_FD if attack.trains else None,
            honest=honest,
        )
        attack_FD, state = self.contract.attack(attack, honest_HD, view, self.state)
        keep(state, self.state)
        if attack_FD is own_FD:
            return Matrix(came_ND), attack_FD
        if attack.trains:  # not over what the workers submitted, which is their momentum
            return Matrix(torch.cat((honest_HD, attack_FD))), attack_FD
        if attack_FD.stride(0) == 0 and not attack_FD.is_cuda:  # one row, expanded; kernels for GPUs take all rows
            own_FD[0] = attack_FD[0]
            return Matrix(came_ND, distinct=len(honest_HD) + 1), attack_FD
        own_FD.copy_(attack_FD)
        return Matrix(came_ND), attack_FD
