"""A device beside the CPU, for machines that have none: it computes on the CPU, and is strict.

Its tensors say that they lie on `DEVICE`, so code that makes one on the CPU by mistake, or leaves
one there, meets what a GPU would answer: tensors of two devices cannot be put together. What is
computed is right to the last bit, so it can be compared with what the CPU says.

It shows nothing about speed, memory and rounding. It stands on inner parts of torch, those by which
`FakeTensor` claims devices that are not there.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

__all__ = ["DEVICE", "StrictDevice", "move", "random_numbers"]

#: Not CUDA, so that a machine with such a GPU tests the same.
DEVICE: Final = torch.device("xpu", 0)

# Operations that take tensors of several devices, as CUDA's do.
_COPIES: Final = ("copy_", "_to_copy")
_INDEXES: Final = ("index", "index_put_", "_index_put_impl_")


class _Tensor(torch.Tensor):
    """A tensor that says it lies on `DEVICE`; its numbers lie on the CPU, in ``inner``."""

    inner: torch.Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[_Tensor], inner: torch.Tensor) -> _Tensor:
        with no_dispatch():
            shell = torch.empty_strided(
                inner.size(), inner.stride(), dtype=inner.dtype, device="meta"
            )
        made: _Tensor = torch.Tensor._make_subclass(
            cls, shell, dispatch_device=True, device_for_backend_keys=DEVICE
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:
        return DEVICE

    # What goes around `__torch_dispatch__`.

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __bool__(self) -> bool:
        return bool(self.inner)

    def new_tensor(self, data: Any, **options: Any) -> torch.Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": DEVICE, **options})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class StrictDevice(TorchDispatchMode):
    """Within it, and in its thread, tensors can be made on `DEVICE`."""

    def __init__(self) -> None:
        super().__init__()
        # Of all modes, torch asks no driver for a device's tensors under this one only.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __enter__(self) -> StrictDevice:
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def random_numbers(device: torch.device | str = "cpu") -> torch.Generator:
    """Stand in for `torch.Generator`, which needs a driver: whoever draws, draws on `DEVICE`."""
    if torch.device(device) != DEVICE:
        raise RuntimeError(f"expected a generator of {DEVICE}, not of {device}")
    return torch._C.Generator()


def move(model: torch.nn.Module) -> None:
    """Move a model's weights to `DEVICE`."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = _Tensor(tensor.detach().clone())


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name.removeprefix("aten::")
    given = list(tree_iter((args, kwargs)))
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    # What an operation changes in place, it gives back.
    known = {id(each.inner): each for each in given if isinstance(each, _Tensor)}
    if known:
        _check(name, args, given)
    if wanted is not None:
        on_device = wanted.type == DEVICE.type
    elif name == "copy_":
        on_device = isinstance(args[0], _Tensor)
    else:
        on_device = bool(known)
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    return tree_map(lambda each: _wrapped(each, known), found) if on_device else found


def _check(name: str, args: Any, given: list[Any]) -> None:
    """Refuse what a GPU would."""
    if name in _COPIES:
        return
    tensors = [each for each in given if isinstance(each, torch.Tensor)]
    if name in _INDEXES:
        # Where a tensor lies on the device, indices may come from the CPU; not the other way.
        tensors = [tensor for tensor in tensors if tensor is args[0] or isinstance(tensor, _Tensor)]
        tensors += args[2:3]
    # Numbers of no dimension go along with each operation.
    if any(each.dim() and not isinstance(each, _Tensor) for each in tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, _Tensor) else value


def _wrapped(value: Any, known: dict[int, _Tensor]) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return known[id(value)] if id(value) in known else _Tensor(value)
