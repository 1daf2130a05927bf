"""Searches by trials: an Optuna study over any registered space.

Each trial is an architecture that is trained for a few epochs, or looked up in a table. Only the
configuration is imported here; Optuna is needed where a study is opened.
"""

from nas_encoder.search.trials.run import run_trials

__all__ = ["run_trials"]
