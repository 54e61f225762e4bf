"""`splitlearn up`: a trunk and a client on this machine, as two processes connected over loopback."""

import errno
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import httpx
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn.choices import KVCacheDtype, Quantization, Verify
from splitlearn.hub.names import name_of
from splitlearn_cli.api_key import key_text
from splitlearn_cli.children import Child
from splitlearn_cli.completion import Question, show_answer
from splitlearn_cli.errors import ChildFailed, CliError, ServiceRefused, ServiceUnreachable
from splitlearn_cli.signals import STOPPING, stopped_by_signals
from splitlearn_cli.terminal import StatusLine, bytes_bar, note
from splitlearn_cli.urls import Connecting
from splitlearn_cli.verbs.generate import NO_CHAT_TEMPLATE
from splitlearn_cli.waiting import not_ready_because
from splitlearn_client.settings import ServiceKey

SAMPLE = "What does shutil.copyfile do?"

_LOOPBACK = "127.0.0.1"
_KEY_VARIABLE = "SPLITLEARN_CLIENT_API_KEY"
_LINK_VARIABLES = frozenset(
    {f"SPLITLEARN_TRUNK_{name}" for name in ("TLS_CA", "TLS_CERT", "TLS_KEY", "TOKEN", "TOKEN_FILE")}
    | {f"SPLITLEARN_TRUNK_{name}" for name in ("NEXT", "NEXT_TOKEN", "NEXT_TOKEN_FILE")}
    | {f"SPLITLEARN_CLIENT_{name}" for name in ("TLS_CA", "TLS_CERT", "TLS_KEY", "TRUNK_TOKEN", "TRUNK_TOKEN_FILE")}
)
"""What would change how the two are connected, which is for this command to say: over loopback, in clear."""
_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5
# longer than the services' own shutdown timeout, so that they can end by themselves
_STOP_SECONDS = 10.0


class PairSettings(BaseSettings):
    """How to serve a model, and the first prompt."""

    layers: str | None = Field(
        None, description="Layers of the trunk, START-END without END. Default: all but a twelfth at each end."
    )
    port: int = Field(8000, ge=0, le=65535, description="HTTP port of the API and the chat page; 0 picks a free one.")
    trunk_port: int = Field(0, ge=0, le=65535, description="gRPC port of the trunk; 0 picks a free one.")
    device: str | None = Field(None, description="auto, cpu, cuda or cuda:N, for both. Default: auto.")
    dtype: str | None = Field(None, description="float32, bfloat16 or float16. Default: as stored.")
    quantization: Quantization | None = Field(
        None,
        description="For both: int8 halves the weights in memory, int4 takes 4.5 bits for each; both round them. "
        "CPU only. Default: none.",
    )
    kv_cache_dtype: KVCacheDtype | None = Field(
        None,
        description="For both: int8 nearly halves the memory of keys and values and rounds them; for bfloat16 on a "
        "CPU. Default: auto.",
    )
    threads: int | None = Field(None, ge=1, description="CPU cores for one operator. Default: torch's choice.")
    verify: Verify | None = Field(
        None, description="For both: when the files are compared with their digests. Default: auto."
    )
    api_key: ServiceKey = Field(
        None,
        description="A key of 16 characters or more that callers of the API must send as a bearer token; the variable "
        "keeps it out of process lists. Default: the value of SPLITLEARN_CLIENT_API_KEY, or no key is needed.",
    )
    prompt: str | None = Field(None, description="Answer this prompt, print only the answer, and stop.")
    max_tokens: int = Field(128, ge=1, description="The most tokens of the answer.")
    raw: bool = Field(False, description="Continue the prompt itself, without a chat template.")
    start_timeout: float = Field(300.0, gt=0, description="Seconds that both may take to load and to connect.")
    log_dir: Path | None = Field(
        None, description="Directory of the logs. Default: a temporary one, removed after a clean end."
    )


class Settings(PairSettings):
    """The settings, with the model."""

    model_config = SettingsConfigDict(
        env_prefix="SPLITLEARN_UP_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    weights: Path = Field(
        description="Sepweight directory of a whole model, with its tokenizer; or a model on the hub, ORG/NAME or "
        "ORG/NAME@REV, which is fetched first. A path that exists is a path."
    )
    cache_dir: Path | None = Field(
        None,
        description="Directory in which models that are given by their names are kept. Default: "
        "$XDG_CACHE_HOME/splitlearn, or ~/.cache/splitlearn.",
    )


def run(settings: Settings) -> None:
    """Streams one answer, prints the chat page's address, and serves until Ctrl-C, which stops both."""
    with stopped_by_signals():
        _require_free_ports(settings)
        serve(_directory(settings), settings)


def serve(weights: Path, settings: PairSettings) -> None:
    """Runs both services until Ctrl-C, or until the prompt is answered. Raises CliError."""
    _require_free_ports(settings)
    with stopped_by_signals(), _log_folder(settings.log_dir) as folder, _pair(weights, settings, folder) as pair:
        url = _await_ready(*pair, settings.start_timeout)
        _ask(settings, url)
        if settings.prompt is not None:
            return
        note(f"logs: {folder}")
        print(f"chat page: {url}/  (Ctrl-C stops)", flush=True)
        _watch(*pair, url)


@contextmanager
def _log_folder(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
        return
    folder = Path(mkdtemp(prefix="splitlearn-"))
    keep = False
    try:
        yield folder
    except CliError as error:
        # without last_lines, the error has the child's own reason
        keep = not isinstance(error, ChildFailed) or bool(error.last_lines)
        raise
    finally:
        if keep:
            note(f"the logs are in {folder}")
        else:
            shutil.rmtree(folder)


@contextmanager
def _pair(weights: Path, settings: PairSettings, folder: Path) -> Iterator[tuple[Child, Child]]:
    """Trunk and client, started at the same time because both load for seconds, and stopped in order."""
    trunk_port = settings.trunk_port or _free_port()
    started: list[Child] = []
    try:
        _tell_unused_variables()
        arguments = _trunk_arguments(weights, settings, trunk_port)
        started.append(Child("trunk", arguments, folder / "trunk.log", _environment("TRUNK")))
        arguments = _client_arguments(weights, settings, trunk_port)
        started.append(Child("client", arguments, folder / "client.log", _client_environment(settings)))
        yield started[0], started[1]
    except ChildFailed as error:
        for line in error.last_lines:
            note(f"| {line}")
        raise
    finally:
        # a second Ctrl-C must not leave a child running
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        # the client first, because the trunk waits for its requests
        for child in reversed(started):
            child.terminate()
        for child in reversed(started):
            child.wait(_STOP_SECONDS)


def _trunk_arguments(weights: Path, settings: PairSettings, port: int) -> list[str]:
    return [
        *_common_arguments(weights, settings),
        *("--port", str(port)),
        # no fixed port for metrics, so that two trunks can run
        *("--metrics-port", "0"),
    ]


def _client_arguments(weights: Path, settings: PairSettings, trunk_port: int) -> list[str]:
    trunk = f"{_LOOPBACK}:{trunk_port}"
    return [*_common_arguments(weights, settings), "--port", str(settings.port), "--trunk", trunk]


def _tell_unused_variables() -> None:
    if unused := sorted(name for name in os.environ if name.upper() in _LINK_VARIABLES):
        note(f"not used, because the two services are connected over loopback: {', '.join(unused)}")


def _environment(service: str) -> dict[str, str]:
    """What a service gets: its own settings but those of the connection, and not those of the other and of this
    command, which may be secrets."""
    others = tuple(f"SPLITLEARN_{each}_" for each in ("TRUNK", "CLIENT", "UP", "DEMO") if each != service)
    # settings are read from variables in upper and lower case
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in _LINK_VARIABLES and not name.upper().startswith(others)
    }


def _client_environment(settings: PairSettings) -> dict[str, str]:
    """With the API's certificate and keys, as far as they are set."""
    # among the client's arguments it would be in process lists
    key = {} if settings.api_key is None else {_KEY_VARIABLE: settings.api_key.get_secret_value()}
    return {**_environment("CLIENT"), **key}


def _connecting() -> Connecting:
    """To the client, which holds the port as this process's child: it may show any certificate."""
    return {"trust_env": False, "verify": False}


def _common_arguments(weights: Path, settings: PairSettings) -> list[str]:
    shared = ("layers", "device", "dtype", "quantization", "kv_cache_dtype", "threads", "verify")
    given = {name: value for name in shared if (value := getattr(settings, name)) is not None}
    flags = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [str(weights), "--host", _LOOPBACK, *flags]


def _directory(settings: Settings) -> Path:
    """The directory; of a named model the one in the cache, once everything is there: that may take longer than a start
    may."""
    if name_of(settings.weights) is None:
        return settings.weights
    # torch, which this process needs for nothing else
    from llm_sepweight import PartSpec
    from splitlearn.hub.weights import open_weights

    weights = open_weights(settings.weights, settings.cache_dir, tokenizer=True)
    weights.fetch([PartSpec.parse("f")], bytes_bar)
    return weights.directory


def _require_free_ports(settings: PairSettings) -> None:
    _require_free(settings.port, "--port")
    _require_free(settings.trunk_port, "--trunk-port")


def _require_free(port: int, flag: str) -> None:
    """Raises CliError if the port is in use."""
    with socket.socket() as probe:
        # as servers do: allows a port whose last connections are still closing
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise CliError(
                f"port {port} is not available ({error.strerror}); choose another with {flag}, 0 picks a free one"
            ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _await_ready(trunk: Child, client: Child, timeout: float) -> str:
    """The client's URL, once it is connected to the trunk. Raises ChildFailed or ServiceUnreachable."""
    status = StatusLine()
    deadline = time.monotonic() + timeout
    with httpx.Client(timeout=5.0, **_connecting()) as session:
        try:
            while True:
                pending, reason, announced = "loading the trunk's layers", None, client.announced()
                if trunk.announced() is not None:
                    pending = "loading the client's layers"
                    if announced is not None:
                        url = str(announced["page"]).rstrip("/")
                        pending, reason = "connecting the client to the trunk", _not_ready_reason(session, url)
                        if reason is None:
                            return url
                status.show(f"{pending} ({reason})" if reason else pending)
                if time.monotonic() > deadline:
                    raise ServiceUnreachable(
                        f"not ready after {timeout:g} s of {pending} ({reason or 'it is still busy'}); "
                        "give a longer --start-timeout"
                    )
                time.sleep(_POLL_SECONDS)
        finally:
            status.clear()


def _watch(trunk: Child, client: Child, url: str) -> None:
    """Runs while both serve and no file is found to be damaged. Raises ChildFailed."""
    with httpx.Client(timeout=5.0, **_connecting()) as session:
        while True:
            for child in (trunk, client):
                child.check()
            _not_ready_reason(session, url)
            time.sleep(_WATCH_SECONDS)


def _not_ready_reason(session: httpx.Client, url: str) -> str | None:
    """Why the client cannot serve, including its files and its trunk's; None if it can.

    Raises:
        ChildFailed: that will not change by itself.
    """
    not_ready = not_ready_because(session, url)
    if not_ready is None:
        return None
    if not not_ready.may_recover:
        raise ChildFailed(f"client: {not_ready.reason}", ())
    return not_ready.reason


def _ask(settings: PairSettings, url: str) -> None:
    prompt = SAMPLE if settings.prompt is None else settings.prompt
    if settings.prompt is None:
        note(f"> {prompt}")
    # the client takes the variable from this process's environment
    api_key = key_text(settings.api_key) or os.environ.get(_KEY_VARIABLE)
    question = Question(prompt, settings.max_tokens, raw=settings.raw, api_key=api_key)
    try:
        show_answer(url, question, timeout=settings.start_timeout, options=_connecting())
    except ServiceRefused as error:
        if error.code != NO_CHAT_TEMPLATE:
            raise
        if settings.prompt is not None:
            raise ServiceRefused("this model has no chat template; give --raw as well", error.code) from error
        note("this model has no chat template, so there is no sample; try: splitlearn generate --raw")
