"""Adversarial terms and penalties: pure functions of logits and networks, each citing its equation.

Logits are (N,), or (N, h, w) of patches, which count as one each, and unbounded: D(x) = sigmoid(logit) where a term
speaks of probabilities. Every term is a scalar to be minimised, computed in float32 whatever the networks ran in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy_discriminator(real_logits_N: Tensor, fake_logits_N: Tensor) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))]: D maximises Eq. 1 of arXiv:1406.2661."""
    return F.softplus(-real_logits_N.float()).mean() + F.softplus(fake_logits_N.float()).mean()


def minimax_generator(fake_logits_N: Tensor) -> Tensor:
    """E[log(1 - D(G(z)))]: G minimises Eq. 1 of arXiv:1406.2661 itself, the Jensen-Shannon objective."""
    return -F.softplus(fake_logits_N.float()).mean()


def non_saturating_generator(fake_logits_N: Tensor) -> Tensor:
    """-E[log D(G(z))]: same fixed point, strong gradients early on (arXiv:1406.2661, Sec. 3)."""
    return F.softplus(-fake_logits_N.float()).mean()


def wasserstein_discriminator(real_logits_N: Tensor, fake_logits_N: Tensor) -> Tensor:
    """E[f(G(z))] - E[f(x)]: the critic maximises the dual of Eq. 2 of arXiv:1701.07875."""
    return fake_logits_N.float().mean() - real_logits_N.float().mean()


def wasserstein_generator(fake_logits_N: Tensor) -> Tensor:
    """-E[f(G(z))]: G minimises the estimated distance (arXiv:1701.07875, Alg. 1, line 10)."""
    return -fake_logits_N.float().mean()


def least_squares_discriminator(real_logits_N: Tensor, fake_logits_N: Tensor) -> Tensor:
    """E[(D(x) - 1)^2] / 2 + E[D(G(z))^2] / 2 (arXiv:1611.04076, Eq. 9: a = 0, b = 1); no sigmoid."""
    return ((real_logits_N.float() - 1).square().mean() + fake_logits_N.float().square().mean()) / 2


def least_squares_generator(fake_logits_N: Tensor) -> Tensor:
    """E[(D(G(z)) - 1)^2] / 2 (arXiv:1611.04076, Eq. 9: c = 1)."""
    return (fake_logits_N.float() - 1).square().mean() / 2


def hinge_discriminator(real_logits_N: Tensor, fake_logits_N: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))] (arXiv:1802.05957, Eq. 16); G's side is `wasserstein_generator`."""
    return F.relu(1 - real_logits_N.float()).mean() + F.relu(1 + fake_logits_N.float()).mean()


def relativistic_discriminator(real_logits_N: Tensor, fake_logits_N: Tensor) -> Tensor:
    """E[softplus(D(G(z)) - D(x))] over pairs: RpGAN (arXiv:1807.00734, Sec. 4.1; arXiv:2501.05441, Eq. 2)."""
    return F.softplus(fake_logits_N.float() - real_logits_N.float()).mean()


def relativistic_generator(real_logits_N: Tensor, fake_logits_N: Tensor) -> Tensor:
    """E[softplus(D(x) - D(G(z)))]: the same pairs, seen from the other side."""
    return F.softplus(real_logits_N.float() - fake_logits_N.float()).mean()


def matching_aware_discriminator(
    real_logits_N: Tensor, fake_logits_N: Tensor, wrong_logits_N: Tensor | None = None, wrong_share: float = 0.5
) -> Tensor:
    """-E[log D(x, t)] - (1 - s) E[log(1 - D(G(z, t), t))] - s E[log(1 - D(x, t'))], t' a text that is wrong for x:
    GAN-CLS (arXiv:1605.05396, Alg. 1, lines 6 to 9, where s is a half). Without wrong texts, s is 0.
    """
    loss = F.softplus(-real_logits_N.float()).mean()
    if wrong_logits_N is None:
        return loss + F.softplus(fake_logits_N.float()).mean()
    fake, wrong = (F.softplus(logits_N.float()).mean() for logits_N in (fake_logits_N, wrong_logits_N))
    return loss + (1 - wrong_share) * fake + wrong_share * wrong


def class_loss(logits_NK: Tensor, label_N: Tensor) -> Tensor:
    """-E[log P(C = c | x)]: what an auxiliary classifier and the generator both minimise (arXiv:1610.09585, Eq. 3)."""
    return F.cross_entropy(logits_NK.float(), label_N)


def js_divergence_bound(discriminator_loss: Tensor) -> Tensor:
    """Lower bound on JS(data, generated), nats, tight for the optimal D: log 2 - loss / 2 (arXiv:1406.2661, Thm. 1)."""
    return torch.log(torch.tensor(2.0, device=discriminator_loss.device)) - discriminator_loss / 2


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real_NS: Tensor, fake_NS: Tensor, mix_N: Tensor
) -> Tensor:
    """E[(|grad D(x_hat)|_2 - 1)^2] at x_hat = mix * real + (1 - mix) * fake (arXiv:1704.00028, Eq. 3).

    mix_N is uniform on [0, 1). The norm runs over all of one row; forward and backward are float32.
    """
    with torch.autocast(real_NS.device.type, enabled=False):
        mix = mix_N.view(-1, *[1] * (real_NS.dim() - 1))
        mixed = (mix * real_NS.float() + (1 - mix) * fake_NS.detach().float()).requires_grad_(True)
        return (_input_gradient(discriminator(mixed), mixed).norm(2, dim=1) - 1).square().mean()


def zero_centred_penalty(discriminator: Callable[[Tensor], Tensor], images_NS: Tensor) -> Tensor:
    """E[|grad D(x)|_2^2] / 2: R1 at real images, R2 at generated ones (arXiv:1801.04406, Eq. 9 and 10, gamma = 1).

    The square is summed over all of one row; forward and backward are float32.
    """
    return judged_with_penalty(discriminator, images_NS)[1]


def judged_with_penalty(discriminator: Callable[[Tensor], Tensor], images_NS: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N,), and `zero_centred_penalty` of the same pass: one forward and backward less than both apart."""
    with torch.autocast(images_NS.device.type, enabled=False):
        images = images_NS.detach().float().requires_grad_(True)
        logits_N = discriminator(images)
        return logits_N, _input_gradient(logits_N, images).square().sum(1).mean() / 2


def path_lengths(images_NCHW: Tensor, styles_NLV: Tensor, directions_NCHW: Tensor) -> Tensor:
    """|J^T y|_2 of each image, (N,): J is its derivative by the styles (arXiv:1912.04958, Eq. 4). Differentiable.

    y are the directions, standard normal, over the root of the number of pixels, and squares are averaged over the L
    styles: with a weight of 2, the penalty's is gamma_pl of the paper's Appendix B at every resolution.
    """
    scale = math.prod(images_NCHW.shape[2:]) ** -0.5
    (gradient_NLV,) = torch.autograd.grad((images_NCHW * directions_NCHW).sum() * scale, styles_NLV, create_graph=True)
    return gradient_NLV.square().sum(2).mean(1).sqrt()


def _input_gradient(logits_N: Tensor, inputs_NS: Tensor) -> Tensor:
    """Gradient of each row's logit with respect to that row, flattened to (N, prod(S)); differentiable."""
    (gradient,) = torch.autograd.grad(logits_N.float().sum(), inputs_NS, create_graph=True)
    return gradient.flatten(1)
