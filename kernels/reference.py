"""The operators in plain torch: these functions are the definitions.

Every other version of an operator gives the same bits as the function here (`cost_volume` and `warp_cost_volume`,
which sum over channels, the same values within rounding). To make that possible, the masks are integers throughout,
and what is float uses tables made once in Python, then single multiplies, adds and compares in the order written here.

Letters: B clips or images, K frames, C channels or classes, P planes (listed classes), N = ceil(P / 32) words,
H, W frame size, h, w CAM size. Sizes are (height, width); flow is (x, y) in px.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from f2f.kernels import checks
from f2f.kernels.checks import BITS_PER_WORD, words_for
from f2f.kernels.reference_crf import crf_refine as crf_refine
from f2f.kernels.reference_soft import soft_union as soft_union

MAX_FLOW_PX = 2.0**20
PEAK_EPSILON = 1e-5
IN_FRAME_WEIGHT = 0.9999
IGNORE_LABEL = 255


def pack_planes(masks: Tensor) -> Tensor:
    """Pack class masks into words: plane p becomes bit p % 32 of word p // 32.

    `masks` is bool [..., P, H, W]; returns int32 [..., ceil(P / 32), H, W]. Bit 31 is the sign: test a bit with
    `!= 0`, never with `> 0`. Bits beyond P are 0.
    """
    if masks.dtype != torch.bool or masks.dim() < 3:
        raise ValueError(f"masks is {list(masks.shape)} {masks.dtype}; accepted: [...,P,H,W] bool; compare first")
    *batch, planes, height, width = masks.shape
    padding = masks.new_zeros(*batch, words_for(planes) * BITS_PER_WORD - planes, height, width)
    lanes = torch.cat([masks, padding], dim=-3).reshape(*batch, words_for(planes), BITS_PER_WORD, height, width)
    words = torch.zeros_like(lanes[..., 0, :, :], dtype=torch.int32)  # [..., N, H, W]
    for bit, weight in enumerate(_bit_weights()):
        words = words | lanes[..., bit, :, :].to(torch.int32) * weight
    return words


def unpack_planes(bits: Tensor, planes: int) -> Tensor:
    """Undo `pack_planes`: int32 [..., N, H, W] -> bool [..., planes, H, W]."""
    if bits.dtype != torch.int32 or bits.dim() < 3 or not 0 <= planes <= bits.shape[-3] * BITS_PER_WORD:
        raise ValueError(
            f"bits is {list(bits.shape)} {bits.dtype} for {planes} planes; accepted: [...,N,H,W] int32 with "
            "N * 32 >= planes; pack with pack_planes"
        )
    weights = torch.tensor(_bit_weights(), dtype=torch.int32, device=bits.device)[:, None, None]  # [32, 1, 1]
    lanes = (bits.unsqueeze(-3) & weights) != 0  # [..., N, 32, H, W]
    return lanes.flatten(-4, -3)[..., :planes, :, :]


def _bit_weights() -> list[int]:
    """Each bit of an int32 word as a number; the last one is the sign."""
    return [1 << bit for bit in range(BITS_PER_WORD - 1)] + [-(1 << (BITS_PER_WORD - 1))]


def activate_cams(
    cams: Sequence[Tensor], flips: Sequence[bool], classes: Tensor, size_hw: tuple[int, int], theta: float
) -> tuple[Tensor, Tensor]:
    """Turn the CAMs of all scales and flips into thresholded class masks (Lee et al. 2019, §3.3.1).

    `cams[i]` is float32 [B, C, h_i, w_i], before ReLU, in its own mirrored orientation where `flips[i]`.
    `classes` is int64 [B, P], the classes wanted for each image, -1 = none (plane stays empty, peak 0).
    Each CAM is un-mirrored and upsampled to `size_hw` (bilinear, align_corners=False); m is the pixelwise maximum
    over all of them and 0 (the ReLU); NaN counts as nothing. A pixel is active where m > theta * (peak + 1e-5).

    Returns the masks as bit planes, int32 [B, ceil(P / 32), H, W], and the peaks, float32 [B, P]: the largest m of
    each class. Raises ValueError for other dtypes, shapes, class numbers outside -1..C-1 or theta outside 0..1.
    """
    checks.check_cams(cams, flips, classes, size_hw)
    checks.check_fraction("theta", theta)
    strongest = torch.zeros(*classes.shape, *size_hw, device=classes.device)  # [B, P, H, W]
    for cam, flip in zip(cams, flips, strict=True):
        listed = _listed_classes(cam, classes)  # [B, P, h, w]
        strongest = _larger(_upsample(listed.flip(-1) if flip else listed, size_hw), strongest)
    peaks = strongest.amax(dim=(-2, -1))  # [B, P]
    thresholds = torch.tensor(theta, dtype=torch.float32) * (peaks + torch.tensor(PEAK_EPSILON, dtype=torch.float32))
    return pack_planes(strongest > thresholds[..., None, None]), peaks


def _listed_classes(cam: Tensor, classes: Tensor) -> Tensor:
    """Pick `classes` [B, P] from `cam` [B, C, h, w] -> [B, P, h, w]; class -1 gives zeros."""
    image = torch.arange(cam.shape[0], device=cam.device)[:, None]  # [B, 1]
    listed = cam[image, classes.clamp_min(0)]  # [B, P, h, w]
    return torch.where((classes >= 0)[..., None, None], listed, 0.0)


def _upsample(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear resize of [B, P, h, w] to [B, P, H, W]: along x first, then along y, each low * w + high * w."""
    low, high, low_weight, high_weight = _taps_on(maps.shape[-1], size_hw[1], maps.device)
    rows = maps[..., low] * low_weight + maps[..., high] * high_weight  # [B, P, h, W]
    low, high, low_weight, high_weight = _taps_on(maps.shape[-2], size_hw[0], maps.device)
    low_weight, high_weight = low_weight[:, None], high_weight[:, None]  # [H, 1]
    return rows[..., low, :] * low_weight + rows[..., high, :] * high_weight  # [B, P, H, W]


@lru_cache(maxsize=256)
def cam_taps(in_size: int, out_size: int, mirrored: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tap tables of one axis of the CAM upsampling, align_corners=False, on the CPU.

    Returns (low index, high index) int64 [out_size] and (low weight, high weight) float32 [out_size]: computed in
    float64 and rounded once, so that every version starts from the same bits. `mirrored` taps are those in the mirror
    image of the axis: a version that uses them need not un-mirror the CAM.
    """
    place = (2 * torch.arange(out_size, dtype=torch.float64) + 1) * in_size / (2 * out_size) - 0.5
    place = place.clamp_min(0.0)
    low = place.floor().clamp_max(in_size - 1)
    high_weight = place - low
    high = (low + 1).clamp_max(in_size - 1)
    if mirrored:
        low, high = in_size - 1 - low, in_size - 1 - high
    return low.long(), high.long(), (1 - high_weight).float(), high_weight.float()


def _taps_on(in_size: int, out_size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    low, high, low_weight, high_weight = cam_taps(in_size, out_size)
    return low.to(device), high.to(device), low_weight.to(device), high_weight.to(device)


def _larger(a: Tensor, b: Tensor) -> Tensor:
    """`a > b ? a : b`: unlike torch.maximum, a NaN in `a` is passed over."""
    return torch.where(a > b, a, b)


def _smaller(a: Tensor, b: Tensor) -> Tensor:
    """`a < b ? a : b`."""
    return torch.where(a < b, a, b)


def warp_union(bits: Tensor, flow_xy_px: Tensor, *, return_steps: bool = False) -> Tensor:
    """Carry the masks of K frames to the last one and unite them (Lee et al. 2019, §3.3.2, eq. 1).

        carried[0] = bits[0];   carried[k + 1] = bits[k + 1] | W(carried[k], flow_xy_px[k])

    `bits` is int32 [B, K, N, H, W], class masks as bit planes (`pack_planes`). `flow_xy_px` is float32 or float16
    [B, K-1, 2, H, W], (x, y) in px: flow k lives on the pixels of frame k + 1 and points to frame k. W samples
    bilinearly, 0 outside the frame, and keeps a bit where the weights under it exceed one half.

    Flow is snapped to odd multiples of 1/512 px, q = 2 * floor(256 * f) + 1, which makes every weight an integer and
    ties impossible; zero flow is the identity. A flow that is not finite or beyond ±2^20 px brings nothing in.
    Returns int32 [B, N, H, W], carried[K - 1], or with `return_steps` all of them, [B, K, N, H, W].
    """
    checks.check_warp_union(bits, flow_xy_px)
    carried = [bits[:, 0]]  # each [B, N, H, W]
    for k in range(bits.shape[1] - 1):
        carried.append(bits[:, k + 1] | _warp_planes(carried[k], flow_xy_px[:, k]))
    return torch.stack(carried, dim=1) if return_steps else carried[-1].clone()


def _warp_planes(planes: Tensor, flow_xy_px: Tensor) -> Tensor:
    """Sample `planes` [B, N, H, W] at p + flow [B, 2, H, W] and re-threshold at one half, all classes at once.

    With n the nearest of the four taps, h and v its neighbours along x and y, d the diagonal one: every pair that
    holds n weighs more than one half and every pair without n less, so the bit is n & (h | v | d), or n alone where
    its own weight exceeds one half, or else h & v & d.
    """
    flow = flow_xy_px.float()
    valid = (flow.abs() <= MAX_FLOW_PX).all(dim=1)  # [B, H, W]; False for NaN
    height, width = planes.shape[-2:]
    x_near, x_far, x_weight = _nearest_taps(flow[:, 0], torch.arange(width, device=flow.device))
    y_near, y_far, y_weight = _nearest_taps(flow[:, 1], torch.arange(height, device=flow.device)[:, None])
    n, h = _tap(planes, y_near, x_near, valid), _tap(planes, y_near, x_far, valid)
    v, d = _tap(planes, y_far, x_near, valid), _tap(planes, y_far, x_far, valid)  # each [B, N, H, W]
    alone = (x_weight * y_weight > 2**17)[:, None]  # [B, 1, H, W]; n weighs x * y / 2^18
    return n & (h | v | d) | torch.where(alone, n, h & v & d)


def _nearest_taps(flow_px: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nearer tap, farther tap and the nearer one's weight (257..511, in 1/512) along one axis; each int64 [B, H, W]."""
    usable = torch.where(flow_px.abs() <= MAX_FLOW_PX, flow_px, 0.0)
    q = 2 * torch.floor(256 * usable).long() + 1  # unit 1/512 px
    low, rest = pixel + (q >> 9), q & 511
    nearer_is_low = rest < 256
    near = torch.where(nearer_is_low, low, low + 1)
    far = torch.where(nearer_is_low, low + 1, low)
    return near, far, torch.where(nearer_is_low, 512 - rest, rest)


def _tap(planes: Tensor, y: Tensor, x: Tensor, valid: Tensor) -> Tensor:
    """`planes` [B, N, H, W] read at (y, x), each [B, H, W]; 0 outside the frame or where not `valid`."""
    words, height, width = planes.shape[1:]
    inside = valid & (x >= 0) & (x < width) & (y >= 0) & (y < height)  # [B, H, W]
    place = torch.where(inside, y * width + x, 0).flatten(1)[:, None].expand(-1, words, -1)  # [B, N, H * W]
    read = planes.flatten(2).gather(2, place).view_as(planes)  # [B, N, H, W]
    return torch.where(inside[:, None], read, 0)


def cost_volume(f1: Tensor, f2: Tensor, max_displacement: int = 4) -> Tensor:
    """PWC-Net's correlation (Sun et al. 2018, §3): how well f1 at p matches f2 at p + (dx, dy), |dx|, |dy| <= d.

    `f1`, `f2` are float [B, C, H, W]; returns [B, (2d + 1)^2, H, W], (1 / C) * sum over channels of f1 * f2, 0 where
    p + (dx, dy) leaves the frame; channel k = (dy + d) * (2d + 1) + (dx + d), x fastest. Differentiable, exportable.
    """
    checks.check_features(f1, f2, max_displacement)
    height, width = f1.shape[-2], f1.shape[-1]
    padded = F.pad(f2, [max_displacement] * 4)  # [B, C, H + 2d, W + 2d]
    shifts = range(2 * max_displacement + 1)
    costs = [
        (f1 * padded[:, :, y : y + height, x : x + width]).mean(dim=1, keepdim=True)  # [B, 1, H, W]
        for y in shifts
        for x in shifts
    ]
    return torch.cat(costs, dim=1)


def cost_volume_backward(gradient: Tensor, f1: Tensor, f2: Tensor, max_displacement: int) -> tuple[Tensor, Tensor]:
    """The gradients of `cost_volume` by f1 and f2, given that by its result, [B, (2d + 1)^2, H, W]."""
    checks.check_features(f1, f2, max_displacement)
    reach, (height, width) = max_displacement, f1.shape[-2:]
    padded = F.pad(f2, [reach] * 4)  # [B, C, H + 2d, W + 2d]
    to_f1, to_padded = torch.zeros_like(f1), torch.zeros_like(padded)
    for k, cost in enumerate((gradient / f1.shape[1]).unsqueeze(2).unbind(1)):  # [B, 1, H, W]
        y, x = divmod(k, 2 * reach + 1)
        to_f1 += cost * padded[:, :, y : y + height, x : x + width]
        to_padded[:, :, y : y + height, x : x + width] += cost * f1
    return to_f1, to_padded[:, :, reach : reach + height, reach : reach + width].contiguous()


def warp_cost_volume(f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int = 4) -> Tensor:
    """`cost_volume` of f1 and f2 sampled at p + flow: PWC-Net's warping layer and correlation in one.

    `flow_xy_px` is float [B, 2, H, W], (x, y) in px of this size. Sampling is bilinear (align_corners=True) in
    float32 or better; where less than .9999 of the bilinear weight lies in the frame the sample is 0.
    Differentiable in f1, f2 and the flow; exportable (GridSample). Returns as `cost_volume`.
    """
    checks.check_features(f1, f2, max_displacement, flow_xy_px)
    return cost_volume(f1, warp_features(f2, flow_xy_px), max_displacement)


def warp_cost_volume_backward(
    gradient: Tensor, f1: Tensor, f2: Tensor, flow_xy_px: Tensor, max_displacement: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `warp_cost_volume` by f1, f2 and the flow, given that by its result."""
    checks.check_features(f1, f2, max_displacement, flow_xy_px)
    to_f1, to_warped = cost_volume_backward(gradient, f1, warp_features(f2, flow_xy_px), max_displacement)
    grid, kept = _sampling_grid(flow_xy_px)  # [B, H, W, 2], [B, H, W]
    to_sampled = to_warped.to(grid.dtype) * kept[:, None]  # [B, C, H, W]
    # bilinear (0), zeros outside (0), align_corners; gradients of both. Autograd does not reach into an operator.
    to_f2, to_grid = torch.ops.aten.grid_sampler_2d_backward(
        to_sampled, f2.to(grid.dtype), grid, 0, 0, True, [True, True]
    )
    steps = [2 / (size - 1 + (size == 1)) for size in (f1.shape[-1], f1.shape[-2])]  # of the grid in a pixel, x and y
    to_flow = to_grid.movedim(-1, 1) * grid.new_tensor(steps)[:, None, None]  # [B, 2, H, W]
    return to_f1, to_f2.to(f2.dtype), to_flow.to(flow_xy_px.dtype)


def warp_features(features: Tensor, flow_xy_px: Tensor) -> Tensor:
    """Sample `features` [B, C, H, W] at p + flow [B, 2, H, W]; see `warp_cost_volume`."""
    grid, kept = _sampling_grid(flow_xy_px)
    precise = features.to(grid.dtype)
    sampled = F.grid_sample(precise, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return (sampled * kept[:, None]).to(features.dtype)


def _sampling_grid(flow_xy_px: Tensor) -> tuple[Tensor, Tensor]:
    """Where `grid_sample` has to look, [B, H, W, 2] in -1..1, and 1 where enough of a sample is in frame, [B, H, W]."""
    height, width = flow_xy_px.shape[-2], flow_xy_px.shape[-1]
    precise = torch.promote_types(flow_xy_px.dtype, torch.float32)
    flow = flow_xy_px.to(precise)
    x = flow[:, 0] + torch.arange(width, device=flow.device, dtype=precise)  # [B, H, W]
    y = flow[:, 1] + torch.arange(height, device=flow.device, dtype=precise)[:, None]
    # `+ (size == 1)` keeps a one-pixel axis from dividing by zero and, unlike max(), survives tracing.
    grid = torch.stack([2 * x / (width - 1 + (width == 1)) - 1, 2 * y / (height - 1 + (height == 1)) - 1], dim=-1)
    weight = _in_frame(x, width) * _in_frame(y, height)  # [B, H, W]
    return grid, (weight >= IN_FRAME_WEIGHT).to(precise)


def _in_frame(place: Tensor, size: int) -> Tensor:
    """The share of the linear weight at `place` px that falls on pixels 0..size-1."""
    return torch.minimum(place + 1, size - place).clamp(0, 1)


def compose_labels(bits: Tensor, classes: Tensor, saliency: Tensor | None, theta_b: float) -> Tensor:
    """Decide one label per pixel (Lee et al. 2019, §3.4): a class, 0 = background, 255 = ignore.

    `bits` is int32 [B, N, H, W]; plane p means class `classes[:, p]` (int64 [B, P], -1 = none), label class + 1.
    Where classes overlap, the one with the smaller area in its image wins, on a tie the lower label. Of the rest,
    `saliency` (float32 [B, 1, H, W], 0..1) below `theta_b` is 0 and everything else 255; without saliency all the
    rest is 255. Returns uint8 [B, H, W]. Raises ValueError for a class above 253: uint8 has no label for it.
    """
    checks.check_compose(bits, classes, saliency, theta_b)
    nobody = torch.iinfo(torch.int64).max
    masks = unpack_planes(bits, classes.shape[1]) & (classes >= 0)[..., None, None]  # [B, P, H, W]
    rank = masks.sum(dim=(-2, -1)) * 256 + classes + 1  # [B, P]; smaller area first, then lower label
    claims = torch.where(masks, rank[..., None, None], nobody)  # [B, P, H, W]
    rest = claims.new_full((bits.shape[0], 1, *bits.shape[2:]), IGNORE_LABEL)  # [B, 1, H, W]
    best = torch.cat([torch.full_like(rest, nobody), claims], dim=1).amin(dim=1, keepdim=True)
    if saliency is not None:
        rest = torch.where(saliency < torch.tensor(theta_b, dtype=torch.float32), 0, rest)
    return torch.where(best == nobody, rest, best % 256).to(torch.uint8).squeeze(1)


def minimum_barrier(channels: Tensor, passes: int = 3) -> Tensor:
    """Minimum barrier distance of every pixel to the image border (Zhang et al. 2015, "MB+", algorithm 1).

    `channels` is float32 [B, C, H, W]; returns float32 [B, H, W]: the sum over channels, in their order, of the least
    (highest - lowest value) along a path to the border, as `passes` raster sweeps find it: the first from the top
    left, looking up, then left; every other one from the bottom right, looking down, then right. A NaN is reached by
    no path: distance inf.
    """
    checks.check_barrier(channels, passes)
    state = _barrier_start(channels)
    for _ in range(passes):
        state = _raster_sweep(state)
        state = tuple(part.flip(-2, -1) for part in state)  # the next sweep runs the other way
    distance = state[3].flip(-2, -1) if passes % 2 else state[3]  # [B, C, H, W]
    total = distance.new_zeros(distance.shape[0], *distance.shape[2:])
    for channel in range(distance.shape[1]):
        total = total + distance[:, channel]
    return total


def _barrier_start(image: Tensor) -> tuple[Tensor, ...]:
    """(image, highest, lowest, distance), each [B, C, H, W]: distance 0 on the border, inf inside."""
    distance = torch.zeros_like(image)
    distance[..., 1:-1, 1:-1] = torch.inf
    return image, image.clone(), image.clone(), distance


def _raster_sweep(state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One sweep from the top left. Pixels of one anti-diagonal depend only on the one before, so go diagonal-wise."""
    height, width = state[0].shape[-2:]
    if min(height, width) < 3:
        return state  # all border
    image, highest, lowest, distance = (part.flatten(2).clone() for part in state)  # each [B, C, H * W]
    for diagonal in range(2, height + width - 3):
        rows = torch.arange(max(1, diagonal - width + 2), min(height - 2, diagonal - 1) + 1, device=image.device)
        here = rows * width + diagonal - rows
        for neighbour in (here - width, here - 1):
            high = _larger(highest[..., neighbour], image[..., here])
            low = _smaller(lowest[..., neighbour], image[..., here])
            closer = high - low < distance[..., here]
            distance[..., here] = torch.where(closer, high - low, distance[..., here])
            highest[..., here] = torch.where(closer, high, highest[..., here])
            lowest[..., here] = torch.where(closer, low, lowest[..., here])
    return tuple(part.view_as(state[0]) for part in (image, highest, lowest, distance))
