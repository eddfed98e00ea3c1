"""The engines that are compared, and the throw-away environments that peers run in."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
"""Exact on purpose: a loose request can fetch gigabytes of GPU libraries."""


@dataclass(frozen=True)
class Engine:
    """An engine: the module with its adapter, and what pip installs for it, one call after the other."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    installs: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it runs in the environment of this program."""
        return not self.installs


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("circuits", "circuits", ("native",), note="this project, with its machine code"),
        Engine("circuits-torch", "circuits", ("torch",), note="this project through torch alone"),
        Engine(
            "libcirkit",
            "libcirkit",
            installs=((TORCH,), ("libcirkit==0.3.1", TORCH)),
            note="cirkit; folded and optimised, cp is its `cp-t` layer",
        ),
        Engine(
            "spflow",
            "spflow",
            installs=((TORCH,), ("spflow==1.1.0", TORCH)),
            note="SPFlow 1, `Einet`; cp is its `linsum` layer, tucker its `einsum` layer",
        ),
        Engine(
            "deeprob-kit",
            "deeprob",
            # Without its dependencies: torchvision would bring another torch.
            installs=(
                (TORCH,),
                ("--no-deps", "deeprob-kit==1.1.0"),
                (TORCH, "numpy", "scipy", "scikit-learn", "networkx", "joblib", "tqdm", "matplotlib"),
            ),
            note="`RatSpn` with a categorical leaf written for this comparison; it has none of its own",
        ),
    )
}


def ready_python(engine: Engine, folder: Path) -> Path:
    """Return the Python that runs an engine; make its environment below `folder` unless it is there already.

    Raises:
        RuntimeError: it could not be installed; the message is pip's last line.
    """
    if engine.is_ours:
        return Path(sys.executable)
    home = folder.resolve() / engine.name
    python, mark = home / "bin" / "python", home / "ready.json"
    recipe = json.dumps(engine.installs)
    if mark.is_file() and mark.read_text(encoding="utf-8") == recipe:
        return python
    if home.exists() and not (home / "pyvenv.cfg").is_file():
        raise RuntimeError(f"{home} exists and is no virtual environment; choose another --environments")
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(home)])
    for packages in engine.installs:
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
    mark.write_text(recipe, encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise RuntimeError(f"does not install: {errors[-1].strip()}"[:200])
