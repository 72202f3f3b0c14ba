"""Draws a soak: its faults, and memory, descriptors, threads and files over the steps. Writes SVG, which ffmpeg turns into PNG."""
import math
import os
import subprocess

WIDTH, LEFT, RIGHT, SCALE = 800, 96, 14, 2
PANELS = [("rss", "memory of a rank, MiB", 130), ("descriptors", "descriptors of a rank", 90), ("threads", "threads of a rank", 90),
          ("files", "files in the run folder", 90)]
SERIES = [((1, 0), "#1f5fa8", "one rank"), ((2, 0), "#d9730d", "rank 0 of two"), ((2, 1), "#2e8b57", "rank 1 of two")]
FAULTS = [("kill", "kill"), ("node", "kill all"), ("signal", "signal"), ("stop", "stop"), ("disk", "disk full"), ("clock", "clock jump")]
ROW, GAP, TOP = 15, 34, 40
STYLE = "font-family='DejaVu Sans' font-size='12' fill='#222'"


def text(x, y, content, anchor="start", more=""):
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' {STYLE} {more}>{content}</text>"


def line(x0, y0, x1, y1, color, width=1):
    return f"<line x1='{x0:.1f}' y1='{y0:.1f}' x2='{x1:.1f}' y2='{y1:.1f}' stroke='{color}' stroke-width='{width}'/>"


def nice_ticks(top, count):
    """Round numbers from 0 to at least `top`."""
    raw = max(top, 1) / count
    power = 10 ** math.floor(math.log10(raw))
    step = max(1, next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw))
    return [step * i for i in range(math.ceil(top / step) + 1)]


def value_of(sample, quantity):
    return sample[quantity] / 1024 if quantity == "rss" else sample[quantity]


def panel(samples, quantity, title, y, height, across):
    ticks = nice_ticks(1.08 * max(value_of(sample, quantity) for sample in samples), 4)

    def down(value):
        return y + height * (1 - value / ticks[-1])

    parts = [text(LEFT, y - 7, title, more="font-weight='bold'")]
    for tick in ticks:
        parts += [line(LEFT, down(tick), WIDTH - RIGHT, down(tick), "#ddd"), text(LEFT - 6, down(tick) + 4, f"{tick:,.0f}", "end")]
    for key, color, _ in SERIES:
        if quantity == "files" and key[1]:
            continue  # the folder is the same for both ranks
        lives = {}
        for sample in samples:
            if (sample["ranks"], sample["rank"]) == key:
                lives.setdefault(sample["life"], []).append(f"{across(sample['step']):.1f},{down(value_of(sample, quantity)):.1f}")
        for points in lives.values():
            points += points if len(points) == 1 else []
            parts.append(f"<polyline points='{' '.join(points)}' fill='none' stroke='{color}' stroke-width='1.6' "
                         "stroke-linecap='round'/>")
    return parts


def fault_rows(faults, y, across):
    parts = []
    for row, (kind, name) in enumerate(FAULTS):
        middle = y + ROW * row + ROW / 2
        parts += [line(LEFT, middle, WIDTH - RIGHT, middle, "#eee"), text(LEFT - 6, middle + 4, name, "end")]
        parts += [line(across(fault["step"]), middle - 5, across(fault["step"]), middle + 5, "#b3261e", 1.6) for fault in faults
                  if fault["kind"] == kind]
    return parts


def svg(samples, faults, steps):
    def across(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * step / steps

    parts = [text(LEFT, TOP - 7, "faults", more="font-weight='bold'"), *fault_rows(faults, TOP, across)]
    x = WIDTH - RIGHT
    for _, color, name in reversed(SERIES):
        x -= 7.2 * len(name) + 30
        parts += [line(x, 17, x + 18, 17, color, 3), text(x + 23, 21, name)]
    y = TOP + ROW * len(FAULTS)
    for quantity, title, height in PANELS:
        y += GAP
        parts += panel(samples, quantity, title, y, height, across)
        y += height
    ticks = nice_ticks(steps, 5)
    parts += [text(across(tick), y + 18, f"{tick:,.0f}", "end" if tick == steps else "middle") for tick in ticks if tick <= steps]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, y + 34, "training steps", "middle"))
    height = y + 42
    size = f"width='{SCALE * WIDTH}' height='{SCALE * height:.0f}' viewBox='0 0 {WIDTH} {height:.0f}'"
    return (f"<svg xmlns='http://www.w3.org/2000/svg' {size}>"
            f"<rect width='{WIDTH}' height='{height:.0f}' fill='#fff'/>{''.join(parts)}</svg>")


def draw(samples, faults, steps, path):
    """Writes the PNG `path`, in 64 colours, so that it is small."""
    with open(path + ".svg", "w", encoding="utf-8") as file:
        file.write(svg(samples, faults, steps))
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", path + ".svg", "-filter_complex",
                    "split[a][b];[a]palettegen=max_colors=64:reserve_transparent=0[p];[b][p]paletteuse=dither=none", "-frames:v", "1",
                    "-pred", "mixed", "-compression_level", "9", path], check=True, timeout=60)
    os.unlink(path + ".svg")
