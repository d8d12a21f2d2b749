"""Does the installed ms-swift have the names that this package uses of it?

:mod:`swift_thyme.host.contract` looks them up in compiled code, so neither ms-swift nor torch is
loaded here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from swift_thyme.core.finding import Finding, State
from swift_thyme.host.compiled_names import package_folder
from swift_thyme.host.contract import REQUIREMENT, find_missing, host_version
from swift_thyme.host.contract_table import USES, Group

__all__ = ["host_contract"]


def host_contract(deadline_s: float) -> Iterator[Finding]:
    """Give one line per feature: all names are there, or the ones that are missing."""
    if package_folder("swift") is None:
        yield Finding("ms-swift contract", State.LOOK, "not looked for: ms-swift is not installed")
        return
    counts: Counter[Group] = Counter()
    for use in USES:
        counts[use.group] += len(use.pieces)
    for group, missing in find_missing(Group).items():
        subject = f"ms-swift: {group.value}"
        if missing:
            text = f"{host_version()} lacks {', '.join(map(str, missing))}"
            yield Finding(subject, State.BROKEN, text, f"pip install '{REQUIREMENT}'")
        else:
            yield Finding(subject, State.OK, f"{counts[group]} names are there")
