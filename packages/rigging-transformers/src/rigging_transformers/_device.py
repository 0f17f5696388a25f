"""The device that an engine's thread computes on.

Imports torch: import this module late.
"""

from __future__ import annotations

import contextlib
from threading import Lock
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["on_device"]


@contextlib.contextmanager
def on_device(device: str) -> Iterator[None]:
    """Make a CUDA GPU the thread's own, since some kernels run on that and not on their input's.

    A new thread's is the first GPU. Meanwhile, cuDNN computes no attention.
    """
    if device.startswith("cuda"):
        with torch.cuda.device(device), _cudnn.off():
            yield
    else:
        yield


class _CudnnAttention:
    """A switch of torch's for the whole process, which is off while any thread decodes.

    On some GPUs (Hopper, since torch 2.11) torch takes cuDNN first. That makes a plan for each
    number of rows and of tokens, and for each thread, so at each step of decoding anew: some
    30 ms of the processor's time, more than the step itself. torch's own kernels need none.

    Source:
        PyTorch, ``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`` (which kernel is
        taken) and ``aten/src/ATen/native/cudnn/MHA.cpp`` (what is planned).
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._was_on = True

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Keep it off; the last who leaves puts it back."""
        with self._lock:
            if not self._users:
                self._was_on = torch.backends.cuda.cudnn_sdp_enabled()
                torch.backends.cuda.enable_cudnn_sdp(enabled=False)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    torch.backends.cuda.enable_cudnn_sdp(self._was_on)


_cudnn: Final = _CudnnAttention()
