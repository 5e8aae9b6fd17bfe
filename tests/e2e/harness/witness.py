"""The witness of copies: `witness/copies.c`, built, preloaded into a gateway, and read."""

import dataclasses
import functools
import pathlib
import struct
import subprocess
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[1] / "witness/copies.c"
# The compiler must not turn memcpy's own body, or its loops, into calls of memcpy.
FLAGS = ["-shared", "-fPIC", "-O2", "-fno-builtin", "-fno-tree-loop-distribute-patterns",
         "-Wall", "-Wextra", "-Werror"]
# The functions of a C library that copy. The witness replaces the first two.
INTERPOSED = {"memcpy", "memmove"}
COPYING = INTERPOSED | {
    "bcopy", "memccpy", "mempcpy", "__memcpy_chk", "__memmove_chk", "__mempcpy_chk", "swab",
    "stpcpy", "stpncpy", "strcpy", "strncpy", "wmemcpy", "wmemmove",
}
# `struct counts`: nine words, then sites of three.
HEAD = struct.Struct("=9Q")
SITE = struct.Struct("=3Q")
SITE_COUNT = 64


@functools.cache
def library() -> pathlib.Path:
    """Builds the preload library, once per run, and returns it."""
    built = pathlib.Path(tempfile.mkdtemp(prefix="ringway-witness-")) / "copies.so"
    command = ["cc", *FLAGS, "-o", str(built), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return built


def copying_symbols(program: pathlib.Path) -> tuple[set[str], set[str]]:
    """Returns the copying functions that the program imports, and those that it contains."""
    def names(*options: str) -> set[str]:
        lines = subprocess.run(["nm", *options, str(program)], capture_output=True, text=True,
                               check=True).stdout.splitlines()
        return {line.split()[-1].split("@")[0] for line in lines if line.strip()}

    taken = names("--dynamic", "--undefined-only")
    return taken & COPYING, names("--defined-only") & COPYING


@dataclasses.dataclass(frozen=True)
class Counts:
    """One reading, or the difference of two. Only copies that read from the pools' range are
    counted. Long copies are those of 200 bytes or more."""

    ranges: int
    range_start: int
    range_len: int
    copies: int
    bytes: int
    continued: int
    short_copies: int
    short_bytes: int
    sites_lost: int
    sites: dict[int, tuple[int, int]]

    def __sub__(self, before: "Counts") -> "Counts":
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("copies", "bytes", "continued", "short_copies", "short_bytes", "sites_lost"):
            fields[name] -= getattr(before, name)
        fields["sites"] = {
            caller: (copies - before.sites.get(caller, (0, 0))[0],
                     length - before.sites.get(caller, (0, 0))[1])
            for caller, (copies, length) in self.sites.items()
        }
        return Counts(**fields)


class Witness:
    """The witness of one gateway: the settings to start it with, then what it saw."""

    def __init__(self, folder: pathlib.Path, program: pathlib.Path):
        self.file, self.program = folder / "copies", program

    def settings(self, **environment: str) -> dict:
        """Returns the settings to start the gateway with."""
        preload = {"LD_PRELOAD": str(library()), "RINGWAY_WITNESS": str(self.file)}
        return {"program": self.program, "environment": preload | environment}

    def read(self) -> Counts:
        """Returns the counts so far."""
        data = self.file.read_bytes()
        assert len(data) == HEAD.size + SITE_COUNT * SITE.size, "not this witness's file"
        sites = SITE.iter_unpack(data[HEAD.size:])
        named = {caller: (copies, length) for caller, copies, length in sites if caller}
        counts = Counts(*HEAD.unpack_from(data), named)
        assert counts.ranges == 1, f"{counts.ranges} mappings look like the pools' range"
        return counts

    def where(self, counts: Counts) -> str:
        """Returns where the long copies were made, as source lines, innermost first."""
        lines = []
        for caller, (copies, length) in sorted(counts.sites.items(), key=lambda site: -site[1][0]):
            if copies:
                # The return address: the call is just before it.
                place = subprocess.run(
                    ["addr2line", "--exe", str(self.program), "--inlines", "--functions",
                     "--demangle", "--pretty-print", hex(caller - 1)],
                    capture_output=True, text=True,
                ).stdout
                lines.append(f"{copies} copies of {length} bytes in all by\n{place}")
        return "\n".join(lines)
