"""Building a table: architectures of a space, trained one by one on the user's data.

Every finished training is one transaction in the SQLite file, and the current one has a checkpoint
next to it, so the process may be killed at any moment. Shards of a table are built by independent
processes, each into its own file, and merged afterwards.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import set_torch_threads
from tqdm import tqdm

from nas_encoder.common.provenance import environment, machine
from nas_encoder.data import AsrLoader
from nas_encoder.data.fingerprint import SAME_DATA, Fingerprint, data_changes, summaries
from nas_encoder.data.phones import FOLDINGS, fold
from nas_encoder.deploy.timing import measure
from nas_encoder.errors import CheckpointError, ConfigError, DataError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.spaces import get_space
from nas_encoder.tabular.config import TableConfig
from nas_encoder.tabular.contents import model_hash
from nas_encoder.tabular.merge import conflicts
from nas_encoder.tabular.store import TableFile
from nas_encoder.tabular.training import RecipeTraining, TableLoaders
from nas_encoder.training.checkpoint import previous_of
from nas_encoder.training.config import TrainerConfig
from nas_encoder.training.decoding import greedy, prefix_beam
from nas_encoder.training.devices import open_fabric
from nas_encoder.training.loaders import SpeechData, open_data
from nas_encoder.training.lock import held
from nas_encoder.training.stopping import stoppable

logger = logging.getLogger(__name__)


def choose_architectures(config: TableConfig) -> list[Genotype]:
    """Return the distinct architectures of a table, in order.

    Raises:
        ConfigError: The space cannot be enumerated, or is smaller than the sample.
        GenotypeError: A genotype of the list cannot be loaded, or is of another space.
    """
    space = get_space(config.space)
    choice = config.architectures
    if choice.kind == "list":
        return load_members(config.space, choice.genotypes)
    if choice.kind == "all":
        if not hasattr(space, "enumerate"):
            raise ConfigError(
                "architectures.kind", [f"the space '{config.space}' is too large to be listed"]
            )
        return list(space.enumerate())
    rng = random.Random(choice.seed)
    found: dict[str, Genotype] = {}
    for _ in range(50 * choice.count if choice.count <= space.size else 0):
        if len(found) == choice.count:
            break
        genotype = space.sample(rng)
        found.setdefault(model_hash(genotype), genotype)
    if len(found) < choice.count:
        raise ConfigError(
            "architectures.count",
            [f"{choice.count} different ones were not found in '{config.space}'; take 'all'"],
        )
    return list(found.values())


def load_members(space: str, names: Sequence[str | Path]) -> list[Genotype]:
    """Load genotypes of a space, without duplicates.

    Raises:
        GenotypeError: One cannot be loaded, or is of another space.
    """
    loaded = [load_genotype(name) for name in names]
    for genotype in loaded:
        get_space(space).validate(genotype)
    return list({model_hash(genotype): genotype for genotype in loaded}.values())


class TableBuilder:
    """Trains the architectures of a configuration into a file.

    Args:
        config: The configuration.
        train: Kaldi/ESPnet folder, NeMo manifest or lhotse cuts, like the next two.
        valid: Data on which the best epoch is chosen.
        test: Data on which it is tested.
        output: The SQLite file.
        shard: (i, n): build part i, from 1, of n.
        resume: Whether to continue an existing file.
        checkpoint_seconds: Time between two checkpoints of a training.
        added: Further architectures (names in the zoo or files), for complete files too.

    Raises:
        ConfigError: A setting, or an option of the networks, is wrong.
        GenotypeError: A genotype cannot be loaded, or is of another space.
        DataError: The data cannot be used.
        CheckpointError: The file holds another table, or another process writes it.
    """

    def __init__(
        self,
        config: TableConfig,
        train: str | Path,
        valid: str | Path,
        test: str | Path,
        output: str | Path,
        shard: tuple[int, int] = (1, 1),
        resume: bool = False,
        checkpoint_seconds: float = 20.0,
        added: Sequence[str | Path] = (),
    ) -> None:
        problems = config.problems()
        part, parts = shard
        if not 1 <= part <= parts:
            problems.append(f"shard: must be I/N with 1 <= I <= N, got {part}/{parts}")
        if config.device == "cuda" and not torch.cuda.is_available():
            problems.append("device: this machine has no CUDA device")
        if problems:
            raise ConfigError("table", problems)
        self.config, self.output = config, Path(output)
        self.data = {"train": str(train), "valid": str(valid), "test": str(test)}
        self.shard, self.resume, self.checkpoint_seconds = shard, resume, checkpoint_seconds
        use_cuda = config.device != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if use_cuda else "cpu")
        self.added = {str(name): load_members(config.space, [name])[0] for name in added}
        chosen: dict[str, Genotype] = {}
        for genotype in (*choose_architectures(config), *self.added.values()):
            chosen.setdefault(model_hash(genotype), genotype)
        self.architectures = list(chosen.values())[part - 1 :: parts]
        self.factor = self.min_length = 1
        if self.architectures:  # check all options before any training, not a week into it
            encoder: Any = self._encoder(self.architectures[0])
            rates = get_space(config.space).frame_rates(encoder.config)
            # All have the same data: what the finest network can use.
            self.factor = rates.finest
            self.min_length = max(int(encoder.min_length), rates.min_length)

    @property
    def checkpoint(self) -> Path:
        """The state of the training that is under way."""
        return self.output.with_name(f"{self.output.name}.ckpt")

    def run(self) -> None:
        """Build what is missing to complete the file."""
        lock = self.output.with_name(f"{self.output.name}.lock")
        alone = "wait for it to end, or give each shard its own file"
        with stoppable(), held(lock, f"table {self.output}", rule=alone):
            if self.output.is_file() and not self.output.stat().st_size:
                self.output.unlink()  # a start on a full disk, or killed before its first write
            if not self.resume and self.output.exists():
                self._remove_failed_start()
            data = open_data(
                self.config.data,
                self.data,
                factor=self.factor,
                min_length=self.min_length,
                check=self._check_sets,
            )
            with TableFile(self.output) as file:
                self._begin(file, data)
                self._measure(file, len(data.tokens))
                self._train(file, data)
                self._finish(file)

    # -- steps --------------------------------------------------------------------------------

    def _remove_failed_start(self) -> None:
        """Remove a file in which nothing has been trained; refuse any other."""
        with TableFile(self.output, create=False) as file:
            began = bool(file.finished()) or self.checkpoint.exists()
        if began or previous_of(self.checkpoint).exists():
            raise CheckpointError(
                f"table {self.output}",
                ["already exists; add --resume to continue it, or choose another --output"],
            )
        self.output.unlink()

    def _check_sets(self, sets: Mapping[str, Fingerprint]) -> None:
        """Refuse data that are not those that the table began with."""
        if not self.output.is_file():
            return
        with TableFile(self.output, create=False) as file:
            about, rows = file.about(), file.utterances()
        if "config" in about and "sets" not in about:
            logger.warning(
                "%s: an earlier version, which did not record its data, began this table; that "
                "they are the same is not checked",
                self.output,
            )
        elif "config" in about and (problems := data_changes(about["sets"], rows, sets)):
            raise CheckpointError(
                f"cannot go on with {self.output}, its data have changed", [*problems, SAME_DATA]
            )

    def _begin(self, file: TableFile, data: SpeechData) -> None:
        cmvn = data.features.cmvn
        identity = {
            "config": self.config.to_dict(),
            "utterances": {name: len(cuts) for name, cuts in data.cuts.items()},
            "tokens": list(data.tokens.tokens),
            "feature_mean": None if cmvn is None else [round(value, 3) for value in cmvn.mean],
        }
        before = file.about()
        if "config" not in before and file.finished():
            raise CheckpointError(
                f"cannot go on with {self.output}",
                ["its trainings were not made by this command; choose another --output"],
            )
        if "config" in before:
            problems = conflicts(before, identity)
            if before.get("shard") != list(self.shard):
                problems.append(f"shard: was {before.get('shard')}, now {list(self.shard)}")
            if problems:
                raise CheckpointError(f"cannot go on with {self.output}", problems)
            return
        file.add_utterances({name: found.pack() for name, found in data.fingerprints.items()})
        file.set_about(
            **identity,
            sets=summaries(data.fingerprints),
            space=self.config.space,
            shard=list(self.shard),
            architectures=len(self.architectures),
            note=self.config.note,
            data=self.data,
            environment=environment(),
        )

    def _finish(self, file: TableFile) -> None:
        """Record the number of architectures, and the sources of the added ones.

        The sources are a separate list, since two searches can find the same architecture, or one
        that was there before.
        """
        before = file.about()
        added = list(before.get("added", []))
        for name, genotype in self.added.items():
            origin = {"key": model_hash(genotype), "name": name, **genotype.provenance}
            if origin not in added:
                added.append(origin)
        count = len(file.architectures())
        if before["architectures"] != count or added != before.get("added", []):
            file.set_about(architectures=count, added=added)

    def _measure(self, file: TableFile, tokens: int) -> None:
        """Record sizes and latencies, one architecture at a time on an idle machine."""
        device, settings = self._device_name(), self.config.latency
        known, timed = file.architectures(), file.latency_of(device)
        size = self.config.features.num_mel_bins
        lengths = torch.tensor([settings.frames], device=self.device)
        for genotype in tqdm(self.architectures, "measuring", unit="net", disable=None):
            key = model_hash(genotype)
            if key in known and key in timed:
                continue
            torch.manual_seed(0)
            model = self._classifier(genotype, tokens)
            static = {
                "params": count_parameters(model),
                "macs": count_macs(model, settings.frames, size),
                "macs_frames": settings.frames,
            }
            file.add_architecture(key, genotype.to_dict(), static)
            x = torch.randn(1, settings.frames, size).to(self.device)
            calls = {"forward": partial(model.to(self.device).eval(), x, lengths)}
            with set_torch_threads(settings.threads), torch.inference_mode():
                found = measure(calls, settings.repeats, warm_up=3)["forward"]
            seconds = min(found.times) if settings.statistic == "min" else found.median
            file.add_latency(key, device, seconds)

    def _train(self, file: TableFile, data: SpeechData) -> None:
        recipe = self.config.recipe
        finished = file.finished()
        missing = [
            (genotype, seed)
            for seed in recipe.seeds
            for genotype in self.architectures
            if any((model_hash(genotype), target, seed) not in finished for target in recipe.epochs)
        ]
        commit, beam = environment()["commit"], self.config.beam
        decode = greedy if beam == 1 else partial(prefix_beam, width=beam)
        folding = FOLDINGS[self.config.folding] if self.config.folding else {}
        fabric = open_fabric(TrainerConfig(accelerator=self.device.type))
        loaders: dict[int, TableLoaders] = {}
        began = time.monotonic()
        with tqdm(total=len(missing), desc="training", unit="run", disable=None) as bar:
            for done, (genotype, seed) in enumerate(missing, 1):
                if seed not in loaders:
                    loaders = {seed: self._loaders(data, seed)}
                key = model_hash(genotype)
                training = RecipeTraining(
                    recipe,
                    partial(self._classifier, genotype, len(data.tokens)),
                    loaders[seed],
                    decode,
                    lambda ids: fold([data.tokens.tokens[i] for i in ids], folding),
                    seed,
                    fabric,
                    self.checkpoint,
                    key,
                    self.checkpoint_seconds,
                )

                def step(word: str, key: str = key) -> None:
                    bar.set_postfix_str(f"{key[:8]} {word}")

                trainings = training.run(step)
                for found in trainings.values():
                    assert isinstance(found.more, dict)
                    found.more.update(commit=commit, device=self._device_name())
                file.add_trainings(key, seed, trainings)
                training.close()
                bar.update()
                if bar.disable:  # no terminal: lines for a log
                    left = (time.monotonic() - began) / done * (len(missing) - done)
                    logger.info(
                        "%d of %d trained, about %.0f min left", done, len(missing), left / 60
                    )

    # -- parts --------------------------------------------------------------------------------

    def _encoder(self, genotype: Genotype) -> torch.nn.Module:
        size = self.config.features.num_mel_bins
        return build_encoder(genotype, input_size=size, **dict(self.config.network))

    def _classifier(self, genotype: Genotype, tokens: int) -> CtcNetwork:
        return CtcNetwork(self._encoder(genotype), tokens)

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name()}, fp32"
        return f"{machine()}, {self.config.latency.threads} thread, fp32"

    def _loaders(self, data: SpeechData, seed: int) -> TableLoaders:
        def training(**options: Any) -> AsrLoader:
            return data.loader(data.cuts["train"], train=True, seed=seed, **options)

        def scoring(name: str) -> AsrLoader:
            # These batches affect nothing but speed, and scoring leaves out no utterance, however
            # difficult.
            cuts, size = data.cuts[name], max(32, self.config.recipe.batch)
            return data.loader(cuts, train=False, max_cuts=size, subsampling_factor=None)

        train, warm_up = training(), []
        for seconds in self.config.recipe.warm_up:
            try:
                longest = round(seconds / self.config.features.frame_shift)
                warm_up.append(training(max_length=longest))
            except DataError as error:
                logger.warning("no warm-up epoch of %g s: %s", seconds, error)
        return TableLoaders(warm_up, train, scoring("valid"), scoring("test"))
