"""The ``nas-encoder`` command. One file per sub-command; see :mod:`nas_encoder.cli.main`."""
