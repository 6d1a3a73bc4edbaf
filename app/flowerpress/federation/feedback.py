"""Error feedback on the uplink: what a codec drops of a node's update is added to its next one. ::

    update u, residual e ──► codec ──► s on its way to the server
                                       │ accepted: the residual is u + e - s, what was dropped
                                       │ lost:     it is u + e, all that was meant
                                       └ refused:  it is nothing

What became of its last reply stands in the node's next message; until then it keeps both as `Residuals`. Their digests
are in ``Context.state``, with the ticket of the reply. A node that has lost them begins with nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ConfigRecord, Context

from flowerpress.chunks.bundle import Bundle
from flowerpress.codecs.dtypes import ArrayLike, Host, all_finite, dtype_name, is_float, smallest, to_host
from flowerpress.codecs.feedback import with_residual
from flowerpress.federation.protocol import RECORD, Offer, records_of, same_server
from flowerpress.federation.residuals import Residuals

_STATE = f"{RECORD}.feedback"
_TICKET, _NAMES, _DROPPED, _MEANT = "ticket", "records", "dropped", "meant"


@dataclass
class Feedback:
    """The residuals of one node: those it has, by the name of the record, and those of the reply that is being made."""

    context: Context
    offer: Offer
    dropped: dict[str, str] = field(default_factory=dict)
    meant: dict[str, str] = field(default_factory=dict)
    files: Residuals = field(default_factory=Residuals)

    @property
    def owner(self) -> str:
        """Whose residuals they are."""
        return f"{self.context.run_id}-{self.context.node_id}"

    def residual(self, name: str, values: Mapping[str, ArrayLike]) -> dict[str, Host]:
        """Return what is to be added to the arrays of a record; nothing where they are of another kind than before."""
        kept = records_of(self.context.state, ConfigRecord).get(_STATE, ConfigRecord())
        which = _verdict(str(kept.get(_TICKET, "")), self.offer)
        digests = dict(zip(_texts(kept, _NAMES), _texts(kept, which), strict=False)) if which else {}
        found = self.files.get(self.owner, digests[name]) if name in digests else None
        return {} if found is None else dict(_fitting(found, values))

    def add(self, name: str, values: Mapping[str, ArrayLike], bundle: Bundle, bases: Bundle) -> None:
        """Keep what a bundle lacks of the arrays that are coded in it as differences, and what it was meant to say."""
        keys = [k for k in bundle if not bundle.exact(k) and k in bases and bases.spec(k) == bundle.spec(k)]
        for kept, known in ((self.dropped, bundle), (self.meant, bases)):
            if keys:
                kept[name] = self.files.put(self.owner, {key: _difference(values[key], known[key]) for key in keys})

    def commit(self) -> None:
        """Make these the residuals of the node; what came before is let go."""
        if not self.meant and _STATE not in self.context.state:
            return
        self.context.state[_STATE] = ConfigRecord(
            {
                _TICKET: self.offer.ticket,
                _NAMES: list(self.meant),
                _DROPPED: list(self.dropped.values()),
                _MEANT: list(self.meant.values()),
            }
        )
        self.files.keep(self.owner, {*self.dropped.values(), *self.meant.values()})


def _verdict(ticket: str, offer: Offer) -> str:
    """Return which residual of the reply with this ticket is to be used; "" for none.

    Most replies are accepted: so count those to another message of the same push, and those to another server, which
    began after them and cannot know.
    """
    if ticket == offer.refused:
        return ""
    lost = ticket not in (*offer.accepted, offer.ticket) and same_server(ticket, offer.ticket)
    return _MEANT if lost else _DROPPED


def _fitting(residual: Bundle, values: Mapping[str, ArrayLike]) -> Iterable[tuple[str, Host]]:
    """Return what can be added: floats of the same shape; one that is not finite would stay for ever."""
    for key in residual:
        x, left = values.get(key), residual[key]
        if x is not None and is_float(dtype_name(x)) and tuple(x.shape) == left.shape and all_finite(left):
            yield key, _tame(left, to_host(x))


def _tame(left: Host, x: Host) -> Host:
    """Return a residual with which values that are positive throughout, such as variances, keep half of themselves."""
    if not (x.size and (x > 0).all()):
        return left
    wide = with_residual(x, None)
    return np.maximum(left, np.maximum(wide * -0.5, smallest(dtype_name(x)) - wide))


def _difference(x: ArrayLike, y: Host) -> Host:
    wide = with_residual(to_host(x), None)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.subtract(wide, y, out=wide, dtype=wide.dtype)


def _texts(record: ConfigRecord, key: str) -> list[str]:
    value = record.get(key, [])
    return [str(text) for text in value] if isinstance(value, list) else []
