"""Error feedback on the uplink: what a codec drops of a node's update is added to its next one. ::

    update u, residual e ──► codec ──► s on its way to the server
                                       │ accepted: the residual is u + e - s, what was dropped
                                       │ lost:     it is u + e, all that was meant
                                       └ refused:  it is nothing

What became of its last reply stands in the node's next message; until then it keeps both residuals, in the `Store`.
Their digests are in ``Context.state``, with the ticket of the reply. A node that has lost them begins with nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ConfigRecord, Context

from flowerpress.chunks.bundle import Bundle
from flowerpress.codecs.dtypes import ArrayLike, Host, to_host
from flowerpress.codecs.feedback import with_residual
from flowerpress.federation.protocol import RECORD, Offer, records_of, same_server
from flowerpress.federation.store import Store, digest_of

_STATE = f"{RECORD}.feedback"
_TICKET, _NAMES, _DROPPED, _MEANT = "ticket", "records", "dropped", "meant"


@dataclass
class Feedback:
    """The residuals of one node: those it has, by the name of the record, and those of the reply that is being made."""

    context: Context
    offer: Offer
    dropped: dict[str, str] = field(default_factory=dict)
    meant: dict[str, str] = field(default_factory=dict)
    store: Store = field(default_factory=Store)

    @property
    def holder(self) -> str:
        """Who holds the residuals in the store."""
        return f"{self.context.run_id}-{self.context.node_id}-feedback"

    def residual(self, name: str, bases: Mapping[str, ArrayLike]) -> dict[str, Host]:
        """Return what is to be added to the arrays of a record; nothing where shapes have changed."""
        kept = records_of(self.context.state, ConfigRecord).get(_STATE, ConfigRecord())
        which = _verdict(str(kept.get(_TICKET, "")), self.offer)
        digests = dict(zip(_texts(kept, _NAMES), _texts(kept, which), strict=False)) if which else {}
        found: Mapping[str, Host] = self.store.get(digests.get(name, "")) or {}
        return {key: found[key] for key in found if key in bases and found[key].shape == tuple(bases[key].shape)}

    def add(self, name: str, values: Mapping[str, ArrayLike], bundle: Bundle) -> None:
        """Keep what a bundle lacks of the arrays that are coded in it as differences, and what it was meant to say."""
        keys = [key for key in bundle if not bundle.exact(key) and key in bundle.bases]
        dropped = {key: _difference(values[key], bundle[key]) for key in keys}
        meant = {key: _difference(values[key], bundle.bases[key]) for key in keys}
        for kept, arrays in ((self.dropped, dropped), (self.meant, meant)):
            if arrays:
                kept[name] = digest_of(arrays)
                self.store.add(kept[name], arrays, self.holder)

    def commit(self) -> None:
        """Make these the residuals of the node; what came before is let go."""
        self.context.state[_STATE] = ConfigRecord(
            {
                _TICKET: self.offer.ticket,
                _NAMES: list(self.meant),
                _DROPPED: list(self.dropped.values()),
                _MEANT: list(self.meant.values()),
            }
        )
        self.store.keep(self.holder, {*self.dropped.values(), *self.meant.values()})


def _verdict(ticket: str, offer: Offer) -> str:
    """Return which residual of the reply with this ticket is to be used; "" for none.

    A server that did not send the ticket began after that reply: it cannot know, and most replies are accepted.
    """
    if ticket == offer.refused:
        return ""
    return _MEANT if ticket != offer.accepted and same_server(ticket, offer.ticket) else _DROPPED


def _difference(x: ArrayLike, y: ArrayLike) -> Host:
    wide = with_residual(to_host(x), None)
    return np.subtract(wide, to_host(y), out=wide, dtype=wide.dtype)


def _texts(record: ConfigRecord, key: str) -> list[str]:
    value = record.get(key, [])
    return [str(text) for text in value] if isinstance(value, list) else []
