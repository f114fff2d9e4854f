"""What the next step depends on: tensors by name, which checkpoints hold."""

from torch import Tensor

State = dict[str, Tensor]


def expect_like(found: State, known: State) -> None:
    """Expect a saved state to have the tensors of a simulation's own.

    Raises:
        ValueError: one is missing, or has another shape or type.
    """
    for name, tensor in known.items():
        expected = f"expected {tuple(tensor.shape)} {tensor.dtype}"
        if name not in found:
            raise ValueError(f"it has no {name!r}, {expected}")
        other = found[name]
        if other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise ValueError(f"{name!r} is {tuple(other.shape)} {other.dtype}, {expected}")


def apart(tensor: Tensor, state: State) -> Tensor:
    """A tensor, or a copy of it if it lies in the memory of a state, which is about to be overwritten."""
    memory = tensor.untyped_storage().data_ptr()
    return tensor.clone() if any(memory == kept.untyped_storage().data_ptr() for kept in state.values()) else tensor


def keep(new: State, state: State) -> None:
    """Put a new state where the old one is, and where a captured step finds it."""
    for name, tensor in new.items():
        if tensor is not state[name]:
            state[name].copy_(tensor)


def prefixed(state: State, prefix: str) -> State:
    """A state under names that begin with a prefix."""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def below(state: State, prefix: str) -> State:
    """The part of a state whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
