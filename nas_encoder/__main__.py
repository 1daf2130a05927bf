"""``python -m nas_encoder`` is ``nas-encoder``."""

import sys

from nas_encoder.cli.main import main

sys.exit(main())
