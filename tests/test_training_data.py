"""Training data: pairs with exact flow, augmentation, tagged images, figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from f2f.engine.errors import UsageError
from f2f.kernels.reference import warp_features
from f2f.training import layers, pairs
from f2f.training.classifier_data import read_classifier_images
from f2f.training.data import CropOptions, TrainingImages, augment_image, read_tagged_images, tag_vector
from f2f.training.evaluate import evaluate_flow
from f2f.training.layers import draw_layers_pair, layer_pairs
from f2f.training.pairs import CachedPairs, Pair, PairDataset, augment, fill_cache, load_pair, save_pair
from f2f.training.textures import draw_texture


@pytest.fixture(scope="module")
def pair() -> Pair:
    return draw_layers_pair((5,), (96, 128))


def _as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def test_flow_of_layers_takes_the_second_frame_back_to_the_first(pair: Pair) -> None:
    first, second = _as_tensor(pair.first), _as_tensor(pair.second)
    warped = warp_features(second, torch.from_numpy(pair.flow_xy_px).permute(2, 0, 1)[None])
    seen = torch.from_numpy(pair.visible)
    assert seen.float().mean() > 0.5
    warped_error = (warped - first).abs().mean(1)[0][seen].mean()
    plain_error = (second - first).abs().mean(1)[0][seen].mean()
    assert warped_error < 0.25 * plain_error


@pytest.mark.parametrize("seed", range(8))
def test_a_bend_can_be_undone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = next(layer for layer in (layers._draw_layers(rng, (96, 128))[-1] for _ in range(30)) if layer.bend)
    shown = torch.rand(2, 9, 11) * 300 - 150
    place = layers._unbent(layer, shown)
    torch.testing.assert_close(place + layers._pushes(layer, place), shown, rtol=0, atol=0.05)
    assert (place - shown).norm(dim=0).max() > 0.05


def test_textures_are_drawn_by_their_seed_alone_and_have_contrast() -> None:
    drawn = [draw_texture(np.random.default_rng(seed)) for seed in (1, 1, *range(2, 12))]
    assert torch.equal(drawn[0], drawn[1])
    for texture in drawn:
        assert texture.shape == (1, 3, 256, 256)
        assert 0 <= texture.min() < texture.max() <= 1
    assert torch.stack([texture.std() for texture in drawn]).median() > 0.05


def test_recolouring_keeps_the_range_and_differs_between_the_frames() -> None:
    frames = torch.rand(1, 3, 32, 48).expand(2, 3, 32, 48).contiguous()
    for seed in range(12):
        coloured = pairs._recolour(frames, np.random.default_rng(seed))
        assert coloured.shape == frames.shape
        assert 0 <= coloured.min() < coloured.max() <= 1
        assert (coloured[0] != coloured[1]).any()


def test_layers_are_drawn_by_their_seed_alone() -> None:
    one, again, other = (draw_layers_pair(seed, (40, 56)) for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(one.first, again.first)
    np.testing.assert_array_equal(one.flow_xy_px, again.flow_xy_px)
    assert (one.first != other.first).any()


def test_higher_frames_hold_longer_motions() -> None:
    def longest_px(height: int) -> float:
        drawn = (draw_layers_pair((seed,), (height, 2 * height)) for seed in range(8))
        return float(np.mean([np.linalg.norm(pair.flow_xy_px, axis=-1).max() for pair in drawn]))

    assert longest_px(160) > 1.5 * longest_px(40)


def test_small_pairs_are_zoomed_to_cover_the_crop(pair: Pair) -> None:
    known = [augment(pair, (192, 256), np.random.default_rng(seed)).flow[2].mean() for seed in range(8)]
    assert min(known) > 0.5
    assert float(np.median(known)) > 0.9


def test_augmented_flow_fits_the_augmented_frames(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_recolour", lambda frames, rng: frames)
    for seed in range(4):
        sample = augment(pair, (64, 64), np.random.default_rng(seed))
        flow = sample.flow[None, :2]
        inside = warp_features(torch.ones(1, 1, 64, 64), flow)[0, 0] > 0
        error = (warp_features(sample.frames[1:], flow) - sample.frames[:1]).abs().mean(1)[0]
        assert error[inside & (sample.flow[2] > 0)].median() < 0.02


def test_pair_survives_the_cache(pair: Pair, tmp_path: Path) -> None:
    save_pair(tmp_path / "pair.npz", pair)
    stored = load_pair(tmp_path / "pair.npz")
    np.testing.assert_array_equal(stored.second, pair.second)
    np.testing.assert_array_equal(stored.visible, pair.visible)
    np.testing.assert_allclose(stored.flow_xy_px, pair.flow_xy_px, atol=1 / 128 + 1e-6)


def test_cache_is_filled_once_and_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "FRAME_HW", (32, 48))
    files = fill_cache(tmp_path, layer_pairs, 0, 2, 2, 0)
    assert len(files) == 4
    kept, times = files[3], {path: path.stat().st_mtime_ns for path in files}
    content = load_pair(files[0]).first
    files[0].unlink()
    assert fill_cache(tmp_path, layer_pairs, 0, 2, 2, 0) == files
    np.testing.assert_array_equal(load_pair(files[0]).first, content)
    assert kept.stat().st_mtime_ns == times[kept]


def test_samples_depend_on_seed_and_index_alone(pair: Pair, tmp_path: Path) -> None:
    save_pair(tmp_path / "pair.npz", pair)
    dataset = PairDataset([CachedPairs([], [tmp_path / "pair.npz"], 1.0).draw], (64, 64), seed=1)
    torch.testing.assert_close(dataset[7], dataset[7])
    assert not torch.equal(dataset[7][0], dataset[8][0])


def write_tagged_images(folder: Path, count: int = 12) -> Path:
    """Images of a bright patch: red is `deer`, blue is `peacock`, on grey."""
    (folder / "JPEGImages").mkdir(parents=True)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["id,classes"]
    for number in range(count):
        image = np.full((64, 96, 3), 128, np.uint8) + rng.integers(0, 20, (64, 96, 3), np.uint8)
        names = [
            name for name, present in zip(("deer", "peacock"), (number % 2, number % 3 == 0), strict=True) if present
        ]
        for name in names:
            top, left = (20, 15) if name == "deer" else (30, 60)
            image[top : top + 20, left : left + 20] = (230, 30, 30) if name == "deer" else (30, 30, 230)
        Image.fromarray(image).save(folder / "JPEGImages" / f"i{number}.jpg", quality=95)
        rows.append(f"i{number},{' '.join(names)}")
    (folder / "tags.csv").write_text("\n".join(rows) + "\n")
    (lists / "train.txt").write_text("\n".join(f"i{number}" for number in range(count - 4)) + "\n")
    (lists / "val.txt").write_text("\n".join(f"i{number}" for number in range(count - 4, count)) + "\n")
    return folder


def test_tagged_images_are_read(tmp_path: Path) -> None:
    images = read_classifier_images(write_tagged_images(tmp_path / "images"))
    assert images.classes == ("deer", "peacock")
    assert [len(images.train.images), len(images.val.images)] == [8, 4]
    assert tag_vector(images.train.images[3], 2).tolist() == [1, 1]
    crop, tags = TrainingImages(images.train, CropOptions((48, 80), (40, 64)), 0)[5]
    assert crop.shape == (3, 48, 80)
    assert tags.shape == (2,)
    assert 0 <= crop.min() <= crop.max() <= 1


def test_an_epoch_of_samples_shows_every_image_once(tmp_path: Path) -> None:
    images = read_classifier_images(write_tagged_images(tmp_path / "images")).train
    dataset = TrainingImages(images, CropOptions((48, 80), (40, 64)), 0)
    tags = torch.stack([dataset[index][1] for index in range(8)])
    assert sorted(tags.tolist()) == sorted(tag_vector(image, 2).tolist() for image in images.images)


def test_colours_change_as_far_as_they_may() -> None:
    image = torch.rand(3, 20, 30)

    def crop(**jitter: float) -> Tensor:
        return augment_image(image, CropOptions((20, 30), (20, 20), **jitter), np.random.default_rng(3))

    plain = crop(colour_jitter=0.0)
    assert torch.equal(plain, image) or torch.equal(plain, image.flip(-1))
    hues = crop(colour_jitter=0.0, hue_jitter=0.5)
    torch.testing.assert_close(hues.amax(0), plain.amax(0))  # hue turns, value and chroma stay
    torch.testing.assert_close(hues.amin(0), plain.amin(0))
    assert (hues - plain).abs().max() > 0.1
    assert (crop() - plain).abs().max() > 0.01


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("tags.csv", None, "cannot be read"),
        ("tags.csv", "name,tags\nx,y\n", "no columns `id` and `classes`"),
        ("tags.csv", "id,classes\n", "lists i0"),
        ("ImageSets/Segmentation/train.txt", "", "lists nothing"),
        ("ImageSets/Segmentation/val.txt", "stranger", "lists stranger"),
        ("ImageSets/Segmentation/train.txt", "i2", "no training image with a class"),
    ],
)
def test_broken_image_folder_is_refused(tmp_path: Path, file: str, text: str | None, reason: str) -> None:
    folder = write_tagged_images(tmp_path / "images")
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(UsageError, match=reason):
        read_tagged_images(folder)


def test_flow_errors_stand_beside_the_baselines(pair: Pair) -> None:
    errors = evaluate_flow(lambda first, second: pair.flow_xy_px, [pair])
    assert errors.network_all == errors.network_visible == 0
    assert errors.zero_all == pytest.approx(float(np.linalg.norm(pair.flow_xy_px, axis=-1).mean()), rel=1e-4)
    assert errors.dis_visible < errors.zero_visible
    assert errors.pairs == 1


def test_evaluation_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no pairs"):
        evaluate_flow(lambda first, second: np.zeros((1, 1, 2), np.float32), [], with_dis=False)
