"""Searches by trials: an Optuna study over any registered space.

Each trial is an architecture, trained for a few epochs or looked up in a table. Importing this
package does not import Optuna, which is needed to open a study.
"""

from nas_encoder.search.trials.run import run_trials

__all__ = ["run_trials"]
