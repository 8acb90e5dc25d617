"""torchvision networks as CAM classifiers: the head, the class map, the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from f2f.engine.errors import UsageError
from f2f.training.imagenet import (
    VOC_TO_IMAGENET,
    ImageNetCam,
    find_head,
    load_class_map,
    load_torchvision,
    load_weights,
    read_weights,
)
from f2f.training.segmentation.backbones import Normalise


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_head_is_found(name: str) -> None:
    head = find_head(models.get_model(name, weights=None))
    assert head.weight.shape[0] == head.bias.shape[0] == 1000
    assert head.relu == name.startswith("squeezenet")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vgg16", "before its last linear layer stands ReLU"),
        ("mobilenet_v3_small", "before its last linear layer stands Hardswish"),
        ("convnext_tiny", "before its last linear layer stands `permute`"),
        ("vit_b_32", "before its last linear layer stands|cannot be traced"),
    ],
)
def test_network_without_cams_is_refused_with_the_reason(name: str, reason: str) -> None:
    with torch.device("meta"):
        network = models.get_model(name, weights=None)
    with pytest.raises(UsageError, match=reason) as caught:
        find_head(network)
    assert "accepted" in str(caught.value)


def test_scores_are_summed_softmax_and_cams_are_maxima(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"b": [3, 7], "a": [5]}))
    network = models.squeezenet1_1(weights=None).eval()
    cam_network = ImageNetCam(network, load_class_map(str(path)), Normalise()).eval()
    image = torch.rand(2, 3, 96, 128)
    with torch.inference_mode():
        scores, cam = cam_network(image)
        logits = network(Normalise()(image))
        maps = network.classifier[1](network.features(Normalise()(image)))
    probabilities = logits.softmax(1)
    torch.testing.assert_close(scores, torch.stack([probabilities[:, [3, 7]].sum(1), probabilities[:, 5]], 1))
    torch.testing.assert_close(cam, torch.stack([maps[:, [3, 7]].amax(1), maps[:, 5]], 1))
    assert cam_network.classes == ("b", "a")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "empty"),
        ("[1, 2]", "not an object"),
        ("{", "not JSON"),
        ('{"dog": []}', "no ImageNet index"),
        ('{"dog": [1000]}', "the index 1000"),
        ('{"dog": [-1]}', "the index -1"),
        ('{"dog": [true]}', "the index True"),
        ('{"dog": ["terrier"]}', "'terrier'"),
        ('{"dog": [151], "cat": [151]}', "151 to 'dog' and to 'cat'"),
        ('{"dog": [151, 151]}', "151 to 'dog' and to 'dog'"),
        ('{"dog": [151], "dog": [152]}', "'dog' twice"),
        ('{"sea lion": [150], "Sea-Lion": [149]}', "'Sea-Lion' twice"),
        ('{"dog": 151}', "not an object of lists"),
        ('{" ": [151]}', "' '"),
    ],
)
def test_wrong_class_map_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        load_class_map(str(path))


def test_missing_class_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_class_map(str(tmp_path / "none.json"))


def test_builtin_voc_map_is_the_known_one(real: Path) -> None:
    assert list(load_class_map("voc").classes) == list(VOC_TO_IMAGENET)
    assert len(VOC_TO_IMAGENET) == 20
    known = json.loads((real / "classes.json").read_text())
    assert {name: known[name] for name in VOC_TO_IMAGENET} == VOC_TO_IMAGENET


def test_weights_of_another_network_are_refused_by_key(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"strange.weight": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match=r"missing classifier\.1\.bias.*and \d+ more; unexpected strange\.weight"):
        load_weights(models.squeezenet1_1(weights=None), read_weights(path), path)


def test_weights_of_another_shape_are_refused_by_shape(tmp_path: Path) -> None:
    network = models.squeezenet1_1(weights=None)
    path = tmp_path / "other.pth"
    torch.save({"state_dict": network.state_dict() | {"classifier.1.bias": torch.zeros(10)}}, path)
    with pytest.raises(UsageError, match=r"classifier\.1\.bias is \(10,\); accepted: \(1000,\)"):
        load_weights(network, read_weights(path), path)


@pytest.mark.parametrize(
    ("name", "reason"), [("a.bin", "suffix"), ("a.pth", "does not exist"), ("b.pth", "cannot be read")]
)
def test_unusable_weights_file_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "b.pth").write_text("no weights")
    with pytest.raises(UsageError, match=reason):
        read_weights(tmp_path / name)


def test_unknown_torchvision_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UsageError, match="squeezenet1_0"):
        load_torchvision("squeezenet", None, load_class_map("voc"))


def test_real_squeezenet_knows_its_videos(real: Path) -> None:
    network = load_torchvision("squeezenet1_0", real / "squeezenet1_0_imagenet.safetensors", load_class_map("voc"))
    import av

    video = next((real / "videos" / "bird").glob("*.mp4"))
    with av.open(str(video)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    image = torch.nn.functional.interpolate(image, size=(240, 427), mode="bilinear", antialias=True)
    with torch.inference_mode():
        scores, _ = network(image)
    assert network.classes[int(scores.argmax())] == "bird"
