"""The signal-to-noise estimate is unbiased, and the multiplier does what its formula says."""

import numpy as np
import pytest

from curbench.train.snr import SignalToNoise, SNRStep, signal_and_noise


def test_the_estimates_are_unbiased():
    """Gradients of four parts with mean m, |m|^2 = 3, and unit noise in five dimensions: V = 5 / 4 for the batch."""
    rng = np.random.default_rng(0)
    mean = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    found = []
    for _ in range(20_000):
        part = mean + rng.normal(size=(4, 5))
        found.append(signal_and_noise(np.square(part).sum(1), float(np.square(part.mean(0)).sum())))
    signal, noise = np.mean(found, axis=0)
    assert signal == pytest.approx(3.0, abs=4 * np.std([f[0] for f in found]) / 20_000**0.5)
    assert noise == pytest.approx(1.25, abs=4 * np.std([f[1] for f in found]) / 20_000**0.5)


def test_equal_parts_have_no_noise_and_the_full_rate():
    assert SignalToNoise(SNRStep()).observe(np.array([2.0, 2.0, 2.0, 2.0]), 2.0) == 1.0


def test_the_multiplier_is_a_ratio_of_running_means():
    snr = SignalToNoise(SNRStep(parts=2, memory=0.5, floor=0.01))
    signal = noise = 0.0
    for part_sq, mean_sq in (([4.0, 2.0], 2.0), ([1.0, 3.0], 1.5), ([9.0, 1.0], 0.5)):
        s, v = signal_and_noise(np.array(part_sq), mean_sq)
        signal, noise = 0.5 * signal + 0.5 * s, 0.5 * noise + 0.5 * v
        expected = max(0.01, max(signal, 0.0) / (max(signal, 0.0) + noise))
        assert snr.observe(np.array(part_sq), mean_sq) == pytest.approx(expected)


def test_pure_noise_takes_the_floor():
    assert SignalToNoise(SNRStep(parts=2, floor=0.2)).observe(np.array([1.0, 1.0]), 0.1) == 0.2
