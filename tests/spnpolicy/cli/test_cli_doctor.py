import sys
from types import ModuleType

import circuits
from spnpolicy.cli import doctor, main


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
    for name in ("python", "circuits", "torch", "numpy", "cores", "gpu", "disk", "algorithms", "environments"):
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
