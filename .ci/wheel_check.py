"""The installed wheel works from outside the repository, and `f2f.training` without the `train` extra."""

import sys
from importlib.metadata import version
from pathlib import Path

for extra in ("lightning", "torchmetrics", "tensorboard", "scipy", "cv2", "onnxscript"):
    sys.modules[extra] = None  # type: ignore[assignment]  # an import of it fails

import f2f.engine
import f2f.kernels
import f2f.training

REPOSITORY = Path(__file__).parents[1]
PACKAGES = (f2f.engine, f2f.kernels, f2f.training)

assert "torch" not in sys.modules, "importing the packages must not import torch"
for package in PACKAGES:
    folder = Path(str(package.__file__)).parent
    assert folder.is_relative_to(sys.prefix), f"{package.__name__} comes from {folder}, not from the wheel"
    assert (folder / "py.typed").is_file(), f"{folder} has no py.typed"
    for name in package.__all__:
        getattr(package, name)

from f2f.kernels import backend_in_use

assert backend_in_use()["warp_union"] == "cpp", backend_in_use()
assert (Path(str(f2f.engine.__file__)).parent / "networks" / "demo_classifier.onnx").is_file()
assert (Path(str(f2f.training.__file__)).parent / "networks" / "demo_backbone.safetensors").is_file()
assert (Path(str(f2f.training.__file__)).parent / "recipes" / "sec-vgg16.toml").is_file()
print(f"f2f {version('f2f')} wheel: {', '.join(package.__name__ for package in PACKAGES)} work")
