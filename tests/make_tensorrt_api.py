"""Writes tensorrt_api.json: what the real TensorRT bindings of both majors call what f2f uses; checks our types.

    .venv/bin/python tests/make_tensorrt_api.py        # needs pip's package index, gcc and Linux on x86-64; no GPU

The bindings are downloaded, and imported without TensorRT's libraries: three empty ones stand in that define the nine
symbols the bindings ask for. Nothing of NVIDIA's is kept but names of methods and of their parameters.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSIONS = ("10.13.3.9", "10.16.1.11", "11.4.0.106")
HERE = Path(__file__).parent
SYMBOLS = (
    "createInferBuilder_INTERNAL createInferRuntime_INTERNAL createInferRefitter_INTERNAL createNvOnnxParser_INTERNAL "
    "createNvOnnxParserRefitter_INTERNAL getNvOnnxParserVersion getPluginRegistry getBuilderPluginRegistry "
    "initLibNvInferPlugins"
)
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")

LOOK = r"""
import json, re, sys
import tensorrt_bindings as trt

def parameters(text):  # "f(self: X, name: str, shape: tuple = None) -> bool" -> ["name", "shape="]
    inner = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", text))  # types' own commas
    inner = inner[inner.index("(") + 1 : inner.rindex(") ->")]
    names = [part.strip() for part in re.sub(r"<[^<>]*>", "", inner).split(",")]
    return [part.split(":")[0].strip() + ("=" if "=" in part else "") for part in names if not part.startswith("self")]

def overloads(name, text):
    lines = [line for line in text.splitlines() if re.match(rf"(\d+\. )?{name}\(.*\) ->", line.strip())]
    return [parameters(line) for line in lines]

def members(cls, names):
    there = {name: getattr(cls, name) for name in names if hasattr(cls, name)}
    return {name: overloads(name, value.__doc__ or "") if callable(value) else None for name, value in there.items()}

classes, enumerations, constructors = json.loads(sys.argv[1])
print(json.dumps({
    "classes": {name: members(getattr(trt, name), names) for name, names in classes.items()},
    "enumerations": {name: sorted(getattr(trt, name).__members__) for name in enumerations},
    "constructors": {name: overloads("__init__", getattr(trt, name).__init__.__doc__) for name in constructors},
    "severities": {name: int(value) for name, value in trt.ILogger.Severity.__members__.items()},
}))
"""

CONFORMS = "def {name}(given: trt.{name}) -> api.{protocol}:\n    return given\n\n"


def main() -> int:
    """Download, look, compare, write."""
    from f2f.engine.runtimes.tensorrt_api import CLASSES, ENUMERATIONS

    members = {name: sorted(one for one in vars(cls) if one[0] != "_") for name, cls in CLASSES.items()}
    asked = json.dumps([members, list(ENUMERATIONS), ["ILogger", "Builder", "OnnxParser", "Runtime"]])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for version in VERSIONS:
            environment = _prepare(Path(folder) / version, version)
            done = _run([sys.executable, "-c", LOOK, asked], environment)
            found[version] = json.loads(done)
            _check_types(Path(folder) / version, environment, {name: cls.__name__ for name, cls in CLASSES.items()})
            sys.stdout.write(f"{version}: our types fit\n")
    (HERE / "tensorrt_api.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return 0


def _prepare(folder: Path, version: str) -> dict[str, str]:
    """Bindings and empty libraries in a folder; the environment that finds them."""
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "download", "--no-deps", "--dest", str(folder), f"tensorrt-cu13-bindings=={version}"])
    _run([*pip, "install", "--target", str(folder / "tools"), "pybind11-stubgen"])
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS.split()))
    for library in LIBRARIES:
        name = f"{library}.so.{version.split('.')[0]}"
        _run(["gcc", "-shared", "-fPIC", "-o", str(folder / name), str(source), f"-Wl,-soname,{name}"])
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": f"{folder}:{folder / 'tools'}"}


def _check_types(folder: Path, environment: dict[str, str], protocols: dict[str, str]) -> None:
    """mypy: what the bindings give is what our protocols say."""
    stubs = [sys.executable, "-m", "pybind11_stubgen", "tensorrt_bindings.tensorrt", "--ignore-all-errors"]
    _run([*stubs, "-o", str(folder / "stubs")], environment)
    (made,) = (folder / "stubs").rglob("tensorrt.pyi")
    stub = folder / "types" / "trt.pyi"
    stub.parent.mkdir()
    text = made.read_text(encoding="utf-8")
    # Tuples are Dims at run time, which the stubs do not know.
    text = re.sub(r"(def set_shape\(self, input: str, min: )Dims(, opt: )Dims(, max: )Dims", r"\1Any\2Any\3Any", text)
    text = re.sub(r"([(,] ?)in: ", r"\1in_: ", text)  # three things that are no Python
    text = re.sub(r"(power: Weights = None, channel_axis: [^,)]*)\)", r"\1 = 0)", text)
    text = re.sub(r"= <[^\n]*?>(?=[,)])", "= ...", text)
    text = text.replace("typing_extensions.Buffer", "bytes")
    stub.write_text("# mypy: ignore-errors\nfrom typing import Any\n" + text, encoding="utf-8")
    pairs = "".join(CONFORMS.format(name=name, protocol=protocol) for name, protocol in protocols.items())
    (stub.parent / "conforms.py").write_text(
        f"import trt\nimport f2f.engine.runtimes.tensorrt_api as api\n\n{pairs}", encoding="utf-8"
    )
    paths = {"MYPYPATH": f"{HERE.parent / '.typecheck'}:{stub.parent}"}
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--namespace-packages", "--explicit-package-bases"]
    _run([*command, "--follow-imports=silent", str(stub.parent / "conforms.py")], os.environ | paths)


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)[:300]}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
