"""The next stage of a chain: the workers that this one hands its rows on to, and the layers that they serve."""

from collections.abc import Callable, Mapping

from llm_sepweight import Manifest
from splitlearn.engine.speculation import MAX_SESSION_ROWS, SPECULATION, Speculation, rows_named
from splitlearn.errors import SplitError
from splitlearn.model.plan import SplitPlan, fingerprint
from splitlearn_comm import CommError, FingerprintMismatch, NextStageFailed, ServiceInfo
from splitlearn_comm.replicas.replica import Replica
from splitlearn_comm.replicas.replica_set import Connect, ReplicaSet


class NextStage:
    """Finds the workers at `trunk`, and checks that they serve the layers behind this worker's. Used on the event loop.

    `replicas.run` must be a task.

    Args:
        trunk: the addresses of the next stage's replicas.
        manifest: of this worker's weights; the next stage must have the same.
        plan: this worker's layers.
        dtype: of the hidden states.
        connect: makes the gRPC client for an address; see `splitlearn_comm.replicas.connecting`.
        changed: called when sessions can be opened there, or no longer.

    Raises:
        InvalidAddress: `trunk` is not a list of addresses.
    """

    def __init__(
        self,
        trunk: str,
        manifest: Manifest,
        plan: SplitPlan,
        dtype: str,
        connect: Connect,
        changed: Callable[[], None],
    ) -> None:
        self._manifest = manifest
        self._plan = plan
        self._dtype = dtype
        self._serves: SplitPlan | None = None
        self.replicas = ReplicaSet(trunk, connect, self._incompatibility, changed, failed=lambda: None)

    @property
    def is_ready(self) -> bool:
        """Whether sessions can be opened there now."""
        return self._serves is not None and self.replicas.reason is None

    @property
    def whole_plan(self) -> SplitPlan:
        """This worker's layers and all behind them. Raises like `fingerprint`."""
        return SplitPlan(self._plan.first, self._known().last, self._plan.n_layers)

    @property
    def fingerprint(self) -> str:
        """What the next stage's workers have.

        Raises:
            NextStageFailed: none takes sessions now.
            FingerprintMismatch: none can be the next stage, and none will by itself.
        """
        return fingerprint(self._manifest, self._known(), self._dtype)

    @property
    def whole_fingerprint(self) -> str:
        """What clients of the chain have. Raises like `fingerprint`."""
        return fingerprint(self._manifest, self.whole_plan, self._dtype)

    def guesses_beside(self, own: Mapping[str, str]) -> dict[str, str]:
        """What a worker with these attributes and the next stage report as one; see `splitlearn.engine.speculation`."""
        kinds = [own.get(SPECULATION), *self.replicas.reported(SPECULATION)]
        rows = [own.get(MAX_SESSION_ROWS), *self.replicas.reported(MAX_SESSION_ROWS)]
        return {
            SPECULATION: Speculation.of(*map(Speculation.named, kinds)),
            MAX_SESSION_ROWS: str(min(map(rows_named, rows))),
        }

    def pick(self) -> Replica:
        """A worker for a new session. Raises like `fingerprint` if there is none."""
        replica = self.replicas.pick()
        if replica is None:
            raise self._trouble()
        return replica

    def _known(self) -> SplitPlan:
        if self._serves is None or self.replicas.reason is not None:
            raise self._trouble()
        return self._serves

    def _trouble(self) -> CommError:
        """The error for a client, which waits for what may become well by itself, and not for what does not."""
        kind = NextStageFailed if self.replicas.may_recover else FingerprintMismatch
        return kind(f"the next stage takes no sessions: {self.replicas.reason}")

    async def _incompatibility(self, info: ServiceInfo) -> str | None:
        """Why a worker that says this cannot be the next stage; None if it can. The first that can sets the layers."""
        layers, own = info.attributes.get("layers"), self._plan
        try:
            serves = SplitPlan.parse(layers or "", own.n_layers)
        except SplitError:
            return f"the next stage reports the layers {layers!r}"
        if serves.first != own.last:
            return (
                f"the next stage serves the layers {serves.layers}, and this one {own.layers}; "
                f"start that one at {own.last}"
            )
        expected = fingerprint(self._manifest, serves, self._dtype)
        if info.fingerprint != expected:
            return (
                f"the next stage serves [{info.fingerprint}], this one expects [{expected}]; "
                "give both the same weights and dtype (a model by its name fits no converted directory)"
            )
        if self._serves is None or not self.replicas.usable_addresses():
            self._serves = serves
        if serves != self._serves:
            return f"this replica of the next stage serves {serves.layers}, and the others {self._serves.layers}"
        return None
