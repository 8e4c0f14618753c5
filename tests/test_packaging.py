"""The wheel and the editable install carry the yaml and the templates."""

import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import recbole_tslrec
from recbole_tslrec.recbole_bridge.config_files import properties_folder

TOP = Path(__file__).parents[1]


def test_the_wheel_holds_every_module_yaml_and_template(tmp_path):
    # From a copy: setuptools leaves a build folder, whose old files would enter the next wheel.
    source = tmp_path / "source"
    for folder in ("recbole_tslrec", "properties"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(TOP / folder, source / folder, ignore=ignored)
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "site")
    modules = {str(path.relative_to(TOP)) for path in (TOP / "recbole_tslrec").rglob("*.py")}
    yaml = {f"recbole_tslrec/{p.relative_to(TOP)}" for p in (TOP / "properties").rglob("*.yaml")}
    templates = {str(path.relative_to(TOP)) for path in TOP.glob("recbole_tslrec/**/templates/*")}
    names = "recbole_tslrec/config/built_in.json"
    assert packed == modules | yaml | templates | {"recbole_tslrec/py.typed", names} and templates
    code = "import recbole_tslrec.recbole_bridge.config_files as r; print(r.properties_folder())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin"},
        timeout=300,
    )
    assert done.stdout.strip() == str(tmp_path / "site" / "recbole_tslrec" / "properties")


def test_this_installation_finds_its_yaml():
    assert (properties_folder() / "TSLRec.yaml").is_file()
    assert (properties_folder() / "model" / "FMLPRec.yaml").is_file()
    assert Path(recbole_tslrec.__file__).is_file()


def test_the_public_names_are_there_and_importing_is_light():
    code = """
        import sys
        import recbole_tslrec

        heavy = {"transformers", "peft", "bitsandbytes", "faiss", "matplotlib"}
        assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
        for name in recbole_tslrec.__all__:
            assert getattr(recbole_tslrec, name) is not None, name
        assert set(recbole_tslrec.__all__) <= set(dir(recbole_tslrec))
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    subprocess.run(command, check=True, timeout=300)
