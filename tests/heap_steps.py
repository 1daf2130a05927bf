"""Training steps of everything that can be built, in float32, for glibc's heap checks.

    LD_PRELOAD=libc_malloc_debug.so.0 MALLOC_CHECK_=3 python tests/heap_steps.py spaces

tests/integration/test_heap.py runs it; ``strided`` and ``overrun`` are its controls, which damage
the heap.
"""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from contract.test_baselines import OPTIONS
from torch import Tensor, nn

from nas_encoder.baselines import BASELINES
from nas_encoder.network import build_encoder
from nas_encoder.network.choices.straight_through import draw_paths
from nas_encoder.ops import OPERATIONS, temporal
from nas_encoder.spaces import get_space, list_spaces
from nas_encoder.spaces.blocks import positions
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.modules import build_module
from nas_encoder.spaces.blocks.parts import MODULES, Convolution, Memory, Parallel, SelfAttention
from nas_encoder.spaces.cells.supernet.merged import MERGED, Source, build_merged

CHANNELS = range(1, 18)
# Supernets are made of the operations, which are tried at each of these: widths around those of
# vectors are enough.
SUPERNET_CHANNELS = (1, 2, 3, 5, 8, 9, 16, 17)
BATCH, FRAMES, BINS = 2, 64, 40  # sizes at which a strided 1x1 convolution is caught
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def train(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """Take one step; small blocks lie between the large ones, as in any program."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1) if list(module.parameters()) else None
    between = [torch.empty(7)]
    loss = run().square().mean()
    if loss.requires_grad:
        loss.backward()
    between.append(torch.empty(7))
    if optimizer is not None:
        optimizer.step()


def operations() -> Iterator[tuple[str, nn.Module, Callable[[], Tensor]]]:
    """Every operation, by itself and merged, in both layouts and strides."""
    for name in OPERATIONS:
        for channels in CHANNELS:
            for layout, stride in product(LAYOUTS, (1, 2)):
                if channels == 1 and stride == 2 and name == "skip_connect":
                    continue  # halves of one channel: a reduction has at least two
                x = torch.randn(BATCH, channels, FRAMES, BINS).contiguous(memory_format=layout)
                x.requires_grad_()
                module = OPERATIONS[name](channels, stride, True).to(memory_format=layout)
                yield f"{name} of {channels}", module, lambda m=module, x=x: m(x, None)
                if name in MERGED:
                    merged = build_merged(name, channels, 2, stride).to(memory_format=layout)
                    scale = torch.rand(2).requires_grad_()
                    source = Source(x, F.relu(x), None)
                    run = lambda m=merged, s=source, scale=scale: m(s, scale)  # noqa: E731
                    yield f"merged {name} of {channels}", merged, run


def spaces() -> Iterator[tuple[str, nn.Module, Callable[[], Tensor]]]:
    """Networks, and supernets of mixtures and of paths, of every space."""
    x, lengths = torch.randn(BATCH, FRAMES, BINS), torch.tensor([FRAMES, FRAMES - 9])
    for name in list_spaces():
        space = get_space(name)
        for channels in CHANNELS:
            rng = random.Random(channels)
            sizes: dict[str, Any] = {"input_size": BINS, "channels": channels, "layers": 3}
            network = build_encoder(space.sample(rng), **sizes, output_size=16)
            network = network.to(memory_format=LAYOUTS[channels % 2])
            yield f"{name} of {channels}", network, lambda m=network: m(x, lengths)[0]
            if channels not in SUPERNET_CHANNELS or not space.has("supernet"):
                continue
            options = space.search_options(space.section(output_size=16), **sizes, dropout=0.0)
            every = space.first_candidates()
            likely = {k: [{op: rng.random() for op in own} for own in every[k]] for k in every}
            candidates = space.prune(likely, 3, {})
            for sampled in (False, True):
                supernet = space.supernet.build(space, candidates, options, (), sampled)
                alphas = {
                    kind: torch.randn(len(own), len(own[0])).requires_grad_()
                    for kind, own in candidates.items()
                }
                generator = torch.Generator().manual_seed(channels)
                choices = {
                    kind: draw_paths(own, generator) if sampled else own.softmax(-1)
                    for kind, own in alphas.items()
                }
                what = f"{'paths' if sampled else 'mixtures'} of {name}, {channels}"
                layout = LAYOUTS[(channels + sampled) % 2]  # both, at every width
                run = lambda m=supernet, c=choices: m(x, lengths, c, 0.0)[0]  # noqa: E731
                yield what, supernet.to(memory_format=layout), run


def residuals() -> Iterator[tuple[str, nn.Module, Callable[[], Tensor]]]:
    """Every kind of residual module, over widths, kernels, windows and strides of memories."""
    parts = [kind() for kind in MODULES.values() if kind not in (SelfAttention, Parallel)]
    parts += [SelfAttention(1, window) for window in (0, 3)]
    parts += [Parallel(1, 3, kernel=kernel, merge_kernel=kernel) for kernel in (1, 5)]
    parts += [Convolution(kernel, norm="layer") for kernel in (1, 3, 5, 7)]
    parts += [Memory(past, 2, stride) for past in (0, 1, 3) for stride in (1, 2)]

    def run(module: nn.Module, x: Tensor, frames: Frames, cache: int) -> Tensor:
        temporal._IN_CACHE = cache  # both forms of a gradient
        y: Tensor = module(x, frames)
        return y

    for part, channels, cache in product(parts, CHANNELS, (0, 1 << 17)):
        x = torch.randn(BATCH, FRAMES, channels).requires_grad_()
        mask = torch.arange(FRAMES) < torch.tensor([[FRAMES], [FRAMES - 9]])
        frames = Frames(mask, positions.relative(x))
        module = build_module(part, channels, BlocksConfig(), True)
        yield f"{part.text()} of {channels}", module, partial(run, module, x, frames, cache)


def baselines() -> Iterator[tuple[str, nn.Module, Callable[[], Tensor]]]:
    """Every baseline, over numbers of features and widths."""
    for name, cls in BASELINES.items():
        for channels in CHANNELS:
            options = OPTIONS[name] | {"input_size": channels, "hidden_size": channels}
            module = cls(cls.Config.from_dict(options))
            x, lengths = torch.randn(BATCH, FRAMES, channels), torch.tensor([FRAMES, FRAMES - 9])
            yield f"{name} of {channels}", module, lambda m=module, x=x, n=lengths: m(x, n)[0]


def strided() -> Iterator[tuple[str, nn.Module, Callable[[], Tensor]]]:
    """The convolution at fault."""
    for _ in range(50):
        x = torch.randn(8, 4, 200, 20).contiguous(memory_format=torch.channels_last)
        module = nn.Conv2d(4, 8, 1, stride=2, bias=False)
        yield "a 1x1 convolution of stride 2", module, lambda m=module, x=x: m(x)


def overrun() -> Iterator[tuple[str, nn.Module, Callable[[], Tensor]]]:
    """One byte too many, whatever PyTorch does."""
    x = torch.empty(1000)
    ctypes.memset(x.data_ptr(), 0, x.nbytes + 1)
    del x
    return iter(())


CASES = {
    case.__name__: case for case in (operations, spaces, residuals, baselines, strided, overrun)
}


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for case in sys.argv[1:]:
        count = 0
        for what, module, run in CASES[case]():
            print(what, file=sys.stderr, flush=True)  # the last line names what crashed
            train(module.train(), run)
            count += 1
        print(f"{case}: {count} training steps")
