"""The tables, and docs/PERFORMANCE.md with its plots."""

import json
import math
import pathlib
import statistics

import rows
from servers import REPOSITORY

PAGE = REPOSITORY / "docs/PERFORMANCE.md"
FOLDER = REPOSITORY / "docs/performance"
BEGIN, END = "<!-- figures: written by scripts/bench --write -->", "<!-- end of figures -->"


NO_CUBIC = ("This kernel does not allow cubic for TCP, so ringway's upstream connections have the "
            "system's congestion control (tcp_allowed_congestion_control).")

IDLE = {"idle": "h3", "h2-idle": "h2", "h1-idle": "http/1.1"}
"""Rows of silent connections, and their protocols."""

NEAR = 1.3
"""How far from an aim counts as near it."""


def median(rounds: list) -> float:
    return statistics.median(seen["figure"] for seen in rounds)


def share(rounds: list, others: list) -> float:
    """A figure as a share of another one: of those of the same round, which saw the same minute of
    the machine; the median of the rounds."""
    by_round = {seen["round"]: seen["figure"] for seen in others}
    shares = [seen["figure"] / by_round[seen["round"]]
              for seen in rounds if seen["round"] in by_round]
    return statistics.median(shares or [math.nan])


def number(figure: float) -> str:
    return f"{figure:.3f}" if figure < 1 else f"{figure:.2f}" if figure < 100 else f"{figure:.0f}"


def aims() -> dict:
    """Row -> its title, its unit, what is to be reached: the figure, the share of nginx's."""
    small = rows.ROWS[0]
    found = {row.name: (f"{row.title}, CPU {row.unit}", row.figure_max, row.ratio_max)
             for row in rows.ROWS}
    return found | {
        name: (f"idle connection, {protocol}, KiB resident", rows.IDLE_KIB_MAX[protocol], None)
        for name, protocol in IDLE.items()
    } | {
        "crowd": (f"1 KiB GET, 10 x 10, beside {rows.CROWD_COUNT:,} silent connections, "
                  f"CPU {small.unit}", None, None),
        "workers1": (f"1 KiB GET, 20 x 10, on the load's cores, one worker, CPU {small.unit}",
                     None, None),
        "workers2": ("the same, two workers", None, None),
    }


def table(results: dict) -> str:
    """All tables: each row's medians beside their aims, growth, latencies, what was saturated."""
    names = list(results["versions"])
    found = {key: results["rows"][key] for key in aims() if results["rows"].get(key)}
    lines = header("", [f"{name} {results['versions'][name]}" for name in names]
                   + ["aim", "ringway"])
    for key, servers in found.items():
        title, figure_max, ratio_max = aims()[key]
        cells = [cell(servers, name) for name in names]
        aim = [f"{figure_max:g}"] if figure_max else []
        aim += [f"{ratio_max:g}x"] if ratio_max else []
        lines.append(line(title, [*cells, ", ".join(aim), verdict(servers, figure_max, ratio_max)]))
    parts = ["\n".join(lines), growth(found), latencies(found, names), busy(found, names)]
    parts += [] if results["has_cubic"] else [NO_CUBIC]
    return "\n\n".join(part for part in [*parts, disturbances(results)] if part)


def header(title: str, heads: list[str]) -> list[str]:
    return [line(title, heads), "|---" * (len(heads) + 1) + "|"]


def line(title: str, cells: list[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def cell(servers: dict, name: str) -> str:
    if name not in servers:
        return "-"
    figure = median(servers[name])
    has_ratio = "nginx" in servers and name != "nginx"
    return number(figure) + (f" ({share(servers[name], servers['nginx']):.2f}x)"
                             if has_ratio else "")


def verdict(servers: dict, figure_max: float | None, ratio_max: float | None) -> str:
    """How ringway's figure, and its share of nginx's, stand to the aims."""
    if "ringway" not in servers:
        return ""
    marks = [mark(median(servers["ringway"]) / figure_max)] if figure_max else []
    if ratio_max and "nginx" in servers:
        marks.append(mark(share(servers["ringway"], servers["nginx"]) / ratio_max))
    return ", ".join(marks)


def mark(share: float) -> str:
    if share <= 1:
        return "met"
    return f"{'within 1.3x' if share <= NEAR else 'missed'} ({share:.2f}x)"


def growth(found: dict) -> str:
    """What a request costs with more connections and more workers, against fewer."""
    lines = []
    for base, grown, ratio_max, title in (
        ("small10", "crowd", rows.CROWD_RATIO_MAX,
         f"CPU of a request beside {rows.CROWD_COUNT:,} open connections, against beside 10"),
        ("workers1", "workers2", rows.WORKERS_RATIO_MAX,
         "CPU of a request with two workers, against one"),
    ):
        servers = found.get(grown, {}).keys() & found.get(base, {}).keys()
        ratios = {name: share(found[grown][name], found[base][name]) for name in sorted(servers)}
        if "ringway" in ratios:
            holds = "holds" if ratios["ringway"] <= ratio_max else "does not hold"
            told = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
            lines.append(f"- {title}: {told}. Ringway's aim, at most {ratio_max:g}x, {holds}.")
    return "\n".join(lines)


def latencies(found: dict, names: list[str]) -> str:
    lines = header("latency p50 / p99 / p99.9, ms", names)
    for key, servers in found.items():
        if all("latency_us" in rounds[0] for rounds in servers.values()):
            lines.append(line(key, [latency(servers.get(name)) for name in names]))
    return "\n".join(lines)


def latency(rounds: list | None) -> str:
    if not rounds:
        return "-"
    at = [statistics.median(seen["latency_us"][key] for seen in rounds)
          for key in ("0.5", "0.99", "0.999")]
    return " / ".join(f"{value / 1000:.2f}" for value in at)


def busy(found: dict, names: list[str]) -> str:
    """What was saturated."""
    def shares(rounds):
        return ", ".join(f"{statistics.median(seen[key] for seen in rounds):.0%}"
                         for key in ("server_busy", "load_busy"))

    lines = header("busy: server's core, load's core", names)
    for key, servers in found.items():
        if all("server_busy" in rounds[0] for rounds in servers.values()):
            lines.append(line(key, [shares(servers[name]) if name in servers else "-"
                                    for name in names]))
    return "\n".join(lines)


def disturbances(results: dict) -> str:
    """Which samples do not count."""
    said = (f"Samples thrown away since other processes used more than "
            f"{results['strangers_max']:.0%} of a core meanwhile: {results['thrown_away']}.")
    if results["left_out"]:
        said += f" Left out: {', '.join(results['left_out'])}."
    return said


def write(results: dict):
    """Puts figures and plots into the page, and the numbers beside it. Rows and plots that were not
    measured stay as they are, and the page says so."""
    FOLDER.mkdir(exist_ok=True)
    store = FOLDER / "results.json"
    old = json.loads(store.read_text()) if store.exists() else {}
    said = keep(results, old)
    store.write_text(json.dumps(results, indent=1) + "\n")
    figures = [f"Machine: {results['machine']}. Rounds: {results['rounds']}.", "", table(results)]
    figures += [part for line in said for part in ("", line)]
    for name, (title, x_name, y_name) in PLOTS.items():
        curves = latency_curves(results) if name == "latency" else results["plots"].get(name)
        if curves:
            (FOLDER / f"{name}.svg").write_text(plot(title, x_name, y_name, curves))
            figures += ["", f"![{title}](performance/{name}.svg)"]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + "\n".join([BEGIN, "", *figures, "", END]) + after)


def keep(results: dict, old: dict) -> list[str]:
    """Adds to the results what they do not have, from those of earlier runs; a line for each."""
    plots = [name for name, curves in old.get("plots", {}).items()
             if curves and not results["plots"].get(name)]
    results["plots"] |= {name: old["plots"][name] for name in plots}
    rounds = {name: found for name, found in old.get("rows", {}).items()
              if name not in results["rows"]}
    results["rows"] |= rounds
    results["versions"] = old.get("versions", {}) | results["versions"]
    machines = {name: old.get("machines", {}).get(name, old["machine"]) for name in rounds}
    results["machines"] = machines
    said = [f"Rows of an earlier run, on {machine}: "
            f"{', '.join(name for name, of in machines.items() if of == machine)}."
            for machine in dict.fromkeys(machines.values())]
    return said + ([f"Plots of an earlier run: {', '.join(plots)}."] if plots else [])


PLOTS = {
    "latency": ("Latency, 10,000 requests a second, open loop", "quantile: 1 in", "us"),
    "connections": ("Cost of a 1 KiB request by connections", "connections", "CPU us/request"),
    "body": ("Cost of a request by the length of its response", "bytes", "CPU us/request"),
    "loss": ("Cost of a download by packet loss", "percent lost", "CPU s/GB"),
}


def latency_curves(results: dict) -> dict:
    """Server -> [1 / (1 - quantile), us]."""
    curves = {}
    for name, rounds in results["rows"].get("open", {}).items():
        curves[name] = [[1 / (1 - float(quantile)), max(1.0, statistics.median(
            seen["latency_us"][quantile] for seen in rounds))]
            for quantile in rounds[0]["latency_us"]]
    return curves


WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 400, 80, 50, 150, 60
COLOURS = ["#0b6e4f", "#c1440e", "#2b59c3", "#8a5a00", "#6a4c93"]


def plot(title: str, x_name: str, y_name: str, curves: dict) -> str:
    """Lines over logarithmic axes; an x of 0 stands at the left end."""
    xs = [x for curve in curves.values() for x, _ in curve if x > 0]
    ys = [y for curve in curves.values() for _, y in curve]
    x_low = min(xs) / (10 if any(x == 0 for curve in curves.values() for x, _ in curve) else 1)
    x_at = scale(x_low, max(xs), LEFT, WIDTH - RIGHT)
    y_at = scale(min(ys) / 1.5, max(ys) * 1.5, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="28" font-size="16">{title}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"{x_name}</text>",
        f'<text x="16" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2})">{y_name}</text>',
    ]
    for x in sorted({x for curve in curves.values() for x, _ in curve}):
        at = x_at(x or x_low)
        parts.append(f'<text x="{at:.0f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">'
                     f"{length(x)}</text>")
        parts.append(f'<line x1="{at:.0f}" x2="{at:.0f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
                     'stroke="#eee"/>')
    for y in ticks(min(ys) / 1.5, max(ys) * 1.5):
        parts.append(f'<text x="{LEFT - 8}" y="{y_at(y) + 4:.0f}" text-anchor="end">{y:g}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(y):.0f}" '
                     f'y2="{y_at(y):.0f}" stroke="#ddd"/>')
    labels = []
    for (name, curve), colour in zip(curves.items(), COLOURS):
        points = [(x_at(x or x_low), y_at(y)) for x, y in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" '
                     'stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        labels.append([*points[-1], colour, name])
    # Names of curves that end together stand below each other.
    labels.sort(key=lambda label: label[1])
    for above, label in zip(labels, labels[1:]):
        if label[0] == above[0]:
            label[1] = max(label[1], above[1] + 14)
    parts += [f'<text x="{x + 8:.0f}" y="{y + 4:.0f}" fill="{colour}">{name}</text>'
              for x, y, colour, name in labels]
    return "\n".join([*parts, "</svg>"]) + "\n"


def length(value: float) -> str:
    """1024 as 1 KiB; what is no such length, as a number."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= unit and value % unit == 0:
            return f"{value // unit:g} {name}"
    return f"{value:g}"


def scale(low: float, high: float, begin: float, end: float):
    span = math.log(high / low) or 1.0
    return lambda value: begin + (end - begin) * math.log(value / low) / span


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [step * 10.0 ** power for power in powers for step in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]
