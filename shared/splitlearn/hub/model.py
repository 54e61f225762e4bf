"""A model by its name: what is in its checkpoint is known, and sections are fetched and converted when asked for."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch

from llm_sepweight import Manifest, NoSpaceError, PartSpec
from llm_sepweight.growing import has_section, list_section, write_section
from llm_sepweight.layout import section_order, split_place
from llm_sepweight.manifest import FORMAT_VERSION
from llm_sepweight.tensor_file import file_size
from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.weight_files import DTYPES, StoredTensor
from splitlearn.errors import BadDownload, NotCached, UnsupportedModel
from splitlearn.hub.headers import Located
from splitlearn.hub.listing import Hub, Listing
from splitlearn.hub.names import ModelName
from splitlearn.hub.ranges import RangeReader
from splitlearn.hub.spans import PIECE_BYTES, Span, spans_of
from splitlearn.hub.spool import Spool
from splitlearn.hub.stopping import Stop
from splitlearn.hub.store import CONVERSION, ModelFolder, write_bytes

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows progress: a title, and how many bytes there are to do; what it yields is told each number of bytes done."""

_MANIFEST_LOCK = "manifest"


@contextmanager
def no_bar(_title: str, _total: int) -> Iterator[Callable[[int], None]]:
    """Shows nothing."""
    yield lambda _: None


class NamedModel:
    """One model at one commit. `directory` is a sepweight directory, which has the sections that `fetch` was asked for.

    Args:
        name: as it was given.
        folder: where the model lies, with everything but its weights.
        listing: what the hub said of the commit.
        headers: the weight files' headers by the files' names.
        tensors: the checkpoint's tensors by their names.

    Raises:
        UnsupportedModel, BadCheckpoint, BadPlan: as `prepare`.
        BadDownload: the cache has the commit with other headers.
    """

    def __init__(
        self,
        name: ModelName,
        hub: Hub,
        folder: ModelFolder,
        listing: Listing,
        headers: Mapping[str, bytes],
        tensors: Mapping[str, Located],
        *,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self.directory = folder.weights
        self._name = name
        self._hub = hub
        self._folder = folder
        self._listing = listing
        self._tensors = tensors
        self._piece_bytes = piece_bytes
        self._spool: Spool | None = None
        stored = {key: self._stored(tensor) for key, tensor in tensors.items()}
        self._conversion = prepare(str(folder.source), name=name.model, stored=stored)
        self._begin(_origin(listing.commit, headers))

    def fetch(self, parts: Iterable[PartSpec], bar: Bar = no_bar, stop: Stop | None = None) -> None:
        """Fetches and converts what these parts need and the directory lacks. Other processes may do the same.

        Raises:
            HubError, NoSpaceError, CannotWriteError: whole sections, and whole pieces of others, are kept.
            LayersOutOfRangeError: layers that the model does not have.
        """
        stop = stop or Stop()
        missing = self.missing(parts)
        if not missing:
            return
        if self._hub.is_offline():
            raise NotCached(
                f"{self._name} at {self._listing.commit[:12]}: {PartSpec.of_sections(missing)} is not in the cache "
                f"{self._folder.path}, and HF_HUB_OFFLINE forbids to fetch it"
            )
        self._check_room(missing)
        total = sum(span.size for section in missing for span in spans_of(self._needs(section)))
        with self.reader() as reader, bar(f"fetching {self._name.model}", total) as advance:
            for section in missing:
                with self._folder.locked(section, stop):
                    self._make(section, reader, advance, stop)

    def missing(self, parts: Iterable[PartSpec]) -> list[str]:
        """The sections that these parts need and the directory lacks, with those that what is tied is stored in."""
        wanted = {section for part in parts for section in part.sections(self._conversion.n_layers)}
        ties = self._conversion.tied.items()
        homes = {split_place(home)[0] for tied, home in ties if split_place(tied)[0] in wanted}
        manifest = Manifest.read(self.directory)
        lacking = [each for each in wanted | homes if not has_section(self.directory, manifest, each)]
        return sorted(lacking, key=section_order)

    def reader(self) -> RangeReader:
        """Reads the model's files at the hub."""
        repo, commit = self._name.repo, self._listing.commit
        return RangeReader(str(self._name), commit, lambda file: self._hub.url(repo, commit, file), self._hub.headers())

    def _make(self, section: str, reader: RangeReader, advance: Callable[[int], None], stop: Stop) -> None:
        """Fetches and converts one section, unless another process has meanwhile. Its lock is held."""
        needs = self._needs(section)
        if has_section(self.directory, Manifest.read(self.directory), section):
            advance(sum(span.size for span in spans_of(needs)))
            return

        def read(span: Span, write: Callable[[bytes], object], ended: Stop) -> None:
            reader.read(self._listing.files[span.file], span.start, span.end, write, ended)

        self._spool = Spool(self._folder.pieces(section), read, self._piece_bytes)
        try:
            self._spool.fetch(needs, advance, stop)
            entry = write_section(self.directory, section, self._conversion.sections[section], lambda _: stop.check())
        finally:
            spool, self._spool = self._spool, None
        with self._folder.locked(_MANIFEST_LOCK, stop):
            list_section(self.directory, section, entry)
        spool.remove()

    def _needs(self, section: str) -> list[Located]:
        return [self._tensors[key] for key in self._conversion.needs.get(section, ())]

    def _stored(self, tensor: Located) -> StoredTensor:
        def read() -> torch.Tensor:
            if self._spool is None:
                raise UnsupportedModel(
                    f"{self._name}: what {tensor.key} holds decides how the weights are stored, and no part may fetch "
                    f"the others' tensors; `splitlearn convert {self._name} -o DIR` takes them all"
                )
            return self._spool.tensor(tensor)

        return StoredTensor(tensor.key, DTYPES[tensor.dtype], tensor.shape, read)

    def _begin(self, origin: dict[str, str]) -> None:
        """Makes the directory, or sees that it is of this origin; adds the tokenizer as far as it is here."""
        made = self._conversion
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._folder.locked(_MANIFEST_LOCK, Stop()):
            if (self.directory / "manifest.json").exists():
                found = Manifest.read(self.directory).origin
                if found != origin:
                    raise BadDownload(
                        f"{self._name}: the cache has this commit with other headers ({found}, the hub: {origin}); "
                        f"`splitlearn cache rm {self._name}` removes it"
                    )
            else:
                Manifest(
                    FORMAT_VERSION, made.model_name, made.config, made.dtype, made.n_layers, {}, made.tied, origin
                ).write(self.directory)
            for file in made.tokenizer_files:
                source, target = made.source / file, self.directory / file
                if not target.is_file() or target.stat().st_size != source.stat().st_size:
                    write_bytes(target, source.read_bytes())

    def _check_room(self, missing: Sequence[str]) -> None:
        sizes = [file_size(self._conversion.sections[section]) for section in missing]
        # of one section at a time the pieces are there too
        needed, free = sum(sizes) + max(sizes), shutil.disk_usage(self.directory).free
        if needed > free:
            raise NoSpaceError(self.directory, needed, free)


def _origin(commit: str, headers: Mapping[str, bytes]) -> dict[str, str]:
    """What stands for the model on both ends, whatever each of them fetches."""
    digests = {file: hashlib.sha256(header).hexdigest() for file, header in headers.items()}
    text = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    return {"commit": commit, "headers": hashlib.sha256(text.encode()).hexdigest(), "conversion": CONVERSION}
