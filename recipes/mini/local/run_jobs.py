"""Runs the jobs that run.sh declares, side by side; what is done already is left out."""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
from pathlib import Path
from types import FrameType

from nas_encoder.errors import NasEncoderError
from recipes.mini.local.jobs import Markers, parse_jobs
from recipes.mini.local.pool import Pool


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", type=Path, help="file with one declaration a line")
    parser.add_argument("--expdir", type=Path, required=True, help="gets markers and logs")
    parser.add_argument("--nj", type=int, default=2, help="jobs at a time (default 2)")
    args = parser.parse_args(arguments)

    def terminate(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    args.expdir.mkdir(parents=True, exist_ok=True)
    with (args.expdir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"error: another run works in {args.expdir}; wait for it", file=sys.stderr)
            return 1
        try:
            jobs = parse_jobs(args.jobs.read_text(encoding="utf-8").splitlines())
            Pool(jobs, Markers(args.expdir), args.nj).run()
        except NasEncoderError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
