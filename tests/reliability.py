"""Bad inputs by the thousand: write what became of them to ``docs/reliability.md``.

    python tests/reliability.py                    # all, as `make reliability` does; some minutes
    python tests/reliability.py --share 0.01 --output /tmp/reliability.md

Every part makes its cases from a seed and stops at the first outcome that is neither one of our
errors nor what the toolkits' own readers give; then the page is left as it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from nas_encoder.common.provenance import environment, usable_cores

ROOT = Path(__file__).resolve().parent.parent


def genotypes(seed: int, count: int) -> Counter[str]:
    """Try genotypes; of valid ones every 20th is built, of those that chance made all."""
    from genotype_cases import run

    return Counter(
        {
            f"{kind}: {outcome}": number
            for kind, outcomes in run(seed, count, build_every=20).items()
            for outcome, number in outcomes.items()
        }
    )


def readers(seed: int, count: int) -> Counter[str]:
    """Try data folders and manifests."""
    from reader_cases import cases

    return cases(seed, count)


def tokens(seed: int, count: int) -> Counter[str]:
    """Try token lists."""
    from token_cases import cases

    return cases(seed, count)


def run_folders(seed: int, count: int) -> Counter[str]:
    """Try run folders."""
    from folder_damage import cases

    return cases(seed, count)


@dataclass(frozen=True)
class Part:
    """One kind of input: how many are tried, and in lots of how many."""

    title: str
    what: str
    try_cases: Callable[[int, int], Counter[str]]
    count: int
    lot: int

    def lots(self, seed: int, share: float) -> list[tuple[int, int]]:
        """Return seed and number of cases of each lot; no two lots have the same cases."""
        count = max(1, round(self.count * share))
        sizes = [min(self.lot, count - start) for start in range(0, count, self.lot)]
        return [(1000 * seed + number, size) for number, size in enumerate(sizes)]


PARTS = (
    Part(
        "Genotypes",
        "Of every space: sampled, mutated and written in other ways, which must be read with the "
        "same hash; corrupted, which must be refused; changed or cut by chance, which may be "
        "either. Those built are checked for padding.",
        genotypes,
        10_000,
        1000,
    ),
    Part(
        "Data folders and manifests",
        "Random Kaldi folders and NeMo manifests, sound and damaged. What is accepted has the "
        "ids, texts and samples of kaldiio and ESPnet's readers, or of NeMo's; what is sound is "
        "not refused; what is cut short is.",
        readers,
        5000,
        250,
    ),
    Part(
        "Token lists",
        "Lists of characters, words, phones and sentence pieces, sound and spoiled, each with "
        "texts. Ids and texts are those of ESPnet's and NeMo's tokenizers.",
        tokens,
        1000,
        100,
    ),
    Part(
        "Run folders",
        "Finished and half-done searches of every strategy with a file deleted, cut, emptied, "
        "changed or taken from another run, then resumed, reported, derived from or shown. "
        "`told` means repaired with a warning, `as before` that the result is that of the whole "
        "folder.",
        run_folders,
        500,
        500,
    ),
)


def try_all(seed: int, share: float, workers: int) -> dict[str, Counter[str]]:
    """Run all parts in several processes; return what became of the cases of each."""
    os.environ["TQDM_DISABLE"] = "1"  # in the processes; the bar below says so itself
    found: dict[str, Counter[str]] = {part.title: Counter() for part in PARTS}
    # Run folders first: making them takes long, so they are one lot.
    lots = [(part, *lot) for part in reversed(PARTS) for lot in part.lots(seed, share)]
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
        tqdm(total=sum(count for _, _, count in lots), unit="case", disable=False) as bar,
    ):
        running: dict[Future[Counter[str]], tuple[Part, int]] = {
            pool.submit(part.try_cases, own, count): (part, count) for part, own, count in lots
        }
        try:
            for done in as_completed(running):
                part, count = running[done]
                found[part.title] += done.result()
                bar.update(count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def page(found: dict[str, Counter[str]], command: str, share: float) -> str:
    """Return the page."""
    where = environment()
    lines = [
        "# Bad inputs, tried",
        "",
        f"Written by `{command}` on {date.today()}, commit {where['commit']}, Python "
        f"{where['python']}, torch {where['torch']}, ESPnet {version('espnet')}, NeMo "
        f"{version('nemo_toolkit')}; {where['machine']}. It stops at the first case whose outcome "
        "is neither one of our errors nor what the toolkits themselves give, so every case below "
        "had an outcome that is right. Continuous integration tries as many, with other seeds.",
    ]
    for part in PARTS:
        count = max(1, round(part.count * share))
        lines += ["", f"## {part.title}: {count:,}", "", part.what, ""]
        lines += ["| outcome | cases |", "|---|---:|"]
        lines += [f"| {name} | {number:,} |" for name, number in sorted(found[part.title].items())]
    return "\n".join([*lines, ""])


def main() -> int:
    """Try all and write the page."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        epilog="example: python tests/reliability.py --share 0.01 --output trial.md",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the numbers of cases")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--output", type=Path, default=ROOT / "docs/reliability.md")
    arguments = parser.parse_args()
    found = try_all(arguments.seed, arguments.share, arguments.workers)
    given = f" --seed {arguments.seed}" + (
        f" --share {arguments.share}" if arguments.share != 1 else ""
    )
    text = page(found, f"python tests/reliability.py{given}", arguments.share)
    arguments.output.write_text(text, encoding="utf-8")
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
