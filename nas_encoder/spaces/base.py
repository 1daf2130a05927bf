"""What a search space is: the contract between a space's folder and everything else.

A space is one folder and one line in :mod:`nas_encoder.tables`. The folder holds a
:class:`SearchSpace` in ``space.py``, which imports no torch, and the modules ``network``,
``supernet``, ``oneshot``, ``costs``, ``scaling`` and ``picture`` (see :mod:`.modules` for their
interfaces), which are imported on first use. Nothing outside the folder asks which space it is
dealing with.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, cast

from nas_encoder.common.choices import (
    NO_EDGES,
    Candidates,
    EdgeProbabilities,
    Probabilities,
    prune,
)
from nas_encoder.common.problems import Problems
from nas_encoder.errors import GenotypeError, NasEncoderError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.modules import (
    CostsModule,
    NetworkModule,
    OneShotModule,
    PictureModule,
    ScalingModule,
    SupernetModule,
)
from nas_encoder.spaces.options import NetworkOptions, SearchedNetwork

# What a search in a space can do beyond choosing operations; see SearchSpace.features.
LEARNED_EDGES, LIMITS, LATENCY = "learned edges", "limits", "latency"


@dataclass(frozen=True)
class Kind:
    """The choices of one kind: the edges of a kind of cell, the blocks of a chain.

    Attributes:
        title: Title of the kind: ``normal cell``, ``blocks``.
        names: Names of its choices: ``2 ← k-2``, ``block 1``.
        operations: Candidates of each choice, in the supernet's order.
        groups: For each choice the node that it belongs to; reports draw a line between nodes.
        pruned: Whether candidates are pruned between the stages of a search.
        limited: Whether the limits of a search (``regularization.at_most``) apply here.
    """

    title: str
    names: tuple[str, ...]
    operations: tuple[str, ...]
    groups: tuple[int, ...] = ()
    pruned: bool = True
    limited: bool = False


@dataclass(frozen=True)
class FrameRates:
    """What the networks of a space with the same options do to time.

    Attributes:
        finest: The fewest input frames per output frame of any of them.
        coarsest: The most.
        min_length: The fewest frames of an utterance that all of them accept.
    """

    finest: int
    coarsest: int
    min_length: int


class SearchSpace(ABC):
    """A set of architectures, and what is known about them without building a network.

    Attributes:
        package: The folder, as a package: ``__package__`` in its ``space.py``.
        options: Dataclass of everything but the genotype that its networks are built from.
        section: Dataclass of the section ``network`` of a search.
        keys: The space's own keys of a genotype document, all required.
        more_keys: Its keys that may be missing.
        sizes: Options of its networks where :func:`~nas_encoder.network.build_encoder` is given
            none, instead of their defaults.
        bins: Their features of a frame there.
        features: A subset of :data:`LEARNED_EDGES` (edges can have parameters of their own),
            :data:`LIMITS` (dropout after, and limits on, chosen operations) and :data:`LATENCY`
            (the parts of its networks can be measured separately: ``costs.pieces``).
        zero: The candidate that means no connection and is never derived; or None.
        weightless: Candidates with next to no weights, which a failing search prefers.
        name: As in a genotype's ``space``.
        operations: Candidates of the pruned choices, in the supernet's order.
        choices: Those of them that a genotype can hold.
        size: Number of genotypes that can be written in it (isomorphic ones counted
            separately, unless the space says otherwise).
        kinds: The choices of its supernets, by kind.
    """

    package: ClassVar[str]
    options: ClassVar[type[NetworkOptions]]
    section: ClassVar[type[SearchedNetwork]] = SearchedNetwork
    keys: ClassVar[tuple[str, ...]]
    more_keys: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[Mapping[str, int]] = {"channels": 24, "layers": 17, "output_size": 512}
    bins: ClassVar[int] = 40
    features: ClassVar[frozenset[str]] = frozenset()
    zero: ClassVar[str | None] = None
    weightless: ClassVar[tuple[str, ...]] = ()
    name: str
    operations: tuple[str, ...]
    choices: tuple[str, ...]
    size: int
    kinds: Mapping[str, Kind]

    @property
    def layout(self) -> dict[str, Any]:
        """What a table says of the space: ``shape`` (options of each choice) and ``ops``."""
        return {"shape": self.bounds, "ops": list(self.operations)}

    @property
    def unique_size(self) -> int:
        """Number of distinct genotypes, as tables distinguish them."""
        return self.size

    # -- genotypes ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def bounds(self) -> list[int]:
        """Number of values of each choice of :meth:`encode`."""

    @abstractmethod
    def parse(self, document: Mapping[str, Any], problems: Problems) -> Any:
        """Read the space's own keys of a genotype document; None if there were problems.

        The result has ``to_dict()`` (those keys, as plain YAML types) and ``canonical()`` (a JSON
        value that is equal only for equal architectures), and is hashable.
        """

    @abstractmethod
    def check(self, architecture: Any, problems: Problems) -> None:
        """Report every rule of the space that an architecture breaks."""

    @abstractmethod
    def vector_of(self, architecture: Any) -> list[int]:
        """Return the choices of a member as integers; see :attr:`bounds`."""

    @abstractmethod
    def architecture_of(self, vector: Sequence[int]) -> Any:
        """Return the architecture of choices within :attr:`bounds`."""

    @abstractmethod
    def derive(
        self,
        probabilities: Probabilities,
        limits: Mapping[str, int],
        edges: EdgeProbabilities = NO_EDGES,
    ) -> Any:
        """Return the architecture that a search has found; ties are broken by order.

        Args:
            probabilities: Probabilities of the remaining candidates.
            limits: Operation -> how often a kind with ``limited`` may hold it.
            edges: Probabilities of edges, if they are learned.

        Raises:
            NasEncoderError: There is no such architecture.
        """

    @abstractmethod
    def chosen(self, architecture: Any) -> Mapping[str, Sequence[tuple[int, str]]]:
        """Return for each kind (place of the choice, candidate) for all that is chosen."""

    @abstractmethod
    def lines(self, architecture: Any) -> list[str]:
        """Return an architecture as text."""

    @abstractmethod
    def legend(self, architecture: Any, options: Any) -> tuple[str, str]:
        """Return an explanation of the text's symbols, and a line about the network's size."""

    def shape(self, architecture: Any) -> dict[str, int]:
        """Return numbers on an architecture's shape, to compare with errors; empty by default."""
        return {}

    def encode(self, genotype: Genotype) -> list[int]:
        """Return the choices as integers; :meth:`decode` is its inverse.

        Raises:
            GenotypeError: It is not a member.
        """
        self.validate(genotype)
        return self.vector_of(genotype.architecture)

    def decode(self, vector: Sequence[int]) -> Genotype:
        """Return the genotype of a vector of choices.

        Raises:
            GenotypeError: The vector has a wrong length or a choice out of range.
        """
        bounds, problems = self.bounds, Problems()
        if len(vector) != len(bounds):
            problems.add("vector", f"must have {len(bounds)} choices, has {len(vector)}")
        else:
            for place, (value, bound) in enumerate(zip(vector, bounds, strict=True)):
                problems.integer(value, f"vector[{place}]", 0, bound - 1)
        if problems:
            raise GenotypeError(f"space '{self.name}'", problems.lines)
        genotype = Genotype("sampled", self.name, self.architecture_of(vector), {"kind": "sampled"})
        return genotype.renamed(f"{self.name}-{self.key(genotype)[:8]}", kind="sampled")

    def from_vector(self, vector: Sequence[Any]) -> Genotype:
        """Return the genotype of a vector in the notation of the space's publication.

        Raises:
            GenotypeError: As :meth:`decode`.
        """
        return self.decode(vector)

    def key(self, genotype: Genotype) -> str:
        """Return the key of a genotype in tables of trained architectures."""
        return genotype.hash

    def sample(self, rng: random.Random) -> Genotype:
        """Draw a genotype uniformly from all that can be written."""
        return self.decode([rng.randrange(bound) for bound in self.bounds])

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """Return a member that differs from ``genotype`` in one choice of :meth:`encode`.

        Real et al. 2019, section 3.2; every choice, and every other value of it, is equally
        likely. The written form differs; isomorphic architectures can still be the same.
        """
        vector, bounds = self.encode(genotype), self.bounds
        place = rng.choice([i for i, bound in enumerate(bounds) if bound > 1])
        vector[place] = (vector[place] + rng.randrange(1, bounds[place])) % bounds[place]
        return self.decode(vector)

    def validate(self, genotype: Genotype) -> None:
        """Check membership.

        Raises:
            GenotypeError: It is not a member; every broken rule is listed.
        """
        problems = Problems()
        if genotype.space != self.name:
            problems.add("space", f"must be '{self.name}', got '{genotype.space}'")
        else:
            self.check(genotype.architecture, problems)
        if problems:
            raise GenotypeError(f"genotype '{genotype.name}'", problems.lines)

    def frame_rates(self, options: Any) -> FrameRates:
        """Return the frame rates of its networks; those that a genotype sets need an override.

        ``options`` are checked, and of the type :attr:`options`.
        """
        factor = int(options.subsampling_factor)
        return FrameRates(factor, factor, factor)

    # -- searching with gradients -------------------------------------------------------------

    def first_candidates(self, learned_edges: bool = False) -> Candidates:
        """Return the choices with which a search begins: every operation everywhere.

        Args:
            learned_edges: Whether edges have parameters of their own. :attr:`zero`, which would
                duplicate them, is then no candidate, and what is drawn is a member.
        """
        left_out = {self.zero} if learned_edges else set()
        return {
            name: (tuple(op for op in kind.operations if op not in left_out),) * len(kind.names)
            for name, kind in self.kinds.items()
        }

    def prune(
        self, probabilities: Probabilities, keep: int, limits: Mapping[str, int]
    ) -> Candidates:
        """Keep the most probable candidates of each choice; see :func:`.common.choices.prune`."""
        return {
            name: prune(probabilities[name], keep, (self.zero, *(limits if kind.limited else ())))
            if kind.pruned
            else tuple(tuple(choice) for choice in probabilities[name])
            for name, kind in self.kinds.items()
        }

    def search_options(
        self, section: Any, *, input_size: int, layers: int, channels: int, dropout: float
    ) -> NetworkOptions:
        """Return the options of the networks in a stage of a search.

        Args:
            section: The section ``network``, of the type :attr:`section`; its fields are options.
            input_size: F.
            layers: Layers of the stage; not used unless it is an option.
            channels: Channels of the stage.
            dropout: Dropout of the derived network; a supernet gets its own with each batch.
        """
        given = {item.name: getattr(section, item.name) for item in fields(section)}
        given |= {"input_size": input_size, "channels": channels, "dropout": dropout}
        if any(item.name == "layers" for item in fields(self.options)):
            given["layers"] = layers
        return self.options(**given)

    def check_layers(self, layers: Any, section: Any, path: str, problems: Problems) -> None:
        """Report what is wrong with a stage's number of layers; see :meth:`search_options`."""
        problems.integer(layers, path, 1, 1024)

    def target_sizes(self, layers: int | None, channels: int | None) -> dict[str, int]:
        """Return the options that set the size of a derived genotype's network.

        Empty if the genotype or the search determines it.

        Args:
            layers: The user's choice; None for the default.
            channels: Likewise.
        """
        return {}

    def target_options(
        self, options: Any, layers: int | None, channels: int | None
    ) -> NetworkOptions:
        """Return the options of a derived genotype's network, which budgets apply to.

        ``options`` are those of the last stage's network; for the others see :meth:`target_sizes`.
        """
        found: NetworkOptions = replace(options, **self.target_sizes(layers, channels))
        return found

    # -- the space's other modules, which import torch ----------------------------------------

    def has(self, module: str) -> bool:
        """Return whether a module exists; a space with a ``supernet`` has gradient searches."""
        return find_spec(f"{self.package}.{module}") is not None

    @property
    def network(self) -> NetworkModule:
        """The encoder of a genotype."""
        return cast(NetworkModule, self._module("network"))

    @property
    def supernet(self) -> SupernetModule:
        """All networks at once."""
        return cast(SupernetModule, self._module("supernet"))

    @property
    def oneshot(self) -> OneShotModule:
        """One set of weights for all networks."""
        return cast(OneShotModule, self._module("oneshot"))

    @property
    def costs(self) -> CostsModule:
        """The costs of networks."""
        return cast(CostsModule, self._module("costs"))

    @property
    def scaling(self) -> ScalingModule:
        """Genotypes at other sizes."""
        return cast(ScalingModule, self._module("scaling"))

    @property
    def picture(self) -> PictureModule:
        """The drawing of an architecture."""
        return cast(PictureModule, self._module("picture"))

    def _module(self, name: str) -> Any:
        if not self.has(name):
            raise NasEncoderError(f"the space '{self.name}' has no {name} ({self.package}.{name})")
        return import_module(f"{self.package}.{name}")
