"""Compares the Triton kernels, interpreted on the CPU, with what PyTorch computes; run by test_gpu_kernels.py."""

import math

import torch

from byzray import gpu_kernels
from byzray.deviations import squared_deviations
from byzray.distances import distances
from byzray.order_statistics import order_statistics


def main() -> None:
    """Compare all kernels; an error says where they differ."""
    gpu_kernels.DISTANCE_PROGRAMS = gpu_kernels.SUM_PROGRAMS = 2  # so that each goes through several blocks
    for n, d, dtype in (
        (7, 300, torch.float32),
        (51, 140, torch.float64),
        (70, 33, torch.float32),
        (1, 5, torch.float32),
    ):
        x_ND = torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(n)) + 10
        center_D = x_ND.mean(dim=0)
        found_D, expected_D = gpu_kernels.squared_deviations(x_ND, center_D), squared_deviations(x_ND, center_D)
        torch.testing.assert_close(found_D, expected_D, rtol=1e-12, atol=0)
        squares_NN = gpu_kernels.squared_distances(x_ND)
        torch.testing.assert_close(squares_NN.sqrt(), distances(x_ND), rtol=1e-5, atol=0)
        assert torch.equal(squares_NN, squares_NN.T)
        x_ND[0, :3], x_ND[n - 1, 4], x_ND[n // 2, 1:] = math.nan, -math.inf, 10.0
        for first, count in ((0, n), (n // 2, 1), (n // 3, max(1, n // 3))):
            assert torch.equal(gpu_kernels.order_statistics(x_ND, first, count), order_statistics(x_ND, first, count))
        finite_N = x_ND.isfinite().all(dim=1)
        assert torch.equal(gpu_kernels.squared_distances(x_ND).diagonal() == 0, finite_N)
    for k, b, channels, height in ((3, 4, 5, 6), (2, 3, 64, 8)):
        images, factors = torch.randn(2, k * b, channels, height, height, generator=torch.Generator().manual_seed(k))
        sums_KC, products_KC = gpu_kernels.channel_sums(images, factors, k)
        torch.testing.assert_close(sums_KC, images.unflatten(0, (k, -1)).sum(dim=(1, 3, 4)))
        torch.testing.assert_close(products_KC, (images * factors).unflatten(0, (k, -1)).sum(dim=(1, 3, 4)))
        torch.testing.assert_close(gpu_kernels.channel_sums(images, None, k)[0], sums_KC)


if __name__ == "__main__":
    main()
