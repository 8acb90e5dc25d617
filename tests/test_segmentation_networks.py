"""Backbones, CAM classifier, segmenters, saliency: sizes, published parameter counts, names of the weights."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from f2f.engine.classify import Classifier
from f2f.engine.errors import UsageError
from f2f.engine.options import RuntimeOptions
from f2f.engine.runtimes.open import bundled
from f2f.training.checkpoint import save_network
from f2f.training.classifier import CamClassifier
from f2f.training.imagenet import load_backbone
from f2f.training.saliency.network import SaliencyNetwork, saliency_loss
from f2f.training.segmentation.backbones import backbone
from f2f.training.segmentation.deeplab import segmenter

VOC = [f"class{number}" for number in range(20)]
BACKBONES = ["vgg16", "resnet50", "resnet101", "small"]
SEGMENTERS = ["vgg16-largefov", "vgg16-aspp", "resnet50-aspp", "resnet101-aspp", "small"]


def parameters(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


# Backbones


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("size_hw", "cells_hw"), [((321, 321), (41, 41)), ((97, 130), (13, 17)), ((8, 1), (1, 1))])
def test_backbones_have_stride_8(name: str, size_hw: tuple[int, int], cells_hw: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = backbone(name)
        assert network(torch.empty(2, 3, *size_hw)).shape == (2, network.channels, *cells_hw)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_run_when_narrow(name: str) -> None:
    network = backbone(name, 0.125).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 33, 50)).shape == (1, network.channels, 5, 7)


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "resnet101"])
def test_names_and_shapes_are_those_of_torchvision(name: str) -> None:
    with torch.device("meta"):
        theirs = {key: value.shape for key, value in models.get_model(name).state_dict().items()}
        ours = {key: value.shape for key, value in backbone(name).state_dict().items()}
    assert ours == {key: shape for key, shape in theirs.items() if not key.startswith(("classifier.", "fc."))}


def test_vgg16_is_dilated_where_it_no_longer_shrinks() -> None:
    with torch.device("meta"):
        features = backbone("vgg16").get_submodule("features")
    convolutions = [layer for layer in features.children() if isinstance(layer, nn.Conv2d)]
    assert [layer.dilation for layer in convolutions] == [(1, 1)] * 10 + [(2, 2)] * 3
    assert [layer.padding for layer in convolutions] == [layer.dilation for layer in convolutions]
    pools = [layer for layer in features.children() if isinstance(layer, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride, pool.padding) for pool in pools] == [(3, 2, 1)] * 3 + [(3, 1, 1)]


def test_resnet_is_dilated_where_it_no_longer_shrinks() -> None:
    """Each stage's first block still has the dilation of the stage before."""
    with torch.device("meta"):
        network = backbone("resnet50")
    found = {}
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        layers = [network.get_submodule(f"{stage}.{number}.conv2") for number in (0, 1)]
        found[stage] = [(layer.stride[0], layer.dilation[0]) for layer in layers if isinstance(layer, nn.Conv2d)]
    assert found == {
        "layer1": [(1, 1), (1, 1)],
        "layer2": [(2, 1), (1, 1)],
        "layer3": [(1, 1), (1, 2)],
        "layer4": [(1, 2), (1, 4)],
    }


def test_small_backbone_is_small() -> None:
    assert 100_000 < parameters(backbone("small")) < 600_000


def test_vgg16_gives_the_features_of_torchvision_where_nothing_differs(tmp_path: Path) -> None:
    """Weights from a file; up to the first pool the networks are the same."""
    theirs = models.vgg.make_layers(models.vgg.cfgs["D"])
    weights = {f"features.{key}": value for key, value in theirs.state_dict().items()}
    save_file(weights | {"classifier.6.weight": torch.zeros(2, 2)}, tmp_path / "vgg16.safetensors")
    ours = backbone("vgg16").eval()
    load_backbone(ours, tmp_path / "vgg16.safetensors")
    image = torch.rand(1, 3, 20, 30)
    normalise, features = ours
    assert isinstance(features, nn.Sequential)
    with torch.inference_mode():
        torch.testing.assert_close(features[:4](normalise(image)), theirs[:4](normalise(image)))
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_resnet_without_dilation_would_be_that_of_torchvision(tmp_path: Path) -> None:
    """The first two stages, which are not dilated, give the same; batch norm statistics come along."""
    theirs = models.resnet50(num_classes=2).eval()
    nn.init.normal_(theirs.bn1.running_mean)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    ours = backbone("resnet50").eval()
    load_backbone(ours, tmp_path / "resnet50.pth")
    image = torch.rand(1, 3, 40, 30)
    with torch.inference_mode():
        wanted = found = ours.get_submodule("normalise")(image)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1"):
            wanted, found = theirs.get_submodule(name)(wanted), ours.get_submodule(name)(found)
        torch.testing.assert_close(found, wanted)


def test_a_backbone_can_be_that_of_our_classifier(tmp_path: Path) -> None:
    theirs = CamClassifier(["dog", "cat"], width=0.25)
    save_network(tmp_path / "network.pt", "classifier", theirs, classes=["dog", "cat"], width=0.25, training={})
    ours = backbone("small", 0.25)
    load_backbone(ours, tmp_path / "network.pt")
    for name, value in theirs.backbone.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_the_bundled_backbone_is_that_of_the_bundled_classifier() -> None:
    """The first convolution, into which the export has folded the batch norm."""
    ours = CamClassifier(Classifier.open("demo", RuntimeOptions(threads=1)).info.classes, width=0.75).eval()
    load_backbone(ours.backbone, Path("demo"))
    graph = onnx.load(bundled("classifier"))
    weights = [torch.tensor(onnx.numpy_helper.to_array(one)) for one in graph.graph.initializer]
    first = next(weight for weight in weights if weight.dim() == 4 and weight.shape[1] == 3)
    block = ours.backbone[1]
    assert isinstance(block, nn.Sequential)
    convolution, norm = block.get_submodule("0"), block.get_submodule("1")
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(convolution.weight * scale[:, None, None, None], first)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(backbone("small", 0.25).state_dict(), tmp_path / "small.pth")
    with pytest.raises(UsageError, match=r"small.pth does not fit Backbone: missing features.0.bias"):
        load_backbone(backbone("vgg16", 0.125), tmp_path / "small.pth")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="the backbone is 'vgg19'; accepted: vgg16, resnet50, resnet101, small"):
        backbone("vgg19")
    with pytest.raises(ValueError, match="the segmenter is 'unet'; accepted: vgg16-largefov, vgg16-aspp"):
        segmenter("unet", VOC)


# CAM classifier


@pytest.mark.parametrize("name", BACKBONES)
def test_the_mean_of_the_cam_is_the_logit(name: str) -> None:
    network = CamClassifier(["a", "b", "c"], width=0.125, backbone_name=name).eval()
    with torch.inference_mode():
        scores, cam = network(torch.rand(2, 3, 57, 82))
    assert (scores.shape, cam.shape) == ((2, 3), (2, 3, 8, 11))
    torch.testing.assert_close(scores, cam.mean((2, 3)).sigmoid())


def test_the_papers_classifier() -> None:
    """Two 3×3 convolutions of 1024 channels behind VGG-16's 13, and the classes; 41×41 cells of 321 px."""
    with torch.device("meta"):
        network = CamClassifier(VOC, dropout=0.5, backbone_name="vgg16")
        assert network(torch.empty(2, 3, 321, 321))[1].shape == (2, 20, 41, 41)
    head = 512 * 1024 * 9 + 1024 + 1024 * 1024 * 9 + 1024 + 1024 * 20 + 20
    assert parameters(network) == 14_714_688 + head
    assert sum(value.numel() for value in network.head_parameters()) == head


def test_the_small_classifier_keeps_the_names_of_released_files() -> None:
    keys = set(CamClassifier(["a"]).state_dict())
    assert {"backbone.0.0.weight", "backbone.5.1.running_var", "head.0.0.weight", "head.4.bias"} <= keys
    assert all(key.startswith(("backbone.", "head.")) for key in keys)


# Segmenters


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vgg16-largefov", 14_714_688 + 5_790_741),
        ("vgg16-aspp", 14_714_688 + 4 * 5_790_741),
        ("resnet50-aspp", 23_508_032 + 4 * (2048 * 21 * 9 + 21)),
        ("resnet101-aspp", 42_500_160 + 4 * (2048 * 21 * 9 + 21)),
    ],
)
def test_segmenters_have_the_published_size(name: str, count: int) -> None:
    with torch.device("meta"):
        network = segmenter(name, VOC)
        assert network(torch.empty(1, 3, 321, 321)).shape == (1, 21, 41, 41)
    assert parameters(network) == count


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters_take_any_size_and_learn(name: str) -> None:
    network = segmenter(name, ["a", "b"], width=0.125)
    logits = network(torch.rand(2, 3, 65, 90))
    assert logits.shape == (2, 3, 9, 12)
    torch.autograd.backward(logits.square().sum())
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())


@pytest.mark.parametrize(("name", "branches"), [("vgg16-largefov", 1), ("vgg16-aspp", 4), ("resnet50-aspp", 4)])
def test_what_learns_faster_gives_the_scores(name: str, branches: int) -> None:
    network = segmenter(name, ["a", "b"], width=0.125)
    fast = network.head_parameters()
    assert len(fast) == 2 * branches
    assert all(value.shape[0] == 3 for value in fast)
    for weight, bias in zip(fast[::2], fast[1::2], strict=True):
        assert 0.008 < float(weight.detach().std()) < 0.012
        assert (bias == 0).all()


def test_largefov_sees_as_far_as_it_says() -> None:
    """Cell (20, 20) of fc6 sees cells 8 and 32, the dilation, and what the pools around those see."""
    network = segmenter("vgg16-largefov", ["a"], width=0.125).eval()
    features = torch.rand(1, network.backbone.channels, 41, 41, requires_grad=True)
    torch.autograd.backward(network.scores(features)[0, :, 20, 20].sum())
    assert features.grad is not None
    seen = features.grad.abs().sum((0, 1))[20].nonzero().flatten()
    near = {centre + step for centre in (8, 20, 32) for step in range(-2, 3)}  # a 3×3 mean of 3×3 maxima
    assert set(seen.tolist()) <= near
    assert {min(abs(cell - centre) for cell in seen.tolist()) for centre in (8, 32)} <= {0, 1}


def test_branches_are_summed() -> None:
    scores = segmenter("vgg16-aspp", ["a"], width=0.125).eval().scores
    features = torch.rand(1, 64, 9, 9)
    pooled = scores.before(features)
    with torch.inference_mode():
        torch.testing.assert_close(scores(features), sum(branch(pooled) for branch in scores.branches))
        wanted = F.avg_pool2d(F.max_pool2d(features, 3, 1, 1), 3, 1, 1)
        torch.testing.assert_close(pooled, wanted)


# Saliency


@pytest.mark.parametrize("size_hw", [(64, 64), (61, 100), (1, 1)], ids=str)
def test_every_side_has_the_images_size(size_hw: tuple[int, int]) -> None:
    network = SaliencyNetwork(0.125)
    image = torch.rand(2, 3, *size_hw)
    outputs = network(image)
    assert [tuple(side.shape) for side in outputs] == [(2, 1, *size_hw)] * 7
    torch.autograd.backward(saliency_loss(outputs, (torch.rand(2, 1, *size_hw) > 0.5).float()))
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())
    shown = network.eval().saliency(image)
    assert shown.shape == (2, 1, *size_hw)
    assert ((shown >= 0) & (shown <= 1)).all()


def test_dss_has_the_published_layers() -> None:
    with torch.device("meta"):
        network = SaliencyNetwork()
        vgg16 = models.vgg16()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["own.5.0.weight"] == (512, 512, 7, 7)
    assert shapes["own.4.2.weight"] == (512, 512, 5, 5)
    assert shapes["own.3.0.weight"] == (256, 512, 5, 5)
    assert shapes["own.2.0.weight"] == (256, 256, 5, 5)
    assert shapes["own.1.0.weight"] == (128, 128, 3, 3)
    assert shapes["own.0.0.weight"] == (128, 64, 3, 3)
    joined = {name: shape for name, shape in shapes.items() if name.startswith("joined") and name.endswith("weight")}
    assert {name.split(".")[1]: shape[1] for name, shape in joined.items()} == {"1": 5, "2": 5, "3": 3, "4": 3}
    theirs = {f"backbone.{key}" for key in vgg16.state_dict() if key.startswith("features.")}
    assert theirs == {name for name in shapes if name.startswith("backbone.")}


def test_sides_lie_on_the_image() -> None:
    """A map that grows linearly over its cells grows linearly over the pixels, in the middle of the image's border."""
    network = SaliencyNetwork(0.125).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
        for layer in network.joined.values():
            layer.get_parameter("weight")[:, 0] = 1  # each side its own map alone

    def ramp(side: int) -> nn.Module:
        class Ramp(nn.Module):
            def forward(self, features: Tensor) -> Tensor:
                across: Tensor = (torch.arange(features.shape[-1]) + 0.5) * 2 ** (side - 1)
                return across.expand(features.shape[0], 1, features.shape[-2], -1)

        return Ramp()

    network.own = nn.ModuleList(ramp(side) for side in range(1, 7))
    outputs = network(torch.rand(1, 3, 90, 150))
    wanted = torch.arange(150) + 4.5  # the border of 4 px, and the middle of a pixel
    for number, side in enumerate(outputs[:6]):
        inner = slice(2**number, 150 - 2**number)
        torch.testing.assert_close(side[0, 0, 45, inner], wanted[inner])


def test_the_saliency_is_the_mean_of_three_sides_and_the_fused_map() -> None:
    network = SaliencyNetwork(0.125).eval()
    image = torch.rand(2, 3, 40, 50)
    with torch.inference_mode():
        outputs = network(image)
        mean = (outputs[2].sigmoid() + outputs[3].sigmoid() + outputs[4].sigmoid() + outputs[6].sigmoid()) / 4
    for found, wanted in zip(network.saliency(image), mean, strict=True):
        torch.testing.assert_close(found, (wanted - wanted.min()) / (wanted.max() - wanted.min()))


def test_a_blank_map_is_not_stretched() -> None:
    network = SaliencyNetwork(0.125).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
        network.fused.get_parameter("bias").fill_(-20)
        for layer in network.own:
            layer.get_parameter("4.bias").fill_(-20)
        for layer in network.joined.values():
            layer.get_parameter("bias").fill_(-20)
    assert network.saliency(torch.rand(1, 3, 30, 30)).max() < 1e-6
    with torch.no_grad():
        network.fused.get_parameter("bias").fill_(20)
    assert (network.saliency(torch.rand(1, 3, 30, 30)) == 0).all(), "flat, so nothing stands out"


def test_the_saliency_loss_is_a_sum_of_seven_means() -> None:
    masks = (torch.rand(2, 1, 9, 7) > 0.5).float()
    outputs = [torch.randn(2, 1, 9, 7) for _ in range(7)]
    wanted = 0.0
    for logits in outputs:
        p = logits.double().sigmoid()
        wanted += float(-(masks * p.log() + (1 - masks) * (1 - p).log()).mean())
    assert float(saliency_loss(outputs, masks)) == pytest.approx(wanted, rel=1e-5)
