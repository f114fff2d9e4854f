"""PyTorch's settings and the global random states of the caller: they shape no run, and no run changes them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from byzray import Interrupted, Setup, Update, simulate
from byzray.process_state import RandomStates, own_settings


@contextmanager
def default_type() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def low_precision() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default type": default_type,
    "default device": default_device,
    "device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "precision": low_precision,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
}


def settings() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.empty(0).device,
        torch.is_autocast_enabled("cpu"),
        torch.get_float32_matmul_precision(),
        torch.is_anomaly_enabled(),
    )


@pytest.fixture
def diverging(small_setup: Setup) -> Setup:
    """Its gradients become NaN, which anomaly detection makes an error."""
    return small_setup.changed(model="linear", loss="mse", learning_rate=1e30)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_caller_neither_shape_a_run_nor_are_lost(
    small_setup: Setup, diverging: Setup, setting: str
) -> None:
    for setup in (small_setup, diverging):
        expected = simulate(setup)
        seen = []

        def watch(update: Update, seen: list[object] = seen) -> None:
            seen.append(settings())

        with SETTINGS[setting]():
            before = settings()
            found = simulate(setup, progress=watch)
            assert settings() == before
            with pytest.raises(Interrupted):
                simulate(setup, progress=lambda update: update.step >= 3)
            assert settings() == before
            assert set(seen) == {before}  # what `progress` does is the caller's
        assert np.array_equal(found.parameters, expected.parameters, equal_nan=True)
        assert found.metrics.equals(expected.metrics)
        assert found.evaluations.equals(expected.evaluations)


def test_settings_are_put_back_after_an_error(small_setup: Setup) -> None:
    def fail(update: Update) -> None:
        raise KeyError("the caller's")

    with torch.no_grad(), default_type():
        before = settings()
        with pytest.raises(KeyError):
            simulate(small_setup, progress=fail)
        assert settings() == before
        with suppress(ZeroDivisionError), own_settings():
            assert settings() != before
            raise ZeroDivisionError
        assert settings() == before


def test_a_precision_set_for_single_backends_stays_as_it_is(small_setup: Setup) -> None:
    """PyTorch since 2.9 does not return the common one then."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this PyTorch has one precision for all backends")
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        simulate(small_setup.changed(steps=1))
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_a_run_leaves_the_global_random_states_alone(small_setup: Setup, tmp_path: Path) -> None:
    before = RandomStates.now()
    simulate(small_setup, output=tmp_path)
    assert before.moved(RandomStates.now()) == []
    torch.rand(1)
    assert before.moved(RandomStates.now()) == ["PyTorch"]
