"""Is a quantity flat over the steps of a soak? Compares the medians of the first and the last third of a series.

A series is one life of one process, without its first steps (`warm_up`: the first sheet and what it allocates). The levels at
which lives begin form another one, over the whole run: a start must not need more memory the longer the run has become. Files and
bytes are those of the run folder."""
import statistics

SHORTEST = 50        # steps of a series that is tested
STARTED = 30         # steps after which a life has begun
SETTLED = 100        # steps after which a life has removed the checkpoints that it need not keep
RSS_STEP = 256       # KiB
RSS_SLOPE = 0.016    # KiB per step, beyond that
BYTES_STEP = 0.02    # of the first third: state.json holds numbers as text


def growth(points):
    """[(step, value)] in order: (median of the last third - median of the first third, steps between the middles of both, median
    of the first third)."""
    begin, end = points[0][0], points[-1][0]
    third = (end - begin) / 3
    first = [value for step, value in points if step <= begin + third]
    last = [value for step, value in points if step >= end - third]
    return statistics.median(last) - statistics.median(first), 2 * third, statistics.median(first)


def is_flat(quantity, points):
    """Whether the series grows by no more than is allowed; falling is allowed."""
    change, steps, level = growth(points)
    if quantity == "rss":
        return change <= RSS_STEP + RSS_SLOPE * steps
    if quantity == "bytes":
        return change <= BYTES_STEP * level
    return change <= 0


def grouped(samples, *keys):
    found = {}
    for sample in samples:
        found.setdefault(tuple(sample[key] for key in keys), []).append(sample)
    return sorted(found.items())


def lives(samples, warm_up):
    """[((life, rank), samples after the warm-up)], of lives that are long enough."""
    series = grouped([sample for sample in samples if sample["age"] >= warm_up], "life", "rank")
    return [(key, life) for key, life in series if len(life) >= 3 and life[-1]["step"] - life[0]["step"] >= SHORTEST]


def starts(samples):
    """[((ranks, rank), one sample of each life, soon after its start)]"""
    begun = [life[0] for _, life in grouped([sample for sample in samples if sample["age"] >= STARTED], "life", "rank")]
    return [(key, first) for key, first in grouped(begun, "ranks", "rank") if len(first) >= 9]


def tests(samples, warm_up):
    """[(name, quantity, points)]"""
    chosen = []
    for quantity in ("rss", "descriptors", "threads"):
        for (life, rank), series in lives(samples, warm_up):
            chosen.append((f"{quantity} of rank {rank} in life {life}, steps {series[0]['step']} to {series[-1]['step']}", quantity,
                           [(sample["step"], sample[quantity]) for sample in series]))
        for (ranks, rank), series in starts(samples):
            chosen.append((f"{quantity} of rank {rank} of {ranks} at the beginning of lives", quantity,
                           [(sample["step"], sample[quantity]) for sample in series]))
    settled = [sample for sample in samples if sample["rank"] == 0 and sample["age"] >= SETTLED]
    for (ranks,), series in grouped(settled, "ranks"):
        if len(series) >= 3 and series[-1]["step"] - series[0]["step"] >= SHORTEST:
            for quantity in ("files", "bytes"):
                chosen.append((f"{quantity} of the run folder, {'one rank' if ranks == 1 else 'two ranks'}", quantity,
                               [(sample["step"], sample[quantity]) for sample in series]))
    return chosen


def growing(samples, warm_up):
    """Describes each series that is not flat."""
    found = []
    for name, quantity, points in tests(samples, warm_up):
        if not is_flat(quantity, points):
            change, steps, level = growth(points)
            found.append(f"{name}: grows from {level:g} by {change:g} in {steps:.0f} steps")
    return found


def summary(samples, warm_up):
    """Lines: number of series and steps, the worst and the pooled growth of memory."""
    series = tests(samples, warm_up)
    lines = []
    for quantity in ("rss", "descriptors", "threads", "files", "bytes"):
        mine = [growth(points) for _, name, points in series if name == quantity]
        if not mine:
            continue
        steps = sum(one[1] for one in mine)
        values = [sample[quantity] for sample in samples]
        worst, total = max(one[0] for one in mine), sum(one[0] for one in mine)
        lines.append(f"{quantity:12} {len(mine):4} series  {min(values)} to {max(values)}, growth at most {worst:g}, "
                     f"together {1000 * total / steps:.3g} per 1,000 steps")
    return lines
