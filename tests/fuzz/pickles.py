"""What may be put into the pickle of a checkpoint, instruction by instruction, and into its zip."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import zipfile
from pathlib import Path

from recbole.config import Config

from fuzz.damage import pick

TRACE = Path("trace")  # what code in a file leaves behind when it runs
_CODE = "open('trace', 'w').write('code ran')"
_SHELL = "touch trace"


class Runs:
    """Unpickled without torch's check, it leaves the trace."""

    def __reduce__(self):
        return leave_trace, ()


def leave_trace() -> None:
    TRACE.write_text("code ran")


def evil_data_set() -> Path:
    """A pickle that leaves the trace, where RecBole may look for a data set."""
    path = Path("evil.pkl")
    path.write_bytes(pickle.dumps(Runs()))
    return path.absolute()


# ---- the instructions of protocol 2 ---------------------------------------------------------------


def _global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def _text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def _call(name: str, *arguments: bytes) -> bytes:
    return _global(name) + b"(" + b"".join(arguments) + b"tR"


def _set(key: str, value: bytes) -> bytes:
    """An entry more of the dict on top of the stack."""
    return _text(key) + value + b"s"


def _remembered(whole: bytes, text: str, *codes: str) -> bytes:
    """From the memo, what one of these instructions makes next after a text."""
    seen, made = False, False
    for code, argument, _ in pickletools.genops(whole):
        if made and code.name in ("BINPUT", "LONG_BINPUT"):
            return b"j" + argument.to_bytes(4, "little")
        seen = seen or argument == text
        made = seen and code.name in codes
    raise AssertionError(f"{text} is not in the pickle")


_CONFIG = f"{Config.__module__}.{Config.__qualname__}"
# A Config that is called evaluates the texts it is given.
_EVALUATING = b"NNN}" + _set("seed", _text(_CODE))
_CALLS = [
    _call("builtins.eval", _text(_CODE)),
    _call("builtins.exec", _text(_CODE)),
    _call("os.system", _text(_SHELL)),
    _call("posix.system", _text(_SHELL)),
    _call("subprocess.check_output", _text(_SHELL)),
    _call("builtins.getattr", _global("builtins.str"), _text("format")),
    _call("fuzz.pickles.leave_trace"),
    _call(_CONFIG, _EVALUATING),
    _call("recbole.config.Config", _EVALUATING),
    _call("recbole_tslrec.recbole_bridge.patches._StoredConfig"),
    _call("pickle.loads", _text("cos\nsystem\n(S'touch trace'\ntR.")),
    _call("torch.load", _text("evil.pkl")),
    _call("collections.OrderedDict"),
    _call("builtins.bytearray", b"J\x00\x00\x00\x7f"),
    _call("numpy.core.multiarray.scalar", _call("numpy.dtype", _text("O")), _text("x")),
    _call("numpy.core.multiarray._reconstruct", _global("numpy.ndarray"), b"K\x00\x85", _text("b")),
    _call("copyreg._reconstructor", _global(_CONFIG), _global("builtins.object"), b"N"),
    _call("torch._utils._rebuild_tensor_v2", b"NNNNNN"),
    _call("torch.nn.Module"),
    _call("recbole.data.utils.create_dataset", b"N"),
]


def change_pickle(choose: random.Random, file: Path) -> tuple[str, bool]:
    """Put instructions into the pickle of a checkpoint, or another in its place.

    Returns:
        What was done, and whether the weights are still as they were if it is read at all.
    """
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        whole = archive.read(name)
    how = pick(choose, "call, call, memo, memo, build, protocol, nested, junk, cut")
    if how == "call":
        call = choose.choice(_CALLS)
        data, what = whole[:-1] + _set("more", call) + b".", f"call {call[:60]!r}"
    elif how in ("memo", "build"):
        data, what = _changed_config(choose, whole, again=how == "build")
    elif how == "protocol":
        content = choose.choice([{}, {"config": Runs()}, Runs(), [1]])
        data = pickle.dumps(content, protocol=choose.randrange(6))
        what = f"another pickle, {data[:30]!r}"
    elif how == "nested":
        depth = choose.choice([500, 10**4, 10**6])
        opening, closing = choose.choice([(b"]", b"a"), (b"(", b"t"), (b"N\x85", b"")])
        data = b"\x80\x02" + opening * depth + b"N" + closing * depth + b"."
        what = f"{depth} times {opening!r}"
    elif how == "junk":
        data, what = choose.randbytes(choose.choice([3, 400])), how
    else:
        data, what = whole[: choose.randrange(len(whole))], how
    _rewrite(file, {name: data})
    return f"pickle: {what}", how in ("call", "memo", "build")


def _changed_config(choose: random.Random, whole: bytes, again: bool) -> tuple[bytes, str]:
    """The Config, or the dict of its values, is taken from the memo once it is made, and changed."""
    key = choose.choice(["dataset_save_path", "dataloaders_save_path"])
    values = _remembered(whole, "final_config_dict", "EMPTY_DICT")
    changed = values + _set(key, _text(str(evil_data_set())))
    if again:  # it is given its state a second time
        config = _remembered(whole, _CONFIG.rpartition(".")[0] + " Config", "NEWOBJ", "REDUCE")
        changed = config + b"}" + _set("final_config_dict", changed) + b"b"
    return whole[:-1] + _set("more", changed) + b".", f"{key} is set again, {again=}"


# ---- the zip -------------------------------------------------------------------------------------


def change_archive(choose: random.Random, file: Path) -> str:
    """A record of the zip is another, with the checksums made anew."""
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = choose.choice(list(records))
    record = records[name]
    how = pick(choose, "gone, renamed, empty, longer, shorter, another's, twice, compressed")
    if how in ("gone", "renamed"):
        del records[name]
    if how == "renamed":
        records[name + "x"] = record
    elif how == "another's":
        records[name] = choose.choice(list(records.values()))
    elif how in ("empty", "longer", "shorter"):
        records[name] = {"empty": b"", "longer": record * 2, "shorter": record[:-1]}[how]
    _write(file, records, zipfile.ZIP_DEFLATED if how == "compressed" else zipfile.ZIP_STORED)
    if how == "twice":
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(name, bytes(len(record)))
    return f"record {name} is {how}"


def _rewrite(file: Path, others: dict[str, bytes]) -> None:
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    _write(file, records | others)


def _write(file: Path, records: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", how) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    file.write_bytes(content.getvalue())
