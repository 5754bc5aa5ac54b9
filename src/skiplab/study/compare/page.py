"""Make compare.html, a comparison as one file that needs nothing else.

It has a sortable table, pictures with tips at their marks, and links to the runs.
"""

import html
import json
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from skiplab import __version__
from skiplab.errors import UsageError
from skiplab.runs.result import RunResult
from skiplab.study import record
from skiplab.study.compare.colours import as_css
from skiplab.study.compare.groups import Group
from skiplab.words import counted, now

STYLE = f"""
:root {{ color-scheme: light dark; --soft: #5c6673; --line: #d9dee5; --mark: #eef3fa; \
{as_css(dark=False)} }}
@media (prefers-color-scheme: dark) {{ :root {{ --soft: #a2abb8; --line: #3a424d; --mark: #232b37; \
{as_css(dark=True)} }} }}
"""
STYLE += """
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  margin: 0 auto; padding: 1.2rem; max-width: 76rem; }
h1 { font-size: 1.35rem; margin: 0 0 .2rem; }
.soft { color: var(--soft); font-size: .9rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; \
white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.runs { text-align: left; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; \
padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\25b2"; } th[aria-sort=descending] \
button::after { content: " \\25bc"; }
tbody tr:hover { background: var(--mark); }
figure { margin: 1.6rem 0 0; max-width: 56rem; border: 1px solid var(--line); border-radius: 6px; \
padding: .4rem; }
figure svg { width: 100%; height: auto; display: block; } figure text { fill: var(--ink); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; font-size: .9rem; \
margin: .6rem 0 1.2rem; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
#tip { position: fixed; pointer-events: none; background: #20252c; color: #fff; padding: .35rem \
.55rem; border-radius: 4px;
  font-size: .85rem;  max-width: min(26rem, 90vw); z-index: 9; } #tip[hidden] { display: none; }
li { margin: .25rem 0; }
"""

SCRIPT = """
const tips = JSON.parse(document.getElementById("tips").textContent), tip = \
document.getElementById("tip");
function show(mark, x, y) {
  tip.textContent = tips[mark.id]; tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - box.width - 8)) + "px";
  tip.style.top = Math.max(4, y + 14 + box.height > innerHeight ? y - box.height - 8 : y + 14) + \
"px";
}
for (const id of Object.keys(tips)) {
  const mark = document.getElementById(id);
  if (!mark) continue;
  mark.style.cursor = "pointer";
  mark.addEventListener("pointermove", e => show(mark, e.clientX, e.clientY));
  mark.addEventListener("pointerdown", e => show(mark, e.clientX, e.clientY));
  mark.addEventListener("pointerleave", () => { tip.hidden = true; });
}
for (const head of document.querySelectorAll("th")) \
head.querySelector("button")?.addEventListener("click", () => {
  const up = head.getAttribute("aria-sort") !== "ascending", at = head.cellIndex, body = \
head.closest("table").tBodies[0];
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[at].dataset.value, rows = [...body.rows];
  rows.sort((a, b) => {
    const x = key(a), y = key(b), order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return up ? order : -order;
  });
  body.append(...rows);
});
"""


def as_html(
    folder: Path,
    groups: Sequence[Group],
    table: Sequence[Sequence[str]],
    values: Sequence[Sequence[float | str]],
    lines: Sequence[str],
    pictures: Sequence[tuple[str, str]],
    tips: Mapping[str, str],
) -> str:
    """Return the page, to lie in a folder.

    `table` holds the headings and a row of texts per group, `values` what each row is sorted by.
    `pictures` are titles and <svg> elements, `tips` the texts at their marks, by id.
    """
    heads = "".join(
        f'<th scope="col"><button type="button">{html.escape(head)}</button></th>'
        for head in table[0]
    )
    rows = [
        "<tr>"
        + "".join(
            f'<td data-value="{html.escape(str(value))}">{html.escape(cell)}</td>'
            for cell, value in zip(cells, sort_keys, strict=True)
        )
        + f'<td class="runs">{links(group, folder)}</td></tr>'
        for group, cells, sort_keys in zip(groups, table[1:], values, strict=True)
    ]
    drawn = [
        f'<figure role="group" aria-label="{html.escape(title)}">{svg}</figure>'
        for title, svg in pictures
    ]
    told = [
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
        for name, text in facts(folder, groups)
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, \
initial-scale=1">
<title>Skiplab: {html.escape(folder.name)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(folder.name)}</h1>
<dl>{"".join(told)}</dl>
<div class="wide"><table><thead><tr>{heads}<th scope="col">runs by seed</th></tr></thead><tbody>\
{"".join(rows)}</tbody></table></div>
<ul id="verdict">{"".join(f"<li>{html.escape(line)}</li>" for line in lines)}</ul>
{"".join(drawn)}
<p class="soft">Point at a mark, or touch it, for its values; a heading sorts the table.</p>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="tips">\
{json.dumps(dict(tips)).replace("<", chr(92) + "u003c")}</script>
<script>{SCRIPT}</script></body></html>
"""


def facts(folder: Path, groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Return what was compared: runs, data, command, hardware and dates, each with its name."""
    results = [result for group in groups for result in group.results]
    found = [("runs", f"{counted(len(results), 'run')} in {counted(len(groups), 'group')}")]
    datasets = dict.fromkeys(
        f"{data.name}: {data.train_images:,} training and {data.test_images:,} test images"
        for data in (result.config.dataset for result in results)
    )
    found.append(("data", "; ".join(datasets)))
    # A comparison of several folders has no command of its own.
    with suppress(UsageError):
        found.append(("command", record.read(folder).command))
    machines = dict.fromkeys(describe_machine(result.result) for result in results)
    found.append(("hardware", "; ".join(filter(None, machines)) or "not recorded"))
    ended = sorted(result.result.finished or "" for result in results)
    dates = dict.fromkeys(text[:10] for text in (ended[0], ended[-1]) if text)
    found.append(("trained", " to ".join(dates) or "not recorded"))
    found.append(("compared", f"{now()}, skiplab {__version__}"))
    return found


def describe_machine(result: RunResult) -> str:
    """Return the hardware of a run, with its threads and PyTorch; empty if nothing is recorded."""
    parts = [result.hardware or result.device or ""]
    if result.threads is not None:
        parts.append(counted(result.threads, "thread"))
    if result.versions and "torch" in result.versions:
        parts.append(f"torch {result.versions['torch']}")
    return ", ".join(filter(None, parts))


def links(group: Group, folder: Path) -> str:
    """Return a link to each run folder, named by its seed."""
    paths = [
        os.path.relpath(result.folder, folder).replace(os.sep, "/") for result in group.results
    ]
    # A folder's name may hold bytes that are no UTF-8.
    quoted = [urllib.parse.quote(os.fsencode(path)) for path in paths]
    return " ".join(
        f'<a href="{html.escape(path)}/">{result.seed}</a>'
        for path, result in zip(quoted, group.results, strict=True)
    )
