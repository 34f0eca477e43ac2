"""One statistical test for all that is said to be uniform."""

import numpy as np


def assert_uniform(counts: np.ndarray) -> None:
    """Pearson's chi-square that all cells of `counts` are equally likely.

    The cube root of the statistic is close to normal (Wilson and Hilferty 1931). Five standard
    deviations, either side: a sound generator fails at one seed in two million.
    """
    counts = np.asarray(counts, float).ravel()
    expected, freedom = counts.mean(), counts.size - 1
    assert expected >= 10, "too few draws a cell for the chi-square"
    statistic = ((counts - expected) ** 2).sum() / expected
    spread = 2 / (9 * freedom)
    deviation = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5
    assert abs(deviation) < 5, f"{deviation:.1f} standard deviations from uniform"
