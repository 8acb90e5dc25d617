"""Pictures of flow: Middlebury's colours, and one picture per window on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.utils import flow_to_image

from f2f.engine.flow_picture import flow_colours, picture_flow
from f2f.engine.stage import StageClock
from f2f.engine.types import Frame, MovingWindow, VideoEnd, Window


def test_colours_are_middleburys() -> None:
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 5, (2, 20, 30)).astype(np.float32)
    longest = float(np.hypot(*flow).max())
    wanted = flow_to_image(torch.from_numpy(flow)).permute(1, 2, 0).numpy()
    assert np.abs(flow_colours(flow, longest).astype(int) - wanted).max() <= 2


def test_stillness_is_white_and_far_motion_keeps_to_the_palette() -> None:
    flow = np.zeros((2, 1, 2), np.float32)
    flow[0, 0, 1] = 100
    white, fullest = flow_colours(flow, 4.0)[0]
    assert white.tolist() == [255, 255, 255]
    assert fullest.min() == 0
    assert (flow_colours(np.zeros((2, 3, 3), np.float32), 0.0) == 255).all()


def test_every_window_gets_a_picture(tmp_path: Path) -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    frames = tuple(Frame(0, 0, number / 6, image) for number in range(3))
    flow = torch.ones(2, 2, 60, 100)
    items: list[MovingWindow | VideoEnd] = [
        MovingWindow(Window(0, number, frames, (0,), None), torch.zeros(3, 1, 60, 100, dtype=torch.int32), flow)
        for number in range(2)
    ]
    single = MovingWindow(Window(1, 0, frames[:1], (0,), None), torch.zeros(1, 1, 60, 100), torch.zeros(0, 2, 60, 100))
    items += [VideoEnd(0), single]
    clock = StageClock()
    passed = list(picture_flow(iter(items), tmp_path, lambda window: f"{window.video}-{window.number}", clock))
    assert all(a is b for a, b in zip(passed, items, strict=True))
    assert sorted(path.name for path in (tmp_path / "flow").iterdir()) == ["0-0.png", "0-1.png", "1-0.png"]
    picture = np.asarray(Image.open(tmp_path / "flow" / "0-0.png"))
    assert picture.shape[1] > 3 * 240
    colour = flow_colours(flow[0].numpy(), float(np.sqrt(2)))[0, 0]
    assert (np.abs(picture.astype(int) - colour).max(-1) <= 3).mean() > 0.2
