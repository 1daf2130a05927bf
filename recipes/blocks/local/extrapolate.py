"""Where a learning curve leads: a power law ("pow3" of Domhan, Springenberg and Hutter 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_STEEPEST = 5.0  # exponent


def power_law(times: Sequence[float], values: Sequence[float], at: float) -> float:
    """Return ``c + a * t**-b`` at a later time, fitted to a course by least squares.

    a, b and c are not negative; of two points c is 0, since three cannot be found.

    Args:
        times: Ascending and positive.
        values: Errors or losses then; positive.
        at: The later time.

    Raises:
        ValueError: There are fewer than two points.
    """
    from scipy.optimize import least_squares

    if len(times) < 2:
        raise ValueError(f"a course needs two points, got {len(times)}")
    t, y = np.asarray(times, dtype=float) / times[-1], np.asarray(values, dtype=float)
    scale = float(y.max()) or 1.0
    y = y / scale
    floor = len(t) > 2

    def curve(found: np.ndarray, when: np.ndarray | float) -> np.ndarray:
        c = found[2] if floor else 0.0
        return np.asarray(c + found[0] * np.power(when, -found[1]))

    # From several starts: the floor and the exponent can stand for each other.
    starts = [(y[-1] * (1 - share), 0.5, y[-1] * share) for share in (0.0, 0.5, 0.9)]
    size = 3 if floor else 2
    bounds = ([0.0] * size, [np.inf, _STEEPEST, np.inf][:size])
    fits = [
        least_squares(
            lambda found: curve(found, t) - y, np.maximum(start[:size], 1e-9), bounds=bounds
        )
        for start in (starts if floor else starts[:1])
    ]
    best = min(fits, key=lambda fit: float(fit.cost))
    return scale * float(curve(best.x, at / times[-1]))
