"""The completion script, asked by a real bash; the other shells' scripts are looked at only."""

import shlex
import shutil
import subprocess

import pytest

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli import COMMANDS, main
from spnpolicy.cli.completion import SHELLS, completion_script
from spnpolicy.cli.infer import STRUCTURES
from spnpolicy.envs import ENVIRONMENTS

ASK = """
source completion.bash
function=$(complete -p spnpolicy | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$function spnpolicy "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the script, a folder of runs and a model."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "completion.bash").write_text(completion_script("bash", COMMANDS))
    (folder / "runs" / "first").mkdir(parents=True)
    (folder / "model.uai").touch()
    return folder


def complete(place, *words):
    """Press tab behind the words in bash and return what it proposes."""
    bash = shutil.which("bash")
    assert bash, "these tests need bash"
    program = f"COMP_WORDS=({shlex.join(['spnpolicy', *words])})\n{ASK}"
    done = subprocess.run([bash, "--norc", "-c", program], cwd=place, capture_output=True, text=True, check=True)
    assert not done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (["tra"], {"train"}),
        ([""], set(COMMANDS)),
        (["train", "spn"], {"spn_ac"}),
        (["train", ""], set(ALGORITHMS)),
        (["train", "vdn", "cov"], {"coverage"}),
        (["train", "vdn", ""], set(ENVIRONMENTS)),
        (["train", "--seed", "3", "vd"], {"vdn"}),
        (["train", "--res"], {"--resume"}),
        (["train", "--resume", "ru"], {"runs"}),
        (["train", "--on-env-fault", "d"], {"drop-episode"}),
        (["evaluate", "--ep"], {"--episodes"}),
        (["evaluate", "runs/"], {"runs/first"}),
        (["evaluate", "runs/first", "--checkpoint", ""], {"latest", "best"}),
        (["infer", "mod"], {"model.uai"}),
        (["infer", "model.uai", "--structure", ""], set(STRUCTURES)),
        (["list", "mat"], {"matrix_game"}),
        (["benchmark", "coverage", "--algorithms", "vdn", "iq"], {"iql"}),
        (["benchmark", "coverage", "--preset", "q"], {"quick"}),
        (["completion", "f"], {"fish"}),
        (["nothing", "x"], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_proposes(words, proposed, place):
    assert complete(place, *words) == proposed


@pytest.mark.parametrize("name", COMMANDS)
def test_bash_proposes_every_flag_of_every_command(name, place):
    flags = complete(place, name, "-")
    assert {flag for flag in COMMANDS[name].parser().flags if flag.startswith("--")} <= flags


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script_with_everything_in_it(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, *ALGORITHMS, *ENVIRONMENTS):
        assert word in script


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_finds_no_mistake_in_its_script(shell, tmp_path):
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(completion_script(shell, COMMANDS))
    subprocess.run([program, "-n", str(tmp_path / "script")], check=True)


def test_help_says_how_to_install_it(capsys):
    assert main(["completion", "--help"]) == 0
    text = capsys.readouterr().out
    for shell in SHELLS:
        assert f"spnpolicy completion {shell} > " in text


def test_the_parsers_that_read_are_left_as_they_are():
    completion_script("bash", COMMANDS)
    assert all(action.choices is None for name in COMMANDS for action in COMMANDS[name].parser().declared)
