"""The stages between decoding and writing, each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from material import CLASSES, TinyNetworks, picture
from torch import Tensor

from f2f.engine.aggregate import aggregate
from f2f.engine.background import Saliency, decide_background, open_saliency
from f2f.engine.cam import Activation, MultiScaleCams, activate
from f2f.engine.classify import Classifier, classify, to_tensor, without_scores
from f2f.engine.errors import NetworkError, UsageError, VideoError
from f2f.engine.flow import DisFlow, NetworkFlow, both_ways, follow, open_flow
from f2f.engine.options import FlowOptions, RuntimeOptions
from f2f.engine.resize import fit_multiple, pad_multiple, resize
from f2f.engine.runtimes.network import NetworkInfo
from f2f.engine.stage import StageClock
from f2f.engine.types import (
    ActiveWindow,
    AggregatedWindow,
    Failure,
    Frame,
    ImageArray,
    LabelledWindow,
    MovingWindow,
    ScoredFrame,
    VideoEnd,
    Window,
)
from f2f.kernels import pack_planes, unpack_planes

RUNTIME = RuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def classifier(networks: TinyNetworks) -> Classifier:
    return Classifier.open(str(networks.classifier), RUNTIME)


def frame(video: int, number: int, image: ImageArray | None = None) -> Frame:
    return Frame(video, 0, number / 6, picture("red", number) if image is None else image)


def window(*images: ImageArray, classes: tuple[int, ...] = (0,), video: int = 0) -> Window:
    return Window(video, 0, tuple(frame(video, number, image) for number, image in enumerate(images)), classes, None)


class Fake:
    """A network of plain Python."""

    def __init__(self, info: NetworkInfo, *outputs: object) -> None:
        self.info, self._outputs, self.shapes = info, outputs, list[tuple[int, ...]]()

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        self.shapes.append(tuple(batch.shape))
        return tuple(output(batch) if callable(output) else output for output in self._outputs)  # type: ignore[misc]


# ---- classify


def scored(items: list[Frame | VideoEnd], classifier: Classifier, batch_frames: int) -> list[ScoredFrame | VideoEnd]:
    return list(classify(iter(items), classifier, batch_frames, StageClock()))


def mixed(sizes: list[tuple[int, int]]) -> list[Frame | VideoEnd]:
    """Frames of one video per size, interleaved, then the videos' ends."""
    rng = np.random.default_rng(0)
    frames = [
        frame(video, number, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        for number in range(7)
        for video, size in enumerate(sizes)
    ]
    return [*frames, *(VideoEnd(video) for video in range(len(sizes)))]


def test_scores_keep_order_and_do_not_depend_on_the_batch(classifier: Classifier) -> None:
    items = mixed([(64, 96), (64, 96), (48, 40), (64, 96)])
    together = scored(items, classifier, 4)
    for video in range(4):
        alone = scored([item for item in items if item.video == video], classifier, 4)
        ours = [item for item in together if (item.frame if isinstance(item, ScoredFrame) else item).video == video]
        assert len(ours) == len(alone) == 8
        assert isinstance(ours[-1], VideoEnd)
        for one, other in zip(ours[:-1], alone[:-1], strict=True):
            assert isinstance(one, ScoredFrame)
            assert isinstance(other, ScoredFrame)
            assert one.frame is other.frame
            assert one.scores is not None
            assert np.array_equal(one.scores, other.scores), "bit for bit"  # type: ignore[arg-type]


def test_a_video_that_changes_its_size_keeps_its_order(classifier: Classifier) -> None:
    sizes = [(64, 96)] * 3 + [(48, 40)] * 9 + [(64, 96)] * 2
    items = [frame(0, number, np.zeros((*size, 3), np.uint8)) for number, size in enumerate(sizes)]
    others = [frame(1, number) for number in range(3)]
    out = scored([*others, *items, VideoEnd(0), VideoEnd(1)], classifier, 4)
    times = [item.frame.pts_seconds for item in out if isinstance(item, ScoredFrame) and item.frame.video == 0]
    assert times == sorted(times)
    assert len(times) == 14


def white_is_nan(batch: Tensor) -> Tensor:
    scores = torch.zeros(len(batch), 3)
    scores[batch.amin((1, 2, 3)) == 1] = torch.nan
    return scores


def test_a_failing_network_costs_its_videos_only() -> None:
    network = Fake(NetworkInfo("classifier", CLASSES), white_is_nan, lambda batch: torch.zeros(len(batch), 3, 2, 2))
    white = np.full((16, 16, 3), 255, np.uint8)
    black = np.zeros((16, 16, 3), np.uint8)
    items: list[Frame | VideoEnd] = [frame(n % 2, n, white if n in {2, 4} else black) for n in range(8)]
    out = scored([*items, VideoEnd(0), VideoEnd(1)], Classifier(network), 4)
    ends = {item.video: item for item in out if isinstance(item, VideoEnd)}
    assert ends[0].failure == Failure("classify", "network_failed", "the classifier's scores are not finite")
    assert ends[1].failure is None
    assert sum(isinstance(item, ScoredFrame) and item.frame.video == 1 for item in out) == 4
    assert sum(isinstance(item, ScoredFrame) and item.frame.video == 0 for item in out) == 1, "those before stay"


def test_a_network_with_other_channels_than_classes() -> None:
    network = Fake(NetworkInfo("classifier", CLASSES), torch.zeros(1, 2), torch.zeros(1, 2, 4, 4))
    with pytest.raises(NetworkError, match=r"scores \[1, 2\] .* 3 classes"):
        Classifier(network)(torch.zeros(1, 3, 8, 8))


def test_frames_too_small_for_the_classifier() -> None:
    network = Fake(NetworkInfo("classifier", CLASSES), torch.zeros(1, 3), torch.zeros(1, 3, 0, 5))
    with pytest.raises(VideoError, match="frames of 40x4 px are too small"):
        Classifier(network)(torch.zeros(1, 3, 4, 40))


def test_without_scores() -> None:
    items: list[Frame | VideoEnd] = [frame(0, 0), VideoEnd(0)]
    first, end = without_scores(iter(items))
    assert isinstance(first, ScoredFrame)
    assert first.scores is None
    assert end is items[1]


# ---- cam


def active(classifier: Classifier, shown: Window, scales: tuple[float, ...] = (1.0,)) -> Tensor:
    (item,) = activate(iter([shown]), Activation(MultiScaleCams(classifier, scales), 0.4), StageClock())
    assert isinstance(item, ActiveWindow)
    return unpack_planes(item.bits, len(shown.classes))  # [K, P, H, W]


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 0.75, 1.0, 1.25)])
def test_an_object_off_the_centre_keeps_its_side(classifier: Classifier, scales: tuple[float, ...]) -> None:
    """Mirrored CAMs are turned back, or the object would show up on both sides."""
    image = picture("red", 0)  # the square is at the left
    regions = active(classifier, window(image, np.ascontiguousarray(image[:, ::-1])), scales)
    left, right = regions[0, 0], regions[1, 0]
    assert left[:, :40].any()
    assert not left[:, 48:].any()
    assert right[:, 56:].any()
    assert not right[:, :48].any()


def test_planes_are_the_label_set(classifier: Classifier) -> None:
    image = picture("green", 0)
    image[:, 48:] = picture("blue", 40)[:, 48:]
    regions = active(classifier, window(image, classes=(1, 2)))
    assert regions.shape == (1, 2, 64, 96)
    assert regions[0, 0, 20:44, 6:26].float().mean() > 0.8
    assert not regions[0, 0, :, 48:].any()
    assert regions[0, 1, 20:44, 50:64].float().mean() > 0.8
    assert not regions[0, 1, :, :40].any()


# ---- flow


def moving_square(shift_px: int) -> list[ImageArray]:
    rng = np.random.default_rng(3)
    texture = np.repeat(rng.integers(0, 256, (30, 30, 1), dtype=np.uint8), 3, axis=2)
    texture = np.kron(texture[:10, :10], np.ones((4, 4, 1))).astype(np.uint8)
    frames = [np.full((96, 128, 3), 90, np.uint8) for _ in range(3)]
    for number, image in enumerate(frames):
        left = 30 + shift_px * number
        image[28:68, left : left + 40] = texture
    return frames


def test_flow_lives_on_the_later_frame_and_points_to_the_earlier() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    flow = DisFlow()([moving_square(5)])[0]
    assert flow.shape == (2, 2, 96, 128)
    for pair in range(2):
        inside = flow[pair, :, 38:58, 40 + 5 * (pair + 1) : 60 + 5 * (pair + 1)]
        assert torch.allclose(inside.median(2).values.median(1).values, torch.tensor([-5.0, 0.0]), atol=0.5)


def test_union_follows_the_square() -> None:
    """A region seen in the first frame alone is carried to where the object is in the last."""
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    images = moving_square(5)
    seen = torch.zeros(3, 1, 96, 128, dtype=torch.bool)
    seen[0, 0, 33:63, 35:65] = True
    shown = ActiveWindow(window(*images), pack_planes(seen))
    (item,) = aggregate(follow(iter([shown]), DisFlow(), FlowOptions(), StageClock()), StageClock())
    assert isinstance(item, AggregatedWindow)
    carried = unpack_planes(item.bits, 1)[0]
    expected = torch.zeros(96, 128, dtype=torch.bool)
    expected[33:63, 45:75] = True
    assert (carried & expected).sum() / (carried | expected).sum() > 0.85


def test_flow_network_sees_the_size_it_needs() -> None:
    """Frames are padded to its multiple, not distorted; all pairs of all clips go in at once."""
    info = NetworkInfo("flow", size_multiple=32)
    network = Fake(info, lambda batch: batch[:, 1:, :2])
    images = [np.full((48, 80, 3), level, np.uint8) for level in (10, 20, 30, 40)]
    flow = NetworkFlow(network)([images, images[::-1]])
    assert network.shapes == [(2, 4, 3, 64, 96)]
    assert flow.shape == (2, 3, 2, 48, 80)
    assert torch.allclose(flow[:, :, 0, 0, 0] * 255, torch.tensor([[20.0, 30.0, 40.0], [30.0, 20.0, 10.0]]))


def test_flow_both_ways_points_forth_and_back() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    there, back = both_ways(DisFlow(), [moving_square(5)])
    assert there.shape == back.shape == (1, 2, 2, 96, 128)
    for frame in range(2):  # on frame `frame` the way back's entry `frame` points to where the square will be
        inside = back[0, frame, :, 38:58, 40 + 5 * frame : 60 + 5 * frame]
        assert torch.allclose(inside.median(2).values.median(1).values, torch.tensor([5.0, 0.0]), atol=0.5)
    assert torch.equal(there, DisFlow()([moving_square(5)]))


def test_flow_network_with_other_outputs() -> None:
    network = Fake(NetworkInfo("flow"), torch.zeros(1, 2, 2, 8, 8))
    with pytest.raises(NetworkError, match=r"accepted: \[1, 1, 2, 8, 8\]"):
        NetworkFlow(network)([[np.zeros((8, 8, 3), np.uint8)] * 2])


def test_one_frame_needs_no_flow() -> None:
    def refuse(clips: list[list[ImageArray]]) -> Tensor:
        raise AssertionError(len(clips))

    shown = ActiveWindow(window(picture()), torch.ones(1, 1, 64, 96, dtype=torch.int32))
    (moving,) = follow(iter([shown]), refuse, FlowOptions(), StageClock())  # type: ignore[arg-type]
    assert isinstance(moving, MovingWindow)
    assert moving.flow_xy_px.shape == (0, 2, 64, 96)
    (united,) = aggregate(iter([moving]), StageClock())
    assert isinstance(united, AggregatedWindow)
    assert torch.equal(united.bits, shown.bits[0])


def test_frames_too_small_for_dis() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    tiny = [np.zeros((8, 8, 3), np.uint8)] * 2
    with pytest.raises(VideoError, match="12 px or more"):
        DisFlow()([tiny])


def test_dis_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(UsageError, match=r"install f2f\[dis\]"):
        open_flow("dis", RUNTIME)


@pytest.mark.parametrize("together", [1, 2, 3, 9])
def test_a_window_that_fails_ends_its_video_only(together: int) -> None:
    def work(clips: list[list[ImageArray]]) -> Tensor:
        if min(clip[0].max() for clip in clips) == 0:
            raise VideoError("network_failed", "black")
        return torch.zeros(len(clips), 1, 2, 16, 16)

    def shown(video: int, level: int) -> ActiveWindow:
        images = [np.full((16, 16, 3), level, np.uint8)] * 2
        return ActiveWindow(window(*images, video=video), torch.zeros(2, 1, 16, 16, dtype=torch.int32))

    items: Iterator[ActiveWindow | VideoEnd] = iter(
        [shown(0, 9), shown(1, 0), shown(0, 9), shown(1, 9), VideoEnd(1), VideoEnd(0)]
    )
    out = list(follow(items, work, FlowOptions(batch_windows=together), StageClock()))  # type: ignore[arg-type]
    assert [type(item).__name__ for item in out] == ["MovingWindow", "MovingWindow", "VideoEnd", "VideoEnd"]
    assert isinstance(out[2], VideoEnd)
    assert out[2].failure == Failure("flow", "network_failed", "black")
    assert out[3] == VideoEnd(0)


# ---- background


def labelled(saliency: Saliency) -> ImageArray:
    """A mask of one frame: the upper left is class 2, the left half is dark, the right half is light."""
    image = np.full((16, 16, 3), 200, np.uint8)
    image[:, :8] = 50
    seen = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    seen[..., :8, :4] = True
    shown = AggregatedWindow(window(image, classes=(2,)), pack_planes(seen)[0])
    (item,) = decide_background(iter([shown]), saliency, StageClock())
    assert isinstance(item, LabelledWindow)
    return item.labels


def test_background_and_ignore(networks: TinyNetworks) -> None:
    labels = labelled(open_saliency(str(networks.saliency), None, RUNTIME))
    assert (labels[:8, :4] == 3).all()
    assert (labels[8:, :8] == 0).all(), "not salient: background"
    assert (labels[:, 8:] == 255).all(), "salient, of no class: ignore"
    assert (labelled(open_saliency("none", None, RUNTIME))[8:] == 255).all()
    assert (labelled(open_saliency(str(networks.saliency), 0.9, RUNTIME))[:, 8:] == 0).all()


def test_saliency_network_with_other_outputs(tmp_path: Path) -> None:
    from functools import partial

    from f2f.engine.background import _network_saliency

    network = Fake(NetworkInfo("saliency"), torch.zeros(1, 3, 16, 16))
    with pytest.raises(NetworkError, match=r"accepted: \[1,1,H,W\]"):
        labelled(Saliency(partial(_network_saliency, network), 0.5, "", ""))


# ---- resize


def test_resize() -> None:
    images = torch.rand(2, 3, 10, 14)
    assert resize(images, (10, 14)) is images
    assert fit_multiple(images, 1) is images
    assert fit_multiple(images, 8).shape == (2, 3, 16, 16)
    padded = pad_multiple(images, 8)
    assert padded.shape == (2, 3, 16, 16)
    assert torch.equal(padded[..., :10, :14], images)
    assert torch.equal(padded[..., 10:, :14], images[..., 9:, :].expand(-1, -1, 6, -1))
    assert pad_multiple(images, 2) is images


def test_pixels_become_0_to_1_rgb() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 1] = (255, 51, 0)
    tensor = to_tensor([image])
    assert tensor.shape == (1, 3, 2, 3)
    assert torch.allclose(tensor[0, :, 0, 1], torch.tensor([1.0, 0.2, 0.0]))
