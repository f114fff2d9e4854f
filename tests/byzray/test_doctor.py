"""What the doctor says of a machine that is not as it should be."""

from pathlib import Path

import pytest

from byzray.datasets import DATASETS
from byzray.machine import load_all


def test_a_data_set_that_cannot_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where PyTorch and torchvision are of different builds."""

    def load(*_: object, **_options: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(DATASETS.classes["mnist"], "load", load)
    found = dict(load_all(tmp_path))
    assert str(found["mnist"]) == "operator torchvision::nms does not exist"
    assert not isinstance(found["digits"], Exception)
