"""The table, and docs/PERFORMANCE.md with its plots."""

import json
import math
import pathlib
import statistics

import rows
from servers import REPOSITORY

PAGE = REPOSITORY / "docs/PERFORMANCE.md"
FOLDER = REPOSITORY / "docs/performance"
BEGIN, END = "<!-- figures: written by scripts/bench --write -->", "<!-- end of figures -->"


def median(rounds: list, key: str = "figure") -> float:
    return statistics.median(seen[key] for seen in rounds)


def cell(found: dict, name: str) -> str:
    if name not in found:
        return "-"
    figure = median(found[name])
    ratio = f" ({figure / median(found['nginx']):.2f}x)" if "nginx" in found else ""
    return f"{figure:.2f}{ratio if name != 'nginx' else ''}"


def table(results: dict) -> str:
    """Each row's medians, with the ratio to nginx."""
    names = list(results["versions"])
    heads = [f"{name} {results['versions'][name]}" for name in names]
    lines = [f"| | {' | '.join(heads)} | aim |", "|---" * (len(names) + 2) + "|"]
    titles = {row.name: (f"{row.title}, CPU {row.unit}", f"{row.target:g}x") for row in rows.ROWS}
    titles |= {
        "idle": ("idle connection, KiB resident", "30"),
        "crowd": ("1 KiB GET, 10 x 10, beside 10,000 silent connections, CPU us/request", ""),
        "workers1": ("1 KiB GET, 20 x 10, on the load's cores, one worker, CPU us/request", ""),
        "workers2": ("the same, two workers", ""),
    }
    for key, found in results["rows"].items():
        title, aim = titles[key]
        cells = " | ".join(cell(found, name) for name in names)
        lines.append(f"| {title} | {cells} | {aim} |")
    return "\n".join([*lines, "", latencies(results, names)])


def latencies(results: dict, names: list[str]) -> str:
    """Latency of rows whose requests are small, and what was saturated."""
    lines = ["| latency p50 / p99 / p99.9, us | " + " | ".join(names) + " |",
             "|---" * (len(names) + 1) + "|"]
    for key, found in results["rows"].items():
        if key in ("small10", "small100", "open", "handshake"):
            lines.append(f"| {key} | " + " | ".join(
                latency(found[name]) if name in found else "-" for name in names) + " |")
    lines += ["", "| busy: server's core, load's core | " + " | ".join(names) + " |",
              "|---" * (len(names) + 1) + "|"]
    for key, found in results["rows"].items():
        if key not in ("idle", "workers1", "workers2"):
            lines.append(f"| {key} | " + " | ".join(
                f"{median(found[name], 'server_busy'):.0%}, {median(found[name], 'load_busy'):.0%}"
                if name in found else "-" for name in names) + " |")
    return "\n".join(lines)


def latency(rounds: list) -> str:
    at = [statistics.median(seen["latency_us"][key] for seen in rounds)
          for key in ("0.5", "0.99", "0.999")]
    return " / ".join(f"{value:.0f}" for value in at)


def write(results: dict):
    """Puts figures and plots into the page, and the numbers beside it."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    figures = [f"Machine: {results['machine']}. Rounds: {results['rounds']}.", "", table(results)]
    for name, (title, x_name, y_name) in PLOTS.items():
        curves = latency_curves(results) if name == "latency" else results["plots"].get(name)
        if curves:
            (FOLDER / f"{name}.svg").write_text(plot(title, x_name, y_name, curves))
            figures += ["", f"![{title}](performance/{name}.svg)"]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + "\n".join([BEGIN, "", *figures, "", END]) + after)


PLOTS = {
    "latency": ("Latency, 10,000 requests a second, open loop", "quantile: 1 in", "us"),
    "connections": ("Cost of a 1 KiB request by connections", "connections", "CPU us/request"),
    "body": ("Cost of a request by the length of its answer", "bytes", "CPU us/request"),
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
                     f"{x:g}</text>")
        parts.append(f'<line x1="{at:.0f}" x2="{at:.0f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
                     'stroke="#eee"/>')
    for y in ticks(min(ys) / 1.5, max(ys) * 1.5):
        parts.append(f'<text x="{LEFT - 8}" y="{y_at(y) + 4:.0f}" text-anchor="end">{y:g}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(y):.0f}" '
                     f'y2="{y_at(y):.0f}" stroke="#ddd"/>')
    for (name, curve), colour in zip(curves.items(), COLOURS):
        points = [(x_at(x or x_low), y_at(y)) for x, y in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" '
                     'stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        x, y = points[-1]
        parts.append(f'<text x="{x + 8:.0f}" y="{y + 4:.0f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def scale(low: float, high: float, begin: float, end: float):
    span = math.log(high / low) or 1.0
    return lambda value: begin + (end - begin) * math.log(value / low) / span


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [step * 10.0 ** power for power in powers for step in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]
