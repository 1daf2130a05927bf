"""Print a configuration that ships with the package, to save it where your recipe wants it.

Those of ESPnet are for asr.sh (--asr_config, and decode_... for --inference_config), those of NeMo
for its training scripts, which also find them by --config-name.
"""

from __future__ import annotations

import argparse
import textwrap

from nas_encoder.common.problems import Problems
from nas_encoder.common.resources import conf_root, list_configs
from nas_encoder.errors import ConfigError

EXAMPLES = """examples:
  nas-encoder config espnet --list
  nas-encoder config espnet train_asr_nas_small > conf/train_asr_nas_small.yaml
  nas-encoder config nemo nas_ctc_bpe > conf/nas_ctc_bpe.yaml
  nas-encoder config nemo librispeech_100_blocks_hybrid   # one that recipes/librispeech/nemo trains
"""

# What can be asked for -> folders of conf/.
FOLDERS = {
    "espnet": ("train/espnet", "decode/espnet"),
    "nemo": ("train/nemo",),
    "search": ("search",),
    "table": ("table",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("kind", choices=FOLDERS, help="whose configuration")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("name", nargs="?", metavar="NAME", help="which; all are listed without it")
    what.add_argument("--list", action="store_true", help="list the names")


def run(args: argparse.Namespace) -> int:
    """Print the file, or the names with the beginning of each file."""
    files = {
        name: conf_root() / folder / f"{name}.yaml"
        for folder in FOLDERS[args.kind]
        for name in list_configs(folder)
    }
    if args.name is None:
        width = max(map(len, files))
        for name, path in files.items():
            comment = path.read_text(encoding="utf-8").partition("\n\n")[0]
            words = " ".join(line.strip("# ") for line in comment.splitlines() if line[:1] == "#")
            print(f"{name:{width}}  {textwrap.shorten(words, 90, placeholder=' ...')}")
        return 0
    problems, asked = Problems(), args.name.removesuffix(".yaml")
    if problems.choice(asked, "NAME", "config", files) is None:
        raise ConfigError(f"config {args.kind}", problems.lines)
    print(files[asked].read_text(encoding="utf-8"), end="")
    return 0
