"""A statistical test of uniformity."""

import numpy as np


def assert_uniform(counts: np.ndarray) -> None:
    """Raises AssertionError where Pearson's chi-square rejects that all cells are equally likely.

    The cube root of the statistic is close to normal (Wilson and Hilferty 1931). The limit is five
    standard deviations on either side: a sound generator fails at one seed in two million.
    """
    counts = np.asarray(counts, float).ravel()
    expected, freedom = counts.mean(), counts.size - 1
    assert expected >= 10, "too few draws per cell for the chi-square"
    statistic = ((counts - expected) ** 2).sum() / expected
    spread = 2 / (9 * freedom)
    deviation = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5
    assert abs(deviation) < 5, f"{deviation:.1f} standard deviations from uniform"
