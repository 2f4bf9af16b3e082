import numpy as np

from dlmo.runtimes.litert.ranges import mean_square, percentile


def test_percentile_leaves_an_outlier_outside():
    values = np.append(np.linspace(-1, 1, 10_000), 100.0)
    low, high = percentile(values)
    assert -1 <= low < -0.99 and 0.99 < high <= 1


def test_mean_square_keeps_what_needs_no_clipping():
    assert mean_square(np.linspace(0.0, 6.0, 4096)) == (0.0, 6.0)


def test_mean_square_gives_up_a_rare_outlier_for_finer_steps():
    values = np.append(np.random.default_rng(0).normal(0, 1, 200_000), 12.0)
    low, high = mean_square(values)
    assert 4 < high < 12
    steps = [(top - bottom) / 255 for bottom, top in ((low, high), (float(values.min()), 12.0))]
    errors = [np.square(np.round(np.clip(values, bottom, top) / step) * step - values).sum()
              for (bottom, top), step in zip(((low, high), (float(values.min()), 12.0)), steps)]  # fmt: skip
    assert errors[0] < errors[1]


def test_a_constant_tensor_has_a_range():
    assert mean_square(np.zeros(10)) == (0.0, 0.0)
