"""`spnpolicy doctor`: is the installation sound, and is this machine fit for it?"""

import importlib
import json
import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import spnpolicy
from spnpolicy.algorithms import ALGORITHMS, algorithm_class
from spnpolicy.cli.extras import EXTRAS
from spnpolicy.cli.machine import Check, machine_checks
from spnpolicy.cli.options import CommandLine
from spnpolicy.envs import ENVIRONMENTS, environment_class

PROBLEM = 2


def run(line: CommandLine) -> int:
    """Print every check and return 2 if one found a problem."""
    checks = list(all_checks())
    if line.options.json:
        is_ok = all(check.is_ok for check in checks)
        print(json.dumps({"is_ok": is_ok, "checks": [check._asdict() for check in checks]}, indent=1))
        return 0 if is_ok else PROBLEM
    width = max(len(check.what) for check in checks)
    for check in checks:
        print(f"{'OK' if check.is_ok else 'PROBLEM':7}  {check.what:{width}}  {check.text}")
    problems = sum(not check.is_ok for check in checks)
    print(f"{problems} problem{'s' if problems != 1 else ''} found." if problems else "Everything is fine.")
    return PROBLEM if problems else 0


def all_checks() -> Iterator[Check]:
    """Yield all checks; none of them raises."""
    yield _python()
    yield _circuits()
    yield _machine_code()
    yield from map(_package, ("torch", "numpy", "scipy", "safetensors", "matplotlib", "pillow"))
    yield from (_extra(name, extra) for name, extra in EXTRAS.items())
    yield from machine_checks(Path.cwd())
    yield from _registries()


def check_circuits(module: ModuleType, installed: Iterable[str]) -> Check:
    """Tell whether `circuits` is ours; PyPI has an unrelated event framework of the same name.

    Args:
        module: what `import circuits` gave.
        installed: names of all installed distributions.
    """
    where = getattr(module, "__file__", None) or "an unknown place"
    ours = Path(spnpolicy.__file__).resolve().parent.parent
    is_beside_us = Path(where).resolve().parent.parent == ours
    if not hasattr(module, "CircuitDistribution") or not is_beside_us:
        return Check(
            "circuits",
            False,
            f"`import circuits` finds {where}, which is not ours (ours lies in {ours / 'circuits'}). "
            "Run: pip uninstall circuits, and install spnpolicy again.",
        )
    if "circuits" in {name.lower() for name in installed}:
        return Check(
            "circuits",
            False,
            "the unrelated PyPI package `circuits` is installed as well and may replace ours at any time. "
            "Run: pip uninstall circuits, and install spnpolicy again.",
        )
    return Check("circuits", True, f"ours, in {Path(where).parent}")


def _python() -> Check:
    return Check("python", True, f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def _circuits() -> Check:
    try:
        module = importlib.import_module("circuits")
    except Exception as problem:
        return Check("circuits", False, f"cannot be imported ({problem}); install spnpolicy again.")
    return check_circuits(module, [distribution.name for distribution in metadata.distributions() if distribution.name])


def _machine_code() -> Check:
    # Imported here, because `circuits` may be someone else's.
    try:
        from circuits.engine import native
    except ImportError:
        return Check("machine code", False, "circuits cannot be imported; see above.")
    if native.is_available():
        return Check("machine code", True, "the likelihood kernels are compiled")
    return Check("machine code", True, "none: no C compiler when installing; likelihoods run through torch, slower")


def _package(name: str) -> Check:
    try:
        importlib.import_module({"pillow": "PIL"}.get(name, name))
        return Check(name, True, metadata.version(name))
    except Exception as problem:
        return Check(name, False, f"cannot be imported ({problem}); install spnpolicy again.")


def _extra(name: str, extra: str) -> Check:
    try:
        return Check(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, True, f"not installed (optional); pip install 'spnpolicy[{extra}]'")


def _registries() -> Iterator[Check]:
    for what, names, load in (
        ("algorithms", list(ALGORITHMS), algorithm_class),
        ("environments", list(ENVIRONMENTS), environment_class),
    ):
        broken: list[str] = []
        for name in names:
            try:
                load(name)
            except Exception as problem:
                broken.append(f"{name} ({type(problem).__name__}: {problem})")
        text = f"cannot be imported: {'; '.join(broken)}" if broken else ", ".join(names)
        yield Check(what, not broken, text)
