"""All cases, in the order in which they run."""

from . import fields, frames, handshakes, hellos, moves, slow, streams, unproven, violations

FAMILIES = (unproven, handshakes, hellos, frames, moves, violations, fields, streams, slow)
CASES = {case.name: case for family in FAMILIES for case in family.CASES}
