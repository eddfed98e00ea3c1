import json
import sys
from importlib import metadata
from types import ModuleType

import circuits
from spnpolicy.cli import doctor, main
from spnpolicy.cli.doctor import EXTRAS


def fake_module(file):
    module = ModuleType("circuits")
    module.__file__ = file
    return module


def test_our_own_circuits_is_fine():
    assert doctor.check_circuits(circuits, ["spnpolicy", "numpy"]).is_ok


def test_another_circuits_is_found_out():
    check = doctor.check_circuits(fake_module("/usr/lib/python3/site-packages/circuits/__init__.py"), ["spnpolicy"])
    assert not check.is_ok
    assert "/usr/lib/python3/site-packages/circuits/__init__.py" in check.text
    assert "pip uninstall circuits" in check.text


def test_another_circuits_that_has_the_right_class_is_found_out():
    module = fake_module("/elsewhere/circuits/__init__.py")
    module.CircuitDistribution = object
    assert not doctor.check_circuits(module, []).is_ok


def test_a_namespace_package_without_a_file_is_found_out():
    assert not doctor.check_circuits(fake_module(None), []).is_ok


def test_the_other_distribution_beside_ours_is_a_problem():
    check = doctor.check_circuits(circuits, ["spnpolicy", "Circuits"])
    assert not check.is_ok
    assert "pip uninstall circuits" in check.text


def test_doctor_is_content_here(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("OK") for line in lines[:-1])
    names = ("python", "circuits", "torch", "numpy", "cores", "gpu", "disk", "writing", "locking", "workers")
    for name in (*names, "algorithms", "environments", *EXTRAS):
        assert sum(line.split()[1] == name for line in lines[:-1]) == 1


def test_doctor_reports_a_shadowing_module_with_2(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "circuits", fake_module("/elsewhere/circuits/__init__.py"))
    assert main(["doctor"]) == 2
    text = capsys.readouterr().out
    assert "PROBLEM  circuits" in text
    assert "problem" in text.splitlines()[-1]


def test_doctor_reports_a_broken_algorithm(monkeypatch, capsys):
    broken = doctor.ALGORITHMS["vdn"]._replace(target="spnpolicy.algorithms.no_such_file:VDN")
    monkeypatch.setitem(doctor.ALGORITHMS, "vdn", broken)
    assert main(["doctor"]) == 2
    assert "cannot be imported: vdn (ModuleNotFoundError" in capsys.readouterr().out


def test_doctor_reports_a_full_disk(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 2**80)
    assert main(["doctor"]) == 2
    assert "PROBLEM  disk" in capsys.readouterr().out


def test_doctor_as_json_says_the_same(monkeypatch, capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["is_ok"] is True
    assert {"python", "disk", "writing", "ray"} <= {check["what"] for check in report["checks"]}
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 2**80)
    assert main(["doctor", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["is_ok"] is False
    assert [check["what"] for check in report["checks"] if not check["is_ok"]] == ["disk"]


def test_an_extra_that_is_not_installed_is_no_problem(monkeypatch, capsys):
    real = metadata.version

    def version(name):
        if name == "ray":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    assert main(["doctor"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.split()[1] == "ray")
    assert line.startswith("OK")
    assert "not installed" in line
    assert "pip install 'spnpolicy[ray]'" in line


def test_doctor_reports_a_disk_that_does_not_sync_and_locks_that_do_not_hold(monkeypatch, tmp_path, capsys):
    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("circuits.files.replace_file", refuse)
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    assert main(["doctor"]) == 2
    text = capsys.readouterr().out
    assert "PROBLEM  writing" in text
    assert "Input/output error" in text
    assert "PROBLEM  locking" in text
    assert "two holders got one lock" in text
    assert not list(tmp_path.iterdir())


def test_doctor_reports_workers_that_do_not_start(monkeypatch, capsys):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(doctor, "ProcessPoolExecutor", refuse)
    assert main(["doctor"]) == 2
    assert "PROBLEM  workers" in capsys.readouterr().out
