"""Links our configurations into the recipes of a checkout of ESPnet.

ESPnet's own ./run.sh then takes them: ./run.sh --asr_config conf/train_asr_nas.yaml. No file of
ESPnet is changed, nothing is replaced, and --remove takes all links away again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nas_encoder.errors import ConfigError
from tools.espnet_recipes import espnet3
from tools.espnet_recipes.configs import Choice, command_line, conf_folder, table
from tools.scripts import command

ROOT = Path(__file__).resolve().parents[2]
OLDEST, TESTED = 202511, (202511, 202611)
# A recipe's link to the folder of its configurations; the links in conf/ go through it.
FOLDER = Path("tuning", "nas_encoder")
EXAMPLES = """examples:
  recipes/install.sh ~/espnet                # then, in a recipe's folder, what it prints
  recipes/install.sh --remove ~/espnet
"""


@dataclass
class Recipe:
    """A recipe of ESPnet, and what has been done there.

    Attributes:
        place: Its folder, from the root of the checkout.
        source: The folder of its configurations, from the root of this repository.
        links: Target of each link, by its place in the recipe's ``conf``.
    """

    place: Path
    source: Path
    links: dict[Path, str]
    made: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)

    def is_ours(self, link: Path) -> bool:
        """Return whether something in ``conf`` is a link of ours, from wherever it was made."""
        if not link.is_symlink():
            return False
        target = Path(os.readlink(link))
        return target.parent == FOLDER or self.source in (
            Path(*target.parts[-len(self.source.parts) :]),
            Path(*target.parent.parts[-len(self.source.parts) :]),
        )


def recipes(root: Path = ROOT) -> Iterator[Recipe]:
    """Yield the recipes that there are configurations for."""
    for corpus, about in table()["corpora"].items():
        source = conf_folder(corpus)
        names = sorted(path.name for path in (root / source).glob("*.yaml"))
        links = {FOLDER: str(root / source)} | {Path(name): str(FOLDER / name) for name in names}
        yield Recipe(Path("egs2", about["egs2"]), source, links)
        if name := espnet3.recipe(corpus):
            source = espnet3.folder(corpus)
            files = sorted((root / source).glob("*.yaml"))
            links = {Path("tuning", file.name): str(file) for file in files}
            yield Recipe(Path("egs3", name), source, links)


def version(checkout: Path) -> int:
    """Return the version of a checkout of ESPnet.

    Raises:
        ConfigError: It is none, or too old.
    """
    # The first is where it was until 202511.
    for name in ("espnet/version.txt", "version.txt"):
        file = checkout / name
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace").strip()
            if not text.isdecimal():
                raise ConfigError(str(file), [f"must hold a version like {OLDEST}, got {text!r}"])
            if int(text) < OLDEST:
                rule = f"must be {OLDEST} or newer, got {text}; check out a newer ESPnet"
                raise ConfigError(f"version of ESPnet in {file}", [rule])
            return int(text)
    rule = "must be the root of a checkout of ESPnet, which has version.txt and egs2"
    raise ConfigError(f"ESPNET_ROOT {checkout}", [rule])


def install(checkout: Path, root: Path = ROOT) -> tuple[list[Recipe], list[Recipe]]:
    """Make the links; all or, if anything is in the way, none.

    Args:
        checkout: Root of the checkout of ESPnet.
        root: Root of this repository.

    Returns:
        The recipes with links, and those that the checkout lacks.

    Raises:
        ConfigError: Something that is not ours has the name of a link, or one cannot be made.
    """
    there, missing, problems = [], [], []
    for recipe in recipes(root):
        conf = checkout / recipe.place / "conf"
        if not conf.is_dir():
            missing.append(recipe)
            continue
        there.append(recipe)
        for place in recipe.links:
            link = conf / place
            if not link.parent.is_dir():
                problems.append(f"{link.parent}: must be a folder, as in ESPnet's recipe")
            elif os.path.lexists(link) and not recipe.is_ours(link):
                problems.append(f"{link}: is there already and not ours; move it away")
    if not there:
        rule = f"must hold one of {', '.join(str(recipe.place) for recipe in missing)}"
        raise ConfigError(f"ESPNET_ROOT {checkout}", [rule])
    if problems:
        raise ConfigError(f"no link was made in {checkout}", problems)
    for recipe in there:
        conf = checkout / recipe.place / "conf"
        outdated = [
            place
            for place in _links(recipe, conf)
            if os.readlink(conf / place) != recipe.links.get(place)
        ]
        _remove(recipe, conf, outdated)
        for place, target in recipe.links.items():
            if (conf / place).is_symlink():
                recipe.kept.append(place)
            else:
                with _explained(conf / place):
                    (conf / place).symlink_to(target)
                recipe.made.append(place)
    return there, missing


def remove(checkout: Path, root: Path = ROOT) -> list[Recipe]:
    """Take all links of ours away, also those of earlier versions; return the recipes.

    Raises:
        ConfigError: It is no checkout of ESPnet, or a link cannot be removed.
    """
    found = [recipe for recipe in recipes(root) if (checkout / recipe.place / "conf").is_dir()]
    if not found:
        raise ConfigError(f"ESPNET_ROOT {checkout}", ["holds none of the recipes that we link to"])
    for recipe in found:
        conf = checkout / recipe.place / "conf"
        _remove(recipe, conf, _links(recipe, conf))
    return found


def _links(recipe: Recipe, conf: Path) -> list[Path]:
    """Return the places of all links of ours; that of the folder, which makes them valid, last."""
    paths = [*sorted(conf.glob("*")), *sorted((conf / FOLDER.parent).glob("*"))]
    return [path.relative_to(conf) for path in paths if recipe.is_ours(path)]


def _remove(recipe: Recipe, conf: Path, places: list[Path]) -> None:
    for place in places:
        with _explained(conf / place):
            (conf / place).unlink()
        recipe.removed.append(place)


@contextmanager
def _explained(link: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        rule = f"{error.strerror}; the same command goes on when this is solved"
        raise ConfigError(str(link), [rule]) from None


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="recipes/install.sh",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkout", metavar="ESPNET_ROOT", type=Path, help="a checkout of ESPnet")
    parser.add_argument("--remove", action="store_true", help="take the links away again")
    args = parser.parse_args(arguments)
    checkout = args.checkout.absolute()
    if args.remove:
        for recipe in remove(checkout):
            print(f"{checkout / recipe.place}: {len(recipe.removed)} links removed")
        return
    number = version(checkout)
    there, missing = install(checkout)
    tested = "" if number in TESTED else f"; tested are {' and '.join(map(str, TESTED))}"
    print(f"ESPnet {number} in {checkout}{tested}")
    for recipe in there:
        changes = f"{len(recipe.made)} links made, {len(recipe.kept)} were there"
        if recipe.removed:
            changes += f", {len(recipe.removed)} outdated ones replaced or removed"
        print(f"  {recipe.place}: {changes}")
    for recipe in missing:
        print(f"  {recipe.place}: not in this checkout")
    print(
        "\nIn the folder of a recipe, with nas_encoder in its Python ('nas-encoder doctor' tells),"
        "\nand with blocks, dfsmn_san, conformer, ... in the place of nas:"
    )
    for loss, about in table()["losses"].items():
        print(f"\n  # {about['title']}\n  {command_line(Choice('aishell', 'nas', loss))}")


if __name__ == "__main__":
    sys.exit(main())
