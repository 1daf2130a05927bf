"""The ``nas-encoder`` command. One file per sub-command; see :mod:`nas_encoder.cli.main`."""

from typing import Any


def add_settings(parser: Any, text: str) -> None:
    """Add --set, which changes a configuration, to a parser or a group of one."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help=text
    )
