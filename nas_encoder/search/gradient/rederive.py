"""Derive another genotype from a search's records: of another epoch, or with other limits."""

from __future__ import annotations

from collections.abc import Mapping

from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import EpochRecord


def rederive(
    folder: RunFolder,
    stage: int | None = None,
    epoch: int | None = None,
    at_most: Mapping[str, int] | None = None,
    name: str | None = None,
) -> Genotype:
    """Derive a genotype from the probabilities recorded after an epoch.

    Args:
        folder: The folder of a search, finished or not.
        stage: Counted from 1; by default the last that has an epoch.
        epoch: Epoch of that stage, counted from 1; by default its last.
        at_most: Operation -> how many of it the normal cell may have; by default the limits of
            the search's configuration.
        name: Name of the genotype; by default that of the configuration.

    Raises:
        CheckpointError: The folder holds no search, or the search has no such epoch.
        ConfigError: A limit or the name breaks its rule; all problems are listed.
        NasEncoderError: No cell satisfies the limits.
    """
    seeds = folder.run().get("seeds") or ()
    searches = [folder, *(RunFolder(folder.seed_path(seed)) for seed in seeds)]
    if "trials" in [one.kind() for one in searches if one.path.joinpath("run.yaml").is_file()]:
        raise CheckpointError(
            f"run folder {folder.path}",
            [
                "holds a search by trials, which has no probabilities to derive from; what it "
                "found is genotype.yaml and, with several objectives, in front/"
            ],
        )
    if seeds:
        raise CheckpointError(
            f"run folder {folder.path}",
            [f"holds several searches; give one of them: {folder.seed_path(seeds[0])}, ..."],
        )
    config = folder.config(SearchConfig)
    document = config.to_dict()
    if at_most is not None:
        document["regularization"]["at_most"] = dict(at_most)
    if name is not None:
        document["name"] = name
    config = SearchConfig.from_dict(document, "derivation")
    record = _find(folder, stage, epoch)
    strategy = config.new_strategy()
    architecture = strategy.derive_from(record.probabilities, record.edges or {})
    recorded = folder.genotype(*record.place)
    if recorded is None:
        raise folder.error(f"lacks the genotype of stage {record.stage}, epoch {record.epoch}")
    provenance = {
        **recorded.provenance,
        "derived": {
            "stage": record.stage,
            "epoch": record.epoch,
            "at_most": dict(config.regularization.at_most),
        },
    }
    return Genotype(config.name, config.space, architecture, provenance)


def _find(folder: RunFolder, stage: int | None, epoch: int | None) -> EpochRecord:
    records = folder.records(EpochRecord)
    done = ", ".join(
        f"stage {number}: 1..{max(record.epoch for record in records if record.stage == number)}"
        for number in sorted({record.stage for record in records})
    )
    wanted = records[-1].stage if stage is None and records else stage
    found = [one for one in records if one.stage == wanted and epoch in (None, one.epoch)]
    if not found:
        asked = f"stage {stage or 'last'}, epoch {epoch or 'last'}"
        raise CheckpointError(
            f"run folder {folder.path}", [f"{asked}: not recorded; recorded: {done or 'none'}"]
        )
    return found[-1]
