"""All cases, in the order in which they run."""

from . import fields, frames, handshakes, hellos, moves, streams, unproven, violations

FAMILIES = (unproven, handshakes, hellos, frames, moves, violations, fields, streams)
CASES = {case.name: case for family in FAMILIES for case in family.CASES}
