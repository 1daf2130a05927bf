"""The search stage: speech data in, a genotype out.

``gradient/`` holds the strategies that train one supernet (DARTS, P-DARTS, ST-NAS), ``trials/``
those that are Optuna studies. :func:`run_search` is the entry point of both; they share the run
folder and the report.
"""

from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.config.load import load_search_config
from nas_encoder.search.run import run_search

__all__ = ["SearchConfig", "load_search_config", "run_search"]
