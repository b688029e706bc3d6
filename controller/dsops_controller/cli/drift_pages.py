"""A drift report as a page: Markdown for reviews, HTML that needs nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from dsops_controller.cli import output

Report = Mapping[str, Any]
_STATES = ("drift", "warning", "ok")
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}th,td{border:1px solid #ccc;padding:.2rem .6rem;text-align:left}
.different td{background:#fff0e0}svg{vertical-align:middle}
"""
_WIDTH, _HEIGHT = 160, 32


def told(change: Mapping[str, Any]) -> str:
    """Return which bins of a signal changed, in words."""
    bins = [f"{one['bin']} {one['seen']:.0%} instead of {one['expected']:.0%}" for one in change["changes"]]
    return ", ".join(bins) or "hardly anything"


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    return "\n".join(_lines(report)) + "\n"


def html(report: Report) -> str:
    """Return the report as one HTML page; in each small chart the outline is the profile."""
    title = escape(f"Drift of {report['model']}")
    parts = [f"<h1>{title}</h1>", f"<p>{escape(_period(report))}</p>"]
    if report["now"]:
        parts.append(f"<p>{escape(_now(report['now']))}</p>")
    for bundle in report["bundles"]:
        parts += [f"<h2>{escape(_heading(bundle))}</h2>", f"<p>{escape(_summary(bundle))}</p>", _html_table(bundle)]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _lines(report: Report) -> Iterator[str]:
    yield from (f"# Drift of {report['model']}", "", _period(report), "")
    if report["now"]:
        yield from (_now(report["now"]), "")
    for bundle in report["bundles"]:
        yield from (f"## {_heading(bundle)}", "", _summary(bundle), "")
        if bundle["signals"]:
            yield "| signal | chi2 | df | p | noise variance | frames | what changed |"
            yield "| --- | --- | --- | --- | --- | --- | --- |"
            yield from (f"| {' | '.join(_cells(row))} |" for row in bundle["signals"])
            yield ""


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    name = f"**{row['signal']}**" if row["is_different"] else str(row["signal"])
    figures = (f"{row['statistic']:.1f}", str(row["freedom"]), f"{row['p_value']:.3g}", f"{row['noise_variance']:.3g}")
    return (_plain(name), *figures, str(row["frames"]), _plain(told(row)))


def _html_table(bundle: Mapping[str, Any]) -> str:
    if not bundle["signals"]:
        return ""
    titles = ("signal", "chi2", "df", "p", "noise variance", "frames", "what changed", "profile and period")
    rows = ["<tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>"]
    for row in bundle["signals"]:
        cells = [escape(cell.replace("*", "")) for cell in _cells(row)]
        different = ' class="different"' if row["is_different"] else ""
        body = "".join(f"<td>{cell}</td>" for cell in (*cells, _chart(row["expected"], row["seen"])))
        rows.append(f"<tr{different}>{body}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _chart(expected: Sequence[float], seen: Sequence[float]) -> str:
    most = max((*expected, *seen, 1e-9))
    wide = _WIDTH / max(len(seen), 1)
    bars = [_bar(at, wide, share / most, 'fill="#69c"') for at, share in enumerate(seen)]
    lines = [_bar(at, wide, share / most, 'fill="none" stroke="#333"') for at, share in enumerate(expected)]
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}">{"".join((*bars, *lines))}</svg>'


def _bar(at: int, wide: float, share: float, look: str) -> str:
    high = share * _HEIGHT
    place = f'x="{at * wide:.1f}" y="{_HEIGHT - high:.1f}" width="{max(wide - 1, 0.5):.1f}" height="{high:.1f}"'
    return f"<rect {place} {look}/>"


def _period(report: Report) -> str:
    return f"From {output.text(report['since'])} until {output.text(report['until'])}."


def _now(now: Mapping[str, Any]) -> str:
    named = ", ".join(now["drifted"][:20]) or "none"
    more = f" and {len(now['drifted']) - 20} more" if len(now["drifted"]) > 20 else ""
    return (
        f"Now: {_number(now['devices'], 'device')}, {_states(now['states'])}; {now['skewed']} with skew{_stale(now)}. "
        f"Drifted after correction for their number (at most {now['fdr']:.0%} of them wrong): {named}{more}."
    )


def _stale(now: Mapping[str, Any]) -> str:
    return f"; {now['stale']} not heard of for a week do not count" if now["stale"] else ""


def _heading(bundle: Mapping[str, Any]) -> str:
    return f"Release {bundle['release']} ({str(bundle['digest'])[:12]})"


def _summary(bundle: Mapping[str, Any]) -> str:
    base = (
        f"{_number(bundle['devices'], 'device')}, {_states(bundle['states'])} at the end, {bundle['alarmed']} in drift "
        f"at some time, {bundle['skewed']} with skew; {_number(bundle['reports'], 'report')}."
    )
    if bundle["why_no_test"]:
        return f"{base} No test: {bundle['why_no_test']}."
    counted = f"{_number(bundle['frames'], 'frame')} in {_number(bundle['counted'], 'histogram')}"
    return f"{base} {counted}, p {bundle['p_value']:.3g} (corrected)."


def _number(count: int, of: str) -> str:
    return f"{count} {of}" if count == 1 else f"{count} {of}s"


def _states(states: Mapping[str, int]) -> str:
    total = max(sum(states.values()), 1)
    return ", ".join(f"{states.get(name, 0)} {name} ({states.get(name, 0) / total:.0%})" for name in _STATES)


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
