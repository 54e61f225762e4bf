"""Finds out what a named model is: the commit of its revision, its small files, the headers of its weight files.

Everything beside tensors is bounded together. What the cache has is not asked for again; a revision that is a commit
needs no hub at all once it is there.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote

from splitlearn.checkpoints.weight_files import weight_map
from splitlearn.errors import BadCheckpoint, BadDownload, NotCached
from splitlearn.hub.headers import LENGTH_BYTES, Located, header_bytes, tensors_in
from splitlearn.hub.listing import Hub, HubFile, Listing
from splitlearn.hub.model import NamedModel
from splitlearn.hub.names import ModelName
from splitlearn.hub.ranges import RangeReader
from splitlearn.hub.spans import PIECE_BYTES
from splitlearn.hub.stopping import Stop
from splitlearn.hub.store import Cache, ModelFolder, write_bytes, write_text

MOST_BESIDE = 32 * 2**20
"""Bytes of everything that is not a tensor: headers, configs, the tokenizer."""

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_AT_ONCE = 8


def open_named(
    name: ModelName,
    cache: Cache,
    *,
    hub: Hub | None = None,
    tokenizer: bool = False,
    stop: Stop | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> NamedModel:
    """The model of this name; nothing of its weights is fetched yet.

    Args:
        tokenizer: whether its files are wanted too.

    Raises:
        HubError: it is not to be had.
        BadCheckpoint, UnsupportedModel, BadPlan: it cannot be used.
    """
    return _Opening(name, cache, hub or Hub(), stop or Stop()).model(tokenizer, piece_bytes)


@dataclass(frozen=True)
class _Opening:
    name: ModelName
    cache: Cache
    hub: Hub
    stop: Stop

    def model(self, tokenizer: bool, piece_bytes: int) -> NamedModel:
        commit, listing = self._resolved()
        folder = self.cache.folder(self.name.repo, commit)
        with folder.locked("source", self.stop):
            if listing is None:
                listing = self._known_listing(folder)
            else:
                write_text(folder.listing, json.dumps(listing.to_json()))
            self._refuse_other_forms(listing)
            beside = listing.beside(tokenizer=tokenizer)
            self._check_bound(sum(each.size for each in beside))
            self._download(folder, listing, beside)
            homes = self._homes(folder, listing)
            shards = [self._file(listing, file) for file in sorted(set(homes.values()) or {_WHOLE})]
            headers = self._headers(folder, listing, shards, sum(each.size for each in beside))
        tensors = _tensors(shards, headers, homes)
        return NamedModel(self.name, self.hub, folder, listing, headers, tensors, piece_bytes=piece_bytes)

    def _resolved(self) -> tuple[str, Listing | None]:
        """The revision's commit, and what the hub says of it if it was asked."""
        known = self.cache.recall(self.name)
        is_known = known is not None and self.cache.folder(self.name.repo, known).listing.is_file()
        if known is not None and is_known and (self.name.is_pinned or self.hub.is_offline()):
            return known, None
        self._refuse_offline("its revision")
        listing = self.hub.list(self.name)
        if not self.name.is_pinned:
            self.cache.remember(self.name, listing.commit)
        return listing.commit, listing

    def _known_listing(self, folder: ModelFolder) -> Listing:
        try:
            return Listing.from_json(json.loads(folder.listing.read_bytes()))
        except (ValueError, TypeError, LookupError) as error:
            raise NotCached(f"{folder.listing} cannot be read; `splitlearn cache rm {self.name}` removes it") from error

    def _refuse_other_forms(self, listing: Listing) -> None:
        if _ADAPTER in listing.files:
            raise BadCheckpoint(
                f"{self.name} is a LoRA adapter, which is not supported; "
                "merge it into its base model (peft: merge_and_unload), and convert the result"
            )
        if not {_WHOLE, _INDEX} & listing.files.keys():
            pickle = next((file for file in _PICKLES if file in listing.files), None)
            hint = f"; `splitlearn convert {self.name} -o DIR` reads its {pickle} as a whole" if pickle else ""
            raise BadCheckpoint(
                f"{self.name} holds no {_WHOLE}, whole or in shards: only such files can be had in part{hint}"
            )

    def _download(self, folder: ModelFolder, listing: Listing, beside: Sequence[HubFile]) -> None:
        def is_here(file: HubFile) -> bool:
            path = folder.source / file.name
            return path.is_file() and path.stat().st_size == file.size

        folder.source.mkdir(exist_ok=True)
        missing = [file for file in beside if not is_here(file)]
        if missing:
            self._refuse_offline(f"its {missing[0].name}")
            self.hub.download(self.name, listing.commit, missing, folder.source)

    def _homes(self, folder: ModelFolder, listing: Listing) -> Mapping[str, str]:
        """By tensor: the shard that the index names; empty for a model in one file, which transformers reads first."""
        return {} if _WHOLE in listing.files else weight_map(folder.source / _INDEX, _INDEX)

    def _file(self, listing: Listing, name: str) -> HubFile:
        if name not in listing.files:
            raise BadCheckpoint(f"{self.name}: {_INDEX} names {name}, which the hub does not have")
        return listing.files[name]

    def _headers(
        self, folder: ModelFolder, listing: Listing, shards: Sequence[HubFile], beside: int
    ) -> dict[str, bytes]:
        def path_of(shard: HubFile) -> str:
            return quote(shard.name, safe="")

        missing = [shard for shard in shards if not (folder.headers / path_of(shard)).is_file()]
        if missing:
            self._refuse_offline(f"the header of {missing[0].name}")
            repo, commit = self.name.repo, listing.commit
            headers = self.hub.headers()
            with RangeReader(str(self.name), commit, lambda file: self.hub.url(repo, commit, file), headers) as reader:
                fetched = self._fetch_headers(reader, missing, beside)
            for shard, header in zip(missing, fetched, strict=True):
                # what is kept is known to be one
                tensors_in(header, shard.name, shard.size)
                write_bytes(folder.headers / path_of(shard), header)
        return {shard.name: (folder.headers / path_of(shard)).read_bytes() for shard in shards}

    def _fetch_headers(self, reader: RangeReader, shards: Sequence[HubFile], beside: int) -> list[bytes]:
        """First how long each is, so that all together are known to stay within the bound; not a byte beyond them."""

        def read(shard: HubFile, end: int) -> bytes:
            collected = bytearray()
            reader.read(shard, 0, end, collected.extend, self.stop)
            return bytes(collected)

        lengths = _each(lambda shard: read(shard, min(LENGTH_BYTES, shard.size)), shards)
        sizes = [header_bytes(first, shard.name, shard.size) for first, shard in zip(lengths, shards, strict=True)]
        self._check_bound(beside + sum(sizes))
        ends = {shard.name: size for shard, size in zip(shards, sizes, strict=True)}
        headers = _each(lambda shard: read(shard, ends[shard.name]), shards)
        changed = [s.name for s, first, whole in zip(shards, lengths, headers, strict=True) if whole[:8] != first]
        if changed:
            raise BadDownload(f"{self.name}: {changed[0]} changed while it was fetched; nothing of it is used")
        return headers

    def _check_bound(self, size: int) -> None:
        if size > MOST_BESIDE:
            raise BadCheckpoint(
                f"{self.name} has {size} bytes of configs, tokenizer and headers, more than {MOST_BESIDE}; "
                f"`splitlearn convert {self.name} -o DIR` takes them"
            )

    def _refuse_offline(self, what: str) -> None:
        if self.hub.is_offline():
            raise NotCached(
                f"{self.name}: {what} is not in the cache {self.cache.root}, and HF_HUB_OFFLINE forbids to ask for it"
            )


def _each(read: Callable[[HubFile], bytes], shards: Sequence[HubFile]) -> list[bytes]:
    with ThreadPoolExecutor(_AT_ONCE, "hub") as threads:
        return list(threads.map(read, shards))


def _tensors(shards: Sequence[HubFile], headers: Mapping[str, bytes], homes: Mapping[str, str]) -> dict[str, Located]:
    """All by name; where two shards hold one name, the index says which is meant."""
    found: dict[str, Located] = {}
    for shard in shards:
        for tensor in tensors_in(headers[shard.name], shard.name, shard.size):
            if tensor.key not in found or homes.get(tensor.key) == shard.name:
                found[tensor.key] = tensor
    return found
