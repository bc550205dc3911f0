"""How figures of several rounds are kept and shown."""
import statistics
import sys


def pace(series, before, records):
    """Records a second from when the first stood in Kafka to when the last did."""
    first = next(i for i, (_, offset) in enumerate(series) if offset > before)
    last = next(t for t, offset in series if offset >= before + records)
    return (before + records - series[first][1]) / max(last - series[first][0], 1e-9)


def times(lines):
    return {int(i): float(at) for i, at in (line.split("|") for line in lines.splitlines())}


def note(raw, name, figures):
    print(f"{name}: " + ", ".join(f"{k} {v:,.1f}" for k, v in figures.items()), file=sys.stderr, flush=True)
    for key, value in figures.items():
        raw.setdefault(name, {}).setdefault(key, []).append(value)


def spread(values):
    if not values:
        return "–"
    form = "{:,.0f}" if max(values) > 100 else "{:.1f}"
    text = form.format(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({form.format(min(values))}–{form.format(max(values))})"


def rows(raw, ways):
    return [[name] + [spread(figures.get(way)) for way in ways] for name, figures in raw.items()]


def quantile(sorted_values, q):
    return sorted_values[min(int(q * len(sorted_values)), len(sorted_values) - 1)]
