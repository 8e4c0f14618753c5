"""Every change of RecBole, torch and pandas stands in the list of patches, and is printed."""

import io
import json
import subprocess
import sys
from fnmatch import fnmatch

from recbole.utils import logger

from recbole_tslrec.recbole_bridge.patches import PATCHES, apply, table

# Names the attributes of modules and classes that differ once the package is imported.
CHANGED = """
import contextlib, importlib, json, pkgutil, sys, types
import pandas, torch, recbole

for one in pkgutil.walk_packages(recbole.__path__, "recbole.", onerror=lambda name: None):
    with contextlib.suppress(ImportError):  # of LightGBM and XGBoost, which need not be there
        importlib.import_module(one.name)

def holders():
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("recbole", "torch", "pandas"):
            yield name, module
            for kind, value in list(vars(module).items()):
                if isinstance(value, type) and value.__module__ == name:
                    yield f"{name}.{kind}", value

before = {name: (holder, dict(vars(holder))) for name, holder in holders()}
anomalies = torch.is_anomaly_enabled()
import recbole_tslrec
assert torch.is_anomaly_enabled() == anomalies
changed = set()
for name, (holder, attributes) in before.items():
    for attribute, value in vars(holder).items():
        same = attribute in attributes and attributes[attribute] is value
        is_submodule = attribute not in attributes and isinstance(value, types.ModuleType)
        if not same and not is_submodule:
            changed.add(f"{name}.{attribute}")
    changed |= {f"{name}.{gone}" for gone in attributes.keys() - vars(holder).keys()}
print(json.dumps(sorted(changed)))
"""


def attributes() -> set[str]:
    """The names in the list, those of modules that only hand a class on as well."""
    return {name for patch in PATCHES for name in patch.target.split()}


def own_module(name: str) -> str:
    """The same attribute by the module in which its class is written."""
    parts = name.split(".")
    for number in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:number]))
        if module is not None:
            holder = getattr(module, parts[number], None)
            if isinstance(holder, type) and number == len(parts) - 2:
                return f"{holder.__module__}.{holder.__qualname__}.{parts[-1]}"
            return name
    return name


def test_every_attribute_that_changes_is_in_the_list(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHANGED],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    changed = set(json.loads(done.stdout.splitlines()[-1]))
    known = {own_module(name) for name in attributes()}
    assert not {name for name in changed if not any(fnmatch(name, one) for one in known)}
    plain = {name for name in known if name.startswith("recbole.") and "*" not in name}
    assert plain <= changed


def test_every_patch_says_what_and_why():
    for patch in PATCHES:
        assert patch.target and patch.reason
        assert patch.target.replace(" ", "\n").split("\n")[0][:70] in table()


def test_a_second_call_changes_nothing():
    from recbole.trainer import Trainer

    before = dict(vars(Trainer))
    apply()
    assert dict(vars(Trainer)) == before


def test_the_command_prints_the_list(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "recbole_tslrec", "patches"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "recbole.trainer.Trainer.fit" in done.stdout and "#2174" in done.stdout


def test_however_many_runs_the_screen_is_wrapped_once(monkeypatch):
    """By colorama, for RecBole's log; each layer more writes every line twice."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.StringIO())
    logger.init(autoreset=True)
    stdout, stderr = sys.stdout, sys.stderr
    assert not isinstance(stdout, io.StringIO)
    logger.init(autoreset=True)
    assert (sys.stdout, sys.stderr) == (stdout, stderr)
    sys.stdout = io.StringIO()  # as a program may turn it aside
    logger.init(autoreset=True)
    assert not isinstance(sys.stdout, io.StringIO) and sys.stdout is not stdout
    assert sys.stderr is stderr
