"""The networks: structure, sizes, contracts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from f2f.training.classifier import CamClassifier
from f2f.training.losses import matching_loss, multiscale_flow_loss
from f2f.training.pwcnet import FlowNetwork, PWCNet, give_unit_variance


def test_standard_pwcnet_has_the_released_parameter_count_and_names() -> None:
    network = PWCNet()
    assert sum(value.numel() for value in network.parameters()) == 9_374_340
    keys = network.state_dict().keys()
    expected = {"conv1a.0.weight", "conv6aa.0.bias", "conv6_4.0.bias", "predict_flow6.weight", "deconv2.weight"}
    assert expected | {"upfeat6.weight", "dc_conv1.0.weight", "dc_conv7.weight"} <= keys
    assert "upfeat2.weight" not in keys


def test_pwcnet_channel_sums_are_those_of_the_paper() -> None:
    shapes = {name: tuple(value.shape) for name, value in PWCNet().state_dict().items()}
    inputs = [shapes[f"predict_flow{level}.weight"][1] for level in (6, 5, 4, 3, 2)]
    assert inputs == [529, 661, 629, 597, 565]
    assert shapes["conv6aa.0.weight"] == (196, 128, 3, 3)


def test_pwcnet_gives_flows_of_levels_6_to_2() -> None:
    image = torch.rand(2, 3, 64, 128)
    flows = PWCNet(0.1)(image, image)
    assert [tuple(flow.shape) for flow in flows] == [(2, 2, 64 >> level, 128 >> level) for level in (6, 5, 4, 3, 2)]


@pytest.mark.parametrize(("batch", "count", "size_hw"), [(1, 2, (64, 64)), (2, 3, (61, 100)), (1, 5, (130, 67))])
def test_flow_contract_holds_for_any_size_and_count(batch: int, count: int, size_hw: tuple[int, int]) -> None:
    network = FlowNetwork(PWCNet(0.1)).eval()
    with torch.inference_mode():
        flow = network(torch.rand(batch, count, 3, *size_hw))
    assert flow.shape == (batch, count - 1, 2, *size_hw)


def test_each_frame_passes_the_pyramid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = PWCNet(0.1)
    passed: list[int] = []
    pyramid = network.pyramid

    def counted(image: Tensor) -> list[Tensor]:
        passed.append(image.shape[0])
        return pyramid(image)

    monkeypatch.setattr(network, "pyramid", counted)
    with torch.inference_mode():
        FlowNetwork(network)(torch.rand(2, 4, 3, 64, 64))
    assert passed == [8]


def test_flow_lives_on_the_later_frame_of_each_pair() -> None:
    """Entry k is PWC(frame k+1, frame k), scaled to px of the input."""
    network = PWCNet(0.1).eval()
    frames = torch.rand(1, 3, 3, 64, 128)
    with torch.inference_mode():
        flow = FlowNetwork(network, standardised=False)(frames)
        bgr = frames[0].flip(1)
        for k in range(2):
            small = network(bgr[k + 1 : k + 2], bgr[k : k + 1])[-1] * 20
            wanted = torch.nn.functional.interpolate(small, size=(64, 128), mode="bilinear", align_corners=False)
            torch.testing.assert_close(flow[:, k], wanted, rtol=1e-4, atol=1e-4)


def test_flow_is_rescaled_to_px_of_the_input() -> None:
    """A network that always says one unit (20 px of its own size) says less at a smaller input size."""
    network = PWCNet(0.1)
    for value in network.parameters():
        torch.nn.init.zeros_(value)
    bias = network.get_submodule("predict_flow2").bias
    assert isinstance(bias, Tensor)
    torch.nn.init.ones_(bias)
    with torch.inference_mode():
        flow = FlowNetwork(network, padded=False)(torch.rand(1, 2, 3, 48, 96))
    torch.testing.assert_close(flow[0, 0, 0], torch.full((48, 96), 20 * 96 / 128))
    torch.testing.assert_close(flow[0, 0, 1], torch.full((48, 96), 20 * 48 / 64))


def test_padded_frames_keep_their_pixels_and_px() -> None:
    """What a frame that fits gives is not changed by continuing a smaller one; flow is not scaled."""
    network = PWCNet(0.1).eval()
    frames = torch.rand(1, 2, 3, 48, 96)
    whole = torch.nn.functional.pad(frames.flatten(0, 1), [0, 32, 0, 16], mode="replicate")[None]
    with torch.inference_mode():
        flow = FlowNetwork(network, standardised=False)(frames)
        expected = FlowNetwork(network, standardised=False, padded=False)(whole)
    torch.testing.assert_close(flow, expected[..., :48, :96], rtol=1e-4, atol=1e-4)


def test_small_network_adds_to_the_flow_of_the_level_above() -> None:
    network = PWCNet(0.1, dense=False, reach=2).eval()
    assert network.get_parameter("conv2_0.0.weight").shape == (16, 25 + 16 + 4, 3, 3)
    assert network.get_parameter("conv2_1.0.weight").shape == (16, 16, 3, 3)
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        for name in (*(f"predict_flow{level}" for level in (5, 4, 3, 2)), "dc_conv7"):  # nothing is to be added
            network.get_parameter(f"{name}.weight").zero_()
        network.get_parameter("predict_flow6.weight").zero_()
        network.get_parameter("predict_flow6.bias").copy_(torch.tensor([0.5, -0.25]))
        flow = network(image, image)[-1]
    torch.testing.assert_close(flow[0, :, 16, 16], torch.tensor([0.5, -0.25]))


def test_brightness_and_contrast_do_not_change_the_flow() -> None:
    network = FlowNetwork(PWCNet(0.1)).eval()
    frames = torch.rand(1, 2, 3, 64, 64)
    with torch.inference_mode():
        flow, changed = network(frames), network(0.5 * frames + 0.3)
        assert (flow - changed).norm() < 0.3 * flow.norm()


def test_a_fresh_network_passes_flow_down_through_the_levels() -> None:
    network = PWCNet(0.25).eval()
    image = torch.rand(1, 3, 128, 192)
    with torch.no_grad():
        network.get_parameter("predict_flow6.bias").copy_(torch.tensor([0.5, -0.25]))
        flows = network(image, image)
    for flow in flows:
        middle = flow[0, :, flow.shape[2] // 2, flow.shape[3] // 2]
        torch.testing.assert_close(middle, torch.tensor([0.5, -0.25]), rtol=0, atol=0.1)


def test_unit_variance_is_given_to_every_layer() -> None:
    network = PWCNet(0.25)
    one, other = torch.rand(2, 2, 3, 64, 64).unbind()
    give_unit_variance(network, one, other)
    seen: list[float] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.out_channels > 2]
    hooks = [layer.register_forward_hook(lambda _, __, output: seen.append(float(output.std()))) for layer in layers]
    with torch.no_grad():
        network(one, other)
    for hook in hooks:
        hook.remove()
    assert len(seen) > len(layers)  # the pyramid is built twice
    assert all(0.5 < deviation < 2 for deviation in seen), seen


def test_matching_loss_is_least_where_the_features_match() -> None:
    """Features moved by (8, -4) px: the matching loss prefers that flow to others."""
    texture = torch.nn.functional.interpolate(torch.randn(1, 8, 32, 32), scale_factor=2.0)
    features, others = [], []
    for level in range(1, 7):
        size = (64 >> level, 64 >> level)
        features.append(torch.nn.functional.adaptive_avg_pool2d(texture, size))
        others.append(torch.nn.functional.adaptive_avg_pool2d(texture.roll((-4, 8), (2, 3)), size))
    known = torch.ones(1, 1, 64, 64)

    def loss(x: float, y: float) -> float:
        flow = torch.tensor([float(x), float(y)]).view(1, 2, 1, 1).expand(1, 2, 64, 64)
        return float(matching_loss(features, others, flow, known))

    assert loss(8, -4) < 0.9 * min(loss(0, 0), loss(-8, 4), loss(8, 4), loss(4, -8))


def test_flow_loss_is_zero_at_the_truth_and_ignores_unknown_pixels() -> None:
    target = torch.full((1, 2, 64, 64), 40.0)
    flows = [torch.full((1, 2, 64 >> level, 64 >> level), 2.0) for level in (6, 5, 4, 3, 2)]
    known = torch.ones(1, 1, 64, 64)
    assert multiscale_flow_loss(flows, target, known) < 0.01
    assert multiscale_flow_loss([flow + 1 for flow in flows], target, known) > 1
    assert multiscale_flow_loss([flow + 1 for flow in flows], target, 0 * known) == 0


def test_classifier_is_small_and_keeps_its_contract() -> None:
    network = CamClassifier(["a", "b", "c"]).eval()
    assert sum(value.numel() for value in network.parameters()) < 1_200_000
    with torch.inference_mode():
        scores, cam = network(torch.rand(2, 3, 120, 213))
    assert scores.shape == (2, 3)
    assert cam.shape == (2, 3, 15, 27)
    assert ((scores >= 0) & (scores <= 1)).all()
    torch.testing.assert_close(torch.logit(scores), cam.mean((2, 3)), rtol=1e-3, atol=1e-4)
    assert (cam < 0).any(), "the CAM is handed out before any ReLU"
