"""Builds what is measured: one call for encoders of all kinds.

B batch, T frames, F features of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nas_encoder.baselines import build_baseline, options_of
from nas_encoder.bench import sources
from nas_encoder.bench.onnx import OnnxEncoder
from nas_encoder.bench.sources import Source
from nas_encoder.common.problems import show
from nas_encoder.deploy.engines import ONNXRUNTIME
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.interchange.model import renamed
from nas_encoder.network import build_encoder
from nas_encoder.network.complexity import count_parameters
from nas_encoder.peers import build_peer
from nas_encoder.spaces import get_space
from nas_encoder.tables import KNOWN, NAS

BINS = 80  # features of encoders that do not say how many they want
SHIFT = 0.01  # seconds, likewise
_WORDS = {"feat_in": "input_size", "d_model": "output_size"}  # of our encoders in NeMo

Built = tuple[nn.Module, Genotype | None]


@dataclass
class Subject:
    """An encoder that is measured.

    Attributes:
        source: What it was built from.
        features: F.
        shift: Seconds between two frames.
        encode: Called with x (B, T, F) and lengths (B,), or for a file that computes features
            itself with samples (B, N) and their numbers; the result does not matter.
        module: The network; None for an exported file.
        parameters: Trained values; None if they are not known.
        note: What is particular about it, for people.
        genotype: The hash of its genotype, if it has one.
        waveform: Whether it wants samples; ``shift`` is then that of a sample.
        setup: Called with the number of threads before it is measured with these.
    """

    source: Source
    features: int
    shift: float
    encode: Callable[[Tensor, Tensor], Any]
    module: nn.Module | None
    parameters: int | None
    note: str = ""
    genotype: str | None = None
    waveform: bool = False
    setup: Callable[[int], None] | None = None

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.source.label


def of_module(
    label: str, module: nn.Module, features: int, shift: float = SHIFT, text: str = ""
) -> Subject:
    """Return a network with ``forward(x (B, T, F), lengths (B,))`` as what is measured."""
    source = Source(label, text or label, sources.OWN, label)
    return Subject(source, features, shift, module, module, count_parameters(module))


def build(
    source: Source,
    sizes: Mapping[str, Any] | None = None,
    features: int | None = None,
    shift: float | None = None,
    device: str = "cpu",
) -> Subject:
    """Build an encoder, with random weights unless it is an exported file.

    Args:
        source: What :func:`~nas_encoder.bench.sources.read_source` returned.
        sizes: Sizes of networks of genotypes; the source's own options go first.
        features: F of sources that do not say it; :data:`BINS` by default.
        shift: Seconds between two frames of sources that do not say it; :data:`SHIFT` by default.
        device: ``cpu`` or ``cuda``.

    Raises:
        ProblemsError: An option is missing, unknown or wrong.
        RegistryError: There is no such encoder.
        MissingDependencyError: A package that it needs is not installed.
    """
    if source.kind == sources.ONNX:
        engine = str(source.options.get("runtime", ONNXRUNTIME))
        encoder = OnnxEncoder(Path(source.name), device, engine)
        return _exported(source, encoder, shift)
    width = source.features or features or BINS
    module, genotype = _BUILDERS[source.kind](source, width, sizes or {})
    seconds, count = source.shift or shift or SHIFT, count_parameters(module)
    module = module.to(device)
    found = None if genotype is None else genotype.hash
    return Subject(source, width, seconds, module, module, count, genotype=found)


def _exported(source: Source, encoder: OnnxEncoder, shift: float | None) -> Subject:
    note = encoder.engine + ("; features are computed in it" if encoder.waveform else "")
    note += "; with its CTC layer" if encoder.classifies else ""
    return Subject(
        source,
        encoder.features,
        encoder.shift or shift or SHIFT,
        encoder,
        None,
        encoder.parameters,
        note,
        waveform=encoder.waveform,
        setup=encoder.start,
    )


def _genotype(source: Source, width: int, sizes: Mapping[str, Any]) -> Built:
    options = dict(source.options)
    named: Any = source.name
    if source.name in KNOWN:  # its own sizes are part of the genotype
        network = options_of(NAS)
        own = {name: options.pop(name) for name in list(options) if name not in network}
        named = {"known": source.name, **own} if own else source.name
    genotype = load_genotype(named)
    space = get_space(genotype.space)
    given = {**space.sizes, **sizes, **options, "input_size": width}
    read = space.options.from_dict(given, source.text or source.name)
    return build_encoder(genotype, **asdict(read)), genotype


def _own(source: Source, width: int, sizes: Mapping[str, Any]) -> Built:
    options = {**renamed(source.options, _WORDS), "input_size": width}
    if source.name != NAS:
        return build_baseline(source.name, options), None
    if options.get("genotype") is None:
        raise ConfigError(source.label, ["genotype: is missing"])
    genotype = load_genotype(options.pop("genotype"))
    return build_encoder(genotype, **options), genotype


def _peer(source: Source, width: int, sizes: Mapping[str, Any]) -> Built:
    return build_peer(source.name, source.options, width), None


def _espnet(source: Source, width: int, sizes: Mapping[str, Any]) -> Built:
    from nas_encoder.espnet.peers import any_encoder

    return any_encoder(source.name, source.options, width), None


def _nemo(source: Source, width: int, sizes: Mapping[str, Any]) -> Built:
    from nas_encoder.nemo.peers import any_encoder

    wanted = source.options.get("feat_in")
    if isinstance(wanted, int) and wanted != width:
        rule = f"is {wanted}, but the preprocessor makes {width} features"
        raise ConfigError(source.label, [f"feat_in: {rule}, {show(source.text)}"])
    return any_encoder(source.name, source.options, width), None


_BUILDERS: Mapping[str, Callable[[Source, int, Mapping[str, Any]], Built]] = {
    sources.GENOTYPE: _genotype,
    sources.OWN: _own,
    sources.PEER: _peer,
    sources.ESPNET: _espnet,
    sources.NEMO: _nemo,
}
