import pytest
from cli_cases import TINY

from spnpolicy.cli import main


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with two tiny finished runs, `vdn` and `spn`."""
    folder = tmp_path_factory.mktemp("trained")
    for name, algorithm in (("vdn", "vdn"), ("spn", "spn_ac")):
        assert main(["train", algorithm, "coverage", *TINY, "--out", str(folder / name)]) == 0
    return folder
