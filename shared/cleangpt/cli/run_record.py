"""The record of a run, from which it is repeated: settings, command line, versions, digests of text, weights and code.

It is one file in the run's directory. A run that was made longer, or went on with other versions, has a part for each.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cleangpt.cli.options import Recorded
from cleangpt.errors import RunRecordError

RUN_FILE = "run.json"
_FORMAT = "cleangpt run 2"
# what a run computed: the weights, and the tokenizer that they belong to
_RESULTS = ("*.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class Part:
    """The steps after `from_step`, up to the next part's; those of a distillation are counted through all its stages.

    `settings` are those that were not None, `given` the names of those that the user named. `made_from` is what the
    checkpoints say, and `environment` what else the numbers may depend on; both by name.
    """

    from_step: int
    command: list[str]
    directory: str
    settings: dict[str, Any]
    given: list[str]
    made_from: dict[str, str]
    environment: dict[str, str]

    def goes_on_as(self, other: "Part") -> bool:
        """Whether the other's steps are computed in the same way."""
        return self.made_from == other.made_from and self.environment == other.environment


@dataclass(frozen=True)
class RunRecord:
    """What a run of a verb was made of, in parts, and the SHA-256 of the files that it made; none before its end."""

    verb: str
    parts: list[Part]
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, verb: str) -> "RunRecord":
        """The record of the run in `folder`. Raises RunRecordError if it is missing, damaged, or another verb's."""
        file = folder / RUN_FILE
        if not file.exists():
            raise RunRecordError(
                f"{folder} has no {RUN_FILE}, so it cannot be repeated: name the --out of cleangpt {verb}"
            )
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if found.pop("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT!r}")
            record = cls(str(found["verb"]), [Part(**each) for each in found["parts"]], dict(found["files"]))
            record._check()
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise RunRecordError(f"{file} cannot be read ({type(error).__name__}: {error}); copy it again") from error
        if record.verb != verb:
            raise RunRecordError(
                f"{folder} was made by cleangpt {record.verb}; repeat it with cleangpt {record.verb} --from"
            )
        return record

    def write(self, folder: Path) -> None:
        """Writes the record into `folder`. Raises NotWrittenError."""
        # imports torch, which --help does without
        from cleangpt.writing import replacing

        with replacing(folder / RUN_FILE) as partial:
            partial.write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n", encoding="utf-8")

    def _check(self) -> None:
        if not self.parts:
            raise ValueError("it has no part")
        starts = [part.from_step for part in self.parts]
        if starts != sorted(starts):
            raise ValueError(f"its parts begin at {starts}")
        kinds = {each.name: type(getattr(Part(0, [], "", {}, [], {}, {}), each.name)) for each in fields(Part)}
        for part in self.parts:
            for name, kind in kinds.items():
                if type(getattr(part, name)) is not kind:
                    raise TypeError(f"{name} is {getattr(part, name)!r}")


def settings_from(verb: str, *places: str) -> Callable[[Path], Recorded]:
    """A function that reads the settings of a verb's run from its directory. It raises RunRecordError.

    `places` are the settings that may be paths: a relative one is one of the directory that the command ran in, and is
    found from here.
    """

    def settings_of(run: Path) -> Recorded:
        part = RunRecord.read(run, verb).parts[-1]
        directory = Path(part.directory)
        there = {name: directory / str(part.settings[name]) for name in places if name in part.settings}
        moved = {name: str(place) for name, place in there.items() if directory != Path.cwd() and place.exists()}
        return Recorded(run / RUN_FILE, {**part.settings, **moved}, frozenset(part.given))

    return settings_of


def digests_of_results(folder: Path, inside: str = ".") -> dict[str, str]:
    """The SHA-256 of weights and tokenizer in a folder `inside` of `folder`, by path; as `sha256sum` prints them."""
    files = sorted(file for pattern in _RESULTS for file in (folder / inside).glob(pattern))
    return {file.relative_to(folder).as_posix(): _sha256(file) for file in files}


def digest_of_code(package: Path) -> str:
    """The SHA-256 of all Python files of a package, with their names."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()} {_sha256(file)}\n".encode())
    return digest.hexdigest()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them; None is left out, for that is not to be set."""
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
