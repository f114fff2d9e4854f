"""The training loops of peers: a job of ours as their users would run it.

Nothing of this belongs to byzray; what a peer's own benchmark does, this does.
"""

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from byzray import Setup

# Our names of the rules, and byzfl's. Its Multi-Krum squares distances and averages n-f.
BYZFL_RULES = {"multi-krum": "MultiKrum", "median": "Median", "trimmed-mean": "TrMean", "meamed": "Meamed"}


def byzfl_evaluations(
    setup: Setup, steps: int, interval: int, data: Path, folder: Path
) -> Iterator[tuple[float, float]]:
    """Run the loop of byzfl's own benchmark (`DSGD`), in this process, on the paper's MNIST network: clients with their
    momentum, the attack, the server; without metrics, clipping and regularisation, which it does not have.

    Args:
        setup: whose workers, batches, rate, momentum, rule and attack `little` it takes.
        steps: how many.
        interval: how often the accuracy on the test set is measured.
        data: the folder that holds MNIST as torchvision puts it.
        folder: where byzfl was installed by `pip install --target`.

    Yields:
        after every evaluation, the seconds of wall time and of CPU time of this process.
    """
    sys.path.append(str(folder.resolve()))
    byzfl = importlib.import_module("byzfl")
    datasets, transforms = (importlib.import_module(f"torchvision.{name}") for name in ("datasets", "transforms"))
    torch.manual_seed(1)
    ready = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    training, test = (datasets.MNIST(data, train=train, transform=ready) for train in (True, False))
    training.targets = training.targets.long()
    split = byzfl.DataDistributor(
        {
            "data_distribution_name": "iid",
            "distribution_parameter": 0.0,
            "nb_honest": setup.honest,
            "data_loader": torch.utils.data.Subset(training, list(range(len(training)))),
            "batch_size": setup.batch_size,
        }
    )
    common: dict[str, Any] = {
        "model_name": "fc_mnist",
        "device": "cpu",
        "optimizer_name": "SGD",
        "learning_rate": setup.rate_at(0),
        "weight_decay": 0.0,
        "milestones": [],
        "learning_rate_decay": 1.0,
    }
    of_client = {
        "loss_name": "NLLLoss",
        "LabelFlipping": False,
        "momentum": setup.momentum.beta,
        "nb_labels": 10,
        "store_per_client_metrics": False,
    }
    clients = [byzfl.Client({**common, **of_client, "training_dataloader": loader}) for loader in split.split_data()]
    f = setup.byzantine
    server = byzfl.Server(
        {
            **common,
            "test_loader": torch.utils.data.DataLoader(test, batch_size=1000),
            "aggregator_info": {"name": BYZFL_RULES[setup.aggregator.name], "parameters": {"f": f}},
            "pre_agg_list": [],
        }
    )
    attack = byzfl.ByzantineClient({"name": "ALittleIsEnough", "f": f, "parameters": {"tau": -1.5}})
    for step in range(steps + 1):
        if step % interval == 0:
            server.compute_test_accuracy()
            yield time.perf_counter(), sum(psutil.Process().cpu_times()[:2])
        parameters = server.get_dict_parameters()
        for client in clients:
            client.set_model_state(parameters)
            client.compute_gradients()
        submitted = [client.get_flat_gradients_with_momentum() for client in clients]
        server.update_model_with_gradients(submitted + attack.apply_attack(submitted))
