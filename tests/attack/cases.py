"""All cases, in the order in which they run."""

from . import frames, handshakes, streams, unproven

FAMILIES = (unproven, handshakes, frames, streams)
CASES = {case.name: case for family in FAMILIES for case in family.CASES}
