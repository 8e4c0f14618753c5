"""Which files hold a language model's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)
from transformers.utils.hub import get_checkpoint_shard_files

if TYPE_CHECKING:
    from recbole_tslrec.language_model.source import LanguageModelSource


def weight_files(source: LanguageModelSource) -> list[Path]:
    """The files that transformers would load, in the order in which it looks for them.

    Raises:
        OSError: there are none, one that an index names is missing, or they cannot be fetched.
    """
    own_name = getattr(source.config, "transformers_weights", None)
    names = [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME]
    for name in names if own_name is None else [own_name]:
        found = cached_file(
            source.location,
            name,
            _raise_exceptions_for_missing_entries=False,
            **source.files_from,
        )
        if found is None:
            continue
        if not name.endswith(".json"):
            return [Path(found)]
        try:
            shards, _ = get_checkpoint_shard_files(source.location, found, **source.files_from)
        except (KeyError, TypeError, ValueError) as error:
            raise OSError(f"llm: the index [{found}] cannot be read: {error!r}") from error
        for shard in map(Path, shards):
            if not shard.is_file():
                raise OSError(f"llm: the weights [{shard}], which [{found}] names, are not there.")
        return [Path(shard) for shard in shards]
    where = " in this machine's cache of the hub" if source.revision is not None else ""
    raise OSError(
        f"llm: [{source.name}] has no file of weights{where} by a name that transformers looks for: "
        f"{', '.join(names)}."
    )
