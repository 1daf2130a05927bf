"""Writes the config with which an encoder trains as long as the slowest one did.

The time is that of the epochs, in CPU seconds, as the first trainings at equal epochs took it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.errors import ConfigError
from tools.experiments.job_costs import read_costs, training_seconds
from tools.experiments.schedules import FEWEST_STEPS, SCHEDULES, Schedule
from tools.scripts import command, write_json

# Times that differ by less count as equal: on two cores that share caches and hyper-threads, the
# same training's CPU seconds vary by as much, depending on what else runs.
SAME = 0.10


def run_of(expdir: Path, condition: str, name: str) -> str:
    """Return a system's training; the one at equal epochs may serve both conditions."""
    same = condition == "time" and (expdir / "conf" / "time" / f"{name}.same").exists()
    return f"epochs/{name}" if same else f"{condition}/{name}"


def plan(
    config: Mapping[str, Any], seconds: float, budget: float, schedule: Schedule
) -> dict[str, Any]:
    """Return the config whose training takes ``budget`` instead of ``seconds``.

    There are as many epochs as passes through the data, the last one rounded up, with equally many
    steps that add up to the total: no epoch is longer than a pass.
    """
    epochs, steps = schedule.epochs_and_steps(config)
    wanted = epochs * steps * budget / seconds
    new_epochs = max(1, math.ceil(wanted / steps))
    return schedule.with_steps(config, new_epochs, max(FEWEST_STEPS, round(wanted / new_epochs)))


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--toolkit", choices=list(SCHEDULES), required=True, help="whose configs they are")
    add("--expdir", type=Path, required=True, help="experiments with the costs of their trainings")
    add("--systems", nargs="+", required=True, help="of their trainings the longest is the budget")
    add("--system", required=True, help="the one that gets as much time")
    add("--output", type=Path, required=True, help="config to write")
    add("--same", type=Path, required=True, help="file to write where the times are equal already")
    args = parser.parse_args(arguments)
    schedule = SCHEDULES[args.toolkit]
    configs, taken = {}, {}
    for name in dict.fromkeys([*args.systems, args.system]):
        path = args.expdir / "conf" / "epochs" / f"{name}.yaml"
        configs[name] = read_yaml(path, ConfigError)
        epochs, _ = schedule.epochs_and_steps(configs[name])
        taken[name] = training_seconds(read_costs(args.expdir, f"train/epochs/{name}"), epochs)
    slowest = max(args.systems, key=taken.__getitem__)
    config, budget, seconds = configs[args.system], taken[slowest], taken[args.system]
    before = schedule.epochs_and_steps(config)
    planned = plan(config, seconds, budget, schedule)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(args.output, planned, ConfigError)
    if abs(seconds / budget - 1) <= SAME:
        facts = {"budget_seconds": budget, "seconds_at_equal_epochs": seconds}
        write_json(args.same, facts, indent=None)
        print(f"{seconds:.0f} s is within 10 % of the {budget:.0f} s of {slowest}")
    else:
        args.same.unlink(missing_ok=True)
        after = schedule.epochs_and_steps(planned)
        print(
            f"{args.output}: {after[0]} epochs of {after[1]} steps instead of {before[0]} of "
            f"{before[1]}: {budget:.0f} s instead of {seconds:.0f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
