"""Convolutions whose backward pass writes outside its memory, and who calls them.

On CPUs, PyTorch 2.13 (oneDNN 3.12, primitive ``jit_1x1`` of AVX-512 and of AVX2) computes the
gradient of the weight of a 1x1 convolution with a stride, without padding, past the end of its
scratch memory: float32, channels last, 2 to 15 input channels (AVX2: 7), two or more utterances,
sizes that the stride divides. What lies there is damaged silently, or the process dies later.
Positions picked first (``x[:, :, ::2, ::2]``) and convolved with stride 1 give the same, faster;
see :func:`nas_encoder.ops.identity.even_and_odd`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# (operator, place of its weight among the arguments; stride and padding follow two places later)
_PLACES = {
    torch.ops.aten.convolution.default: 1,
    torch.ops.aten.convolution_backward.default: 2,
}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        place = _PLACES.get(func)
        if place is not None:
            kernel, stride, padding = args[place].shape, args[place + 2], args[place + 3]
            if set(kernel[2:]) == {1} and max(stride) > 1 and not any(padding):
                self.found.add(f"{func}: weight {tuple(kernel)}, stride {tuple(stride)}")
        return func(*args, **(kwargs or {}))


@contextmanager
def only_sound_convolutions() -> Iterator[None]:
    """Watch the forward and backward passes inside, on whatever device.

    Raises:
        AssertionError: A 1x1 convolution had a stride.
    """
    with _Watch() as watch:
        yield
    rule = "a 1x1 convolution with a stride can write outside its memory; pick positions first"
    assert not watch.found, f"{rule}: {'; '.join(sorted(watch.found))}"
