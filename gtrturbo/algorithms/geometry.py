"""Methods that move on spheres or towards a centre: linear combinations whose coefficients follow from inner products.

Each takes G = [⟨v_i, v_j⟩], the k vectors being one tensor's weights or task vectors, so that the vectors need not be in memory.
"""

import math
from collections.abc import Sequence

import numpy as np

# Cosine above which rounding decides whether two vectors are parallel, or opposite and then joined by no arc of their own.
PARALLEL = 1 - 2**-43


def slerp_coefficients(gram: np.ndarray, *, t: float, lerp_above: float = 0.9995) -> list[float]:
    """Return c with Σ c_i v_i on the great circle from v_0 (t = 0) to v_1 (t = 1).

    c = (sin((1 − t)θ), sin(tθ)) / sin θ,   cos θ = ⟨v_0, v_1⟩ / ‖v_0‖‖v_1‖

    Straight (1 − t, t) where |cos θ| exceeds `lerp_above` or a vector is 0.

    Source: Shoemake, "Animating rotation with quaternion curves" (1985).
    """
    norms = math.sqrt(gram[0, 0]) * math.sqrt(gram[1, 1])
    cosine = float(np.clip(gram[0, 1] / norms, -1, 1)) if norms > 0 else 1.0
    if abs(cosine) > lerp_above:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def multislerp_coefficients(
    gram: np.ndarray, weights: Sequence[float], *, normalize_weights: bool = True, eps: float = 1e-8
) -> list[float]:
    """Return the coefficients of a weighted barycentre on the sphere.

    u_i = v_i / (‖v_i‖ + ε),   m = Σ w_i u_i / ‖Σ w_i u_i‖,   τ = Σ w_i (u_i − ⟨u_i, m⟩ m),   φ = ‖τ‖ + ε
    result = Σ w_i ‖v_i‖ · (cos φ · m + sin φ / φ · τ)

    So directions are projected onto the tangent space at m, averaged there, taken back by the exponential map, and scaled to the
    weighted mean norm. Vectors that are 0 have no direction, and their norm counts; where all are 0, so is the result.

    One vector is its own barycentre; two that cancel are joined by a straight line.

    Args:
        normalize_weights: divide the weights by their sum; only their ratios count then.
        eps: ε; also the length below which the weighted sum of the directions counts as 0.

    Raises: ValueError: the weighted sum of the unit vectors is 0.

    Source: as defined for Multi-SLERP in mergekit; tangents are projections, not logarithms.
    """
    if len(weights) == 1:
        return [1.0]
    shares = np.asarray(weights, float) / (math.fsum(weights) if normalize_weights else 1.0)
    norms = np.sqrt(np.diag(gram))
    inverse = np.divide(1.0, norms + eps, out=np.zeros_like(norms), where=norms > 0)
    cosines = gram * np.outer(inverse, inverse)
    if not norms.any():
        return [0.0] * len(norms)
    length = math.sqrt(max(0.0, float(shares @ cosines @ shares)))
    if length < eps and len(norms) == 2:
        return shares.tolist()
    if length < eps:
        raise ValueError("the weighted sum of the directions is 0.")
    mean = shares / length  # m = Σ mean_i u_i
    along = cosines @ mean  # ⟨u_i, m⟩
    tangent = shares - float(shares @ along) * mean  # Σ tangent_i u_i is the weighted sum of the projections
    size = math.sqrt(max(0.0, float(tangent @ cosines @ tangent))) + eps
    turned = math.cos(size) * mean + (math.sin(size) / size if size > 0 else 1.0) * tangent
    return list(float(shares @ norms) * turned * inverse)


def karcher_coefficients(gram: np.ndarray, weights: Sequence[float], *, max_iter: int = 10, tol: float = 1e-5) -> list[float]:
    """Return the coefficients of the Karcher mean on the sphere, at the weighted mean norm.

    m minimises Σ w_i θ(m, u_i)² over unit vectors, θ the angle and u_i = v_i / ‖v_i‖: from the unit vector along Σ w_i u_i, go
    along Σ w_i log_m(u_i) by the exponential map, at most `max_iter` times and until a step is shorter than `tol`. The result is
    Σ w_i ‖v_i‖ · m, weights scaled to sum to 1. Vectors not longer than `tol` have no direction, and their norm counts; where all
    are shorter than 1, those not longer than `tol` times the longest, so that what all share comes out however small it is.

    Source: Karcher, "Riemannian center of mass and mollifier smoothing" (1977); as for `karcher` in mergekit, with weights.
    """
    shares = np.asarray(weights, float) / math.fsum(weights)
    norms = np.sqrt(np.diag(gram))
    valid = norms > tol * min(1.0, float(norms.max()))
    if not valid.any():
        return [0.0] * len(norms)
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=valid)
    cosines = gram * np.outer(inverse, inverse)
    pull = np.where(valid, shares, 0.0) / math.fsum(shares[valid])
    length = _length(cosines, pull)
    mean = pull / length if length >= tol else np.eye(len(norms))[int(np.argmax(valid))]
    for _ in range(max_iter):
        along = np.clip(cosines @ mean, -1, 1)  # ⟨m, u_i⟩
        angles = np.arccos(along)
        far = valid & (angles >= tol) & (angles <= math.pi - tol)  # From the opposite point no direction is the shortest.
        stretch = np.where(far, pull * angles / np.sin(np.where(far, angles, 1.0)), 0.0)
        step = stretch - float(stretch @ along) * mean
        size = _length(cosines, step)
        if size < tol:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * step
        mean = mean / _length(cosines, mean)
    return list(float(shares @ norms) * mean * inverse)


def _length(cosines: np.ndarray, coefficients: np.ndarray) -> float:
    return math.sqrt(max(0.0, float(coefficients @ cosines @ coefficients)))


def model_stock_coefficients(gram: np.ndarray) -> list[float]:
    """Return c with Σ c_i d_i the point between base and mean of the task vectors that is closest to their centre.

    c_i = r / k,   r = k cos θ / (1 + (k − 1) cos θ),   cos θ the mean over pairs; 0 where the denominator vanishes

    Source: Jang et al., "Model Stock" (arXiv 2403.19522), equation for N models; layer by layer.
    """
    k = len(gram)
    norms = np.sqrt(np.diag(gram))
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    cosines = [float(np.clip(gram[i, j] / (norms[i] * norms[j]), -1, 1)) if norms[i] * norms[j] > 0 else 0.0 for i, j in pairs]
    cosine = math.fsum(cosines) / len(cosines)
    denominator = 1 + (k - 1) * cosine
    ratio = k * cosine / denominator if abs(denominator) >= 1e-6 else 0.0
    return [ratio / k] * k
