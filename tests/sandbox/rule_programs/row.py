"""What a hostile program is, and its way to the runner's own objects.

A program shares its process with the runner, so it finds everything that the runner has. `PRELUDE`
is the one place that knows names of it: a program that says `inside.` gets it in front.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field

SEPARATOR = "# ----- next block\n"

PRELUDE = '''
import ctypes, dataclasses, os, socket, stat, sys, time, types
def _inside():
    def module(name):
        return sys.modules.get("swift_thyme.sandbox." + name)
    def first(names, *places):
        for place in places:
            for name in names:
                found = getattr(place, name, None)
                if found is not None:
                    return found
        raise LookupError(names[0])
    def sockets():
        found = []
        for f in range(3, 250):
            try:
                if stat.S_ISSOCK(os.fstat(f).st_mode): found.append(f)
            except OSError: pass
        return found
    def runner():
        frame = sys._getframe()
        while frame is not None:
            for me in list(frame.f_locals.values()):
                if type(me).__name__ in ("_Runner", "Runner"): return me
            frame = frame.f_back
        raise LookupError("runner")
    def message(kind, **given):
        kind = first([kind], module("messages"), module("runner"))
        plain = {"error": None, "aliases": {}, "hurry": False, "reason": "", "maps": False,
                 "mending": None, "program": None}
        names = [f.name for f in dataclasses.fields(kind)]
        return kind(**{n: given.get(n, plain.get(n, ())) for n in names})
    def encode(item):
        names = ["encode_datagram", "encode_message", "encode_frame", "encode"]
        data = first(names, module("runner"), module("message_codec"))(item)
        return data if isinstance(data, bytes) else bytes(data)
    def report(text=None, **given):
        if text is not None:
            kinds = first(["ErrorKind"], module("messages"))
            error = first(["ReportedError"], module("messages"))
            given["error"] = error(kinds.ERROR, text)
        return encode(message("BlockReport", **given))
    def ready():
        return encode(message("RunnerReady"))
    def send(data):
        for f in sockets():
            try: os.write(f, data)
            except OSError: pass
    def receive(me):
        return first(["_receive", "receive", "_next"], me)()
    def serve(me):
        """Do what the runner does between blocks, for ever."""
        while True:
            order, descriptors = receive(me)
            if hasattr(order, "code"):
                first(["_send", "send"], me)(encode(first(["_run", "run"], me)(order)))
            else:
                first(["_hand_over", "hand_over"], me)(order, descriptors)
    def end_and(act, back=None):
        """Report the end of the block, and act once the worker wants it committed.

        `back` is called in the process that goes on, before it says that it is ready.
        """
        me = runner()
        first(["_send", "send"], me)(report())
        order, descriptors = receive(me)
        act()
        get_ready = me._get_ready
        def ready(*given):
            if back is not None: back()
            get_ready(*given)
        me._get_ready = ready
        first(["_hand_over", "hand_over"], me)(order, descriptors)
        serve(me)
    def when_gone_back_to(act):
        """Make this process act, instead of going on, when a later block is undone."""
        kind = type(runner())
        old = kind._hand_over
        me = os.getpid()
        times = []
        def hand_over(self, order, descriptors):
            if os.getpid() == me:
                times.append(0)
                if len(times) > 1: act()
            old(self, order, descriptors)
        kind._hand_over = hand_over
    return types.SimpleNamespace(**{k: v for k, v in locals().items()})
inside = _inside()
'''


@dataclass(frozen=True)
class Row:
    """A hostile program."""

    program: str
    """Its blocks, separated by `SEPARATOR`; `CANARY_...` stands for a part of the host."""
    ends: tuple[str, ...] = ()
    """How each block may end, alternatives separated by `|`; any end where there is none."""
    settings: dict[str, int] = field(default_factory=dict)
    """Settings that differ from the usual ones, which are a small memory and a small disk."""
    pause_s: float = 0.1
    """Seconds after each block, in which it is committed or undone."""
    limit_s: float = 2.0
    """Limit of each block."""

    def blocks(self, **host: object) -> list[str]:
        """Return the programs to run, one after the other.

        Args:
            **host: What `CANARY_` and a name stands for: `DIR`, a folder with files; `PID`, the
                trainer; `PORT`, a port of TCP on which it listens; `SOCKET`, an abstract name.
        """
        text = textwrap.dedent(self.program)
        for name, value in host.items():
            text = text.replace(f"CANARY_{name}", str(value))
        return [PRELUDE + part if "inside." in part else part for part in text.split(SEPARATOR)]
