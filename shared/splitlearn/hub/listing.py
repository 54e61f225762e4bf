"""What the hub says of a revision, and the small files beside its weights: through `huggingface_hub`."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# of whichever httpx its version uses
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from tqdm import tqdm

from splitlearn.checkpoints.tokenizer_files import TOKENIZER_FILES
from splitlearn.errors import BadDownload, HubRefused, HubUnreachable
from splitlearn.hub.names import ModelName

_ANSWER_SECONDS = 30.0
_REFUSED = (401, 403)
TOKEN_HINT = "ask for access on its page, and give a token that has it: HF_TOKEN, or `hf auth login`"


@dataclass(frozen=True)
class HubFile:
    """A file of a revision. `etag` is what the hub knows its bytes by: a sha256 or git's id of the blob."""

    name: str
    size: int
    etag: str


@dataclass(frozen=True)
class Listing:
    """The files of one commit by their names."""

    commit: str
    files: Mapping[str, HubFile]

    def beside(self, *, tokenizer: bool) -> list[HubFile]:
        """The small files that a part needs: configs and the index, and with the tokenizer also what is of it."""
        return [each for name, each in self.files.items() if _is_config(name) or (tokenizer and is_tokenizers(name))]

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return {"commit": self.commit, "files": [[each.name, each.size, each.etag] for each in self.files.values()]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Listing":
        """Raises ValueError, TypeError or LookupError."""
        return cls(str(values["commit"]), {name: HubFile(name, size, etag) for name, size, etag in values["files"]})


def is_tokenizers(name: str) -> bool:
    """Whether the file at this path belongs to a tokenizer: subfolders hold other models."""
    path = PurePosixPath(name)
    return any(path.match(each) and len(path.parts) == each.count("/") + 1 for each in TOKENIZER_FILES)


def _is_config(name: str) -> bool:
    is_index = name == "model.safetensors.index.json"
    return "/" not in name and (is_index or (name.endswith("config.json") and not is_tokenizers(name)))


@dataclass(frozen=True)
class Hub:
    """The hub at `endpoint`; None takes HF_ENDPOINT's, as `huggingface_hub` does."""

    endpoint: str | None = None

    @staticmethod
    def is_offline() -> bool:
        """Whether HF_HUB_OFFLINE forbids to ask."""
        return bool(constants.HF_HUB_OFFLINE)

    @staticmethod
    def headers() -> dict[str, str]:
        """What requests to the hub carry, with the user's token if there is one."""
        return dict(build_hf_headers(library_name="splitlearn"))

    def url(self, repo: str, commit: str, file: str) -> str:
        """Where the bytes of a file are had from."""
        return str(hf_hub_url(repo, file, revision=commit, endpoint=self.endpoint))

    def list(self, name: ModelName) -> Listing:
        """The commit that a revision is now, and its files.

        Raises:
            HubRefused, HubUnreachable, BadDownload
        """
        with _told(str(name)):
            info = HfApi(endpoint=self.endpoint).model_info(
                name.repo, revision=name.revision, files_metadata=True, timeout=_ANSWER_SECONDS
            )
        commit = info.sha
        if not isinstance(commit, str) or not ModelName(name.repo, commit).is_pinned:
            raise BadDownload(f"{name}: the hub names the commit {commit!r}, which is none")
        if name.is_pinned and commit != name.revision:
            raise BadDownload(f"{name}: the hub answered with another revision, {commit}")
        files = (_file(name, each) for each in info.siblings or [])
        return Listing(commit, {each.name: each for each in files})

    def download(self, name: ModelName, commit: str, files: Iterable[HubFile], folder: Path) -> None:
        """Puts small files into a folder, under their names.

        Raises:
            HubRefused, HubUnreachable, BadDownload
        """
        for each in files:
            with _told(str(name)):
                path = hf_hub_download(
                    name.repo,
                    each.name,
                    revision=commit,
                    local_dir=folder,
                    endpoint=self.endpoint,
                    library_name="splitlearn",
                    tqdm_class=_Silent,
                )
            found = Path(path).stat().st_size
            if found != each.size:
                Path(path).unlink()
                raise BadDownload(f"{name}: {each.name} has {found} bytes, the hub announced {each.size}")


class _Silent(tqdm):  # type: ignore[type-arg]
    def __init__(self, *args: Any, **options: Any) -> None:
        # huggingface_hub's own name for its bars
        options.pop("name", None)
        super().__init__(*args, **{**options, "disable": True})


def _file(name: ModelName, listed: Any) -> HubFile:
    etag = listed.blob_id if listed.lfs is None else listed.lfs.sha256
    if not isinstance(listed.size, int) or listed.size < 0 or not isinstance(etag, str):
        raise BadDownload(f"{name}: the hub announces no size or no ETag of {listed.rfilename!r}")
    return HubFile(str(listed.rfilename), listed.size, etag)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turns the errors of `huggingface_hub` into ours."""
    try:
        yield
    except GatedRepoError as error:
        raise HubRefused(f"{what} is gated: {TOKEN_HINT}") from error
    except RepositoryNotFoundError as error:
        raise HubRefused(
            f"{what} is neither a directory here nor a model that the hub shows to you; "
            "if it is private, give a token: HF_TOKEN, or `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise HubRefused(f"{what}: the hub does not have this revision of the model") from error
    except HFValidationError as error:
        raise HubRefused(f"{what}: {_first_line(error)}") from error
    except HfHubHTTPError as error:
        if error.response.status_code in _REFUSED:
            raise HubRefused(f"{what}: the hub refuses it: {TOKEN_HINT}") from error
        raise HubUnreachable(f"{what}: the hub failed: {_first_line(error)}") from error
    except (LocalEntryNotFoundError, TransportError) as error:
        raise HubUnreachable(f"{what}: the hub cannot be reached: {_first_line(error.__cause__ or error)}") from error
    except OSError as error:
        if error.filename is not None:
            # the disk's
            raise
        raise BadDownload(f"{what}: {_first_line(error)}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadDownload(f"{what}: the hub's answer cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
