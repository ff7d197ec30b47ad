"""A page, one file without a server, in which a person looks a category up: its neighbours in every
graph, who hears it.
"""

import json
from pathlib import Path

from c2srt.files import write_text
from c2srt.relations.compare import Graph
from c2srt.vocabulary import Vocabulary

PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Relations of categories</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; \
padding: 0 1em; color: #222 }
input { font: inherit; width: 24em; max-width: 100%; padding: .35em .6em }
a { color: #1f5fa8; text-decoration: none; cursor: pointer } \
a:hover { text-decoration: underline }
.unseen { color: #b25b00 } small, .mid { color: #777 }
#found a { display: inline-block; margin: .15em 1em .15em 0 }
#graphs { display: flex; flex-wrap: wrap; gap: 1.5em }
table { border-collapse: collapse } td { padding: .15em .7em .15em 0 }
h3 { margin: .6em 0 .2em } td:nth-child(3) { font-variant-numeric: tabular-nums }
</style>
<h1>Relations of categories</h1>
<p><input id="query" placeholder="a category's name or MID" autofocus> \
<small id="count"></small></p>
<p id="found"></p>
<div id="category"></div>
<script>
const data = /*DATA*/;
const get = id => document.getElementById(id), MATCHES = 40, LISTENERS = 60;
const make = (tag, text, kind) => {
  const node = document.createElement(tag); node.textContent = text; \
if (kind) node.className = kind; return node };
const link = row => {
  const node = make("a", data.names[row], row < data.seen ? "" : "unseen");
  node.href = "#" + encodeURIComponent(data.mids[row]); return node };
const listeners = Object.fromEntries(data.kinds.map(kind => { const heard = {};
  data.graphs[kind].forEach((edges, row) => \
edges.forEach(edge => (heard[edge[0]] ||= []).push(row))); \
return [kind, heard] }));
function find() {
  const words = get("query").value.trim().toLowerCase(); get("found").replaceChildren();
  if (!words) { get("count").textContent = data.names.length + " categories, " + \
data.seen + " of them seen"; return }
  const start = [], inside = [];
  data.names.forEach((name, row) => { const lower = name.toLowerCase();
    if (lower.startsWith(words) || data.mids[row] === words) start.push(row); \
else if (lower.includes(words)) inside.push(row) });
  const rows = start.concat(inside);
  get("count").textContent = rows.length + " found" + \
(rows.length > MATCHES ? ", the first " + MATCHES + " shown" : "");
  rows.slice(0, MATCHES).forEach(row => get("found").append(link(row)));
}
function show() {
  const row = data.mids.indexOf(decodeURIComponent(location.hash.slice(1)));
  get("category").replaceChildren(); if (row < 0) return;
  const title = make("h2", data.names[row] + " ");
  title.append(make("span", data.mids[row], "mid"), \
make("small", row < data.seen ? " seen" : " unseen"));
  const graphs = make("div", ""); graphs.id = "graphs"; get("category").append(title, graphs);
  data.kinds.forEach(kind => {
    const box = make("div", ""), table = make("table", ""), edges = data.graphs[kind][row];
    box.append(make("h3", kind)); graphs.append(box);
    if (!edges.length) box.append(make("p", "no neighbours"));
    edges.forEach(([column, strength, type], place) => { const line = table.insertRow();
      const kindOf = type === null ? "" : data.types[type];
      line.append(make("td", place + 1), make("td", ""), \
make("td", strength ?? ""), make("td", kindOf));
      line.cells[1].append(link(column)) });
    box.append(table);
    const heard = listeners[kind][row] || []; \
const by = make("p", ""); by.style.maxWidth = "24em";
    by.append(make("small", row < data.seen ? \
"heard by " + heard.length + (heard.length ? ": " : "") : "unseen: heard by none"));
    heard.slice(0, LISTENERS).forEach((other, place) => by.append(place ? ", " : "", link(other)));
    if (heard.length > LISTENERS) by.append(" …");
    box.append(by) });
}
get("query").addEventListener("input", find); addEventListener("hashchange", show); find(); show();
</script>
"""


def write_page(path: Path, graphs: list[Graph], vocabulary: Vocabulary) -> None:
    """Writes the page with all graphs inside. Names are data, never markup."""
    types = sorted(
        {kind for graph in graphs for kind in graph.edges["type"].unique().to_list() if kind}
    )
    data = {
        "names": vocabulary.titles,
        "mids": vocabulary.mids,
        "seen": vocabulary.seen_count,
        "types": types,
        "kinds": [graph.title for graph in graphs],
        "graphs": {graph.title: page_edges(graph, vocabulary, types) for graph in graphs},
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    write_text(path, PAGE.replace("/*DATA*/", text, 1))


def page_edges(graph: Graph, vocabulary: Vocabulary, types: list[str]) -> list[list[list]]:
    """For each category its [source column, strength or null, index of the type or null], best
    first.
    """
    rows: list[list[list]] = [[] for _ in vocabulary.mids]
    place = {kind: number for number, kind in enumerate(types)}
    for target, source, strength, kind in (
        graph.edges.sort("place").select("target", "source", "strength", "type").iter_rows()
    ):
        shown = None if strength is None else round(strength, 3)
        rows[vocabulary.index[target]].append([vocabulary.index[source], shown, place.get(kind)])
    return rows
