"""Full-reference metrics on the luma of studio-range YCbCr, as the super-resolution literature reports them."""

from torch import Tensor

from linearsr.images.colour import rgb_to_y


def psnr_y(image: Tensor, reference: Tensor) -> float:
    """PSNR in dB on Y (BT.601, [16, 235] / 255), data range 1, no border crop.

    Args:
        image, reference: (B, 3, H, W) in [0, 1]; the mean over the batch of each image's PSNR is returned.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    value = peak_signal_noise_ratio(
        rgb_to_y(image), rgb_to_y(reference), data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3)
    )
    return float(value)


def ssim_y(image: Tensor, reference: Tensor) -> float:
    """SSIM on Y (Wang et al. 2004: 11x11 Gaussian window of sigma 1.5), data range 1; arguments as `psnr_y`."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    value = structural_similarity_index_measure(rgb_to_y(image), rgb_to_y(reference), data_range=1.0)
    assert isinstance(value, Tensor)
    return float(value)
