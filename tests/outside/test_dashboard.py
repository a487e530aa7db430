"""`oneloop dashboard`: what Grafana imports, with metrics that there are."""

import itertools
import json
import re

from support import oneloop

# Names of metrics in an expression, as against functions and labels.
METRIC = re.compile(r"\b(?:oneloop|process)_\w+")


def dashboard():
    done = oneloop("dashboard")
    assert done.returncode == 0 and done.stderr == ""
    return json.loads(done.stdout)


def expressions(board):
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return found + [variable["definition"] for variable in board["templating"]["list"]
                    if variable["type"] == "query"]


async def test_every_expression_asks_for_metrics_that_there_are(start, redis):
    server = start("--streams", "pub", redis=redis)
    there = set()
    for line in server.admin("/metrics")[2].splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            parts = ["_bucket", "_sum", "_count"] if kind == "histogram" else [""]
            there |= {name + part for part in parts}
    asked = expressions(dashboard())
    assert len(asked) > 40
    for expression in asked:
        names = METRIC.findall(expression)
        assert names and set(names) <= there, expression
        for name in names:
            # A counter means nothing but by its rate.
            is_rate = f"rate({name}{{" in expression or f"increase({name}{{" in expression
            assert is_rate == name.endswith(("_total", "_bucket")), expression
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), expression


def test_it_is_what_grafana_takes():
    board = dashboard()
    assert board["uid"] == "oneloop" and board["schemaVersion"] >= 36 and board["title"]
    assert isinstance(board["panels"], list) and "id" not in board
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) > 20 and min(ids) > 0
    variables = {variable["name"] for variable in board["templating"]["list"]}
    for panel in board["panels"]:
        assert panel["type"] in ("row", "stat", "timeseries") and panel["title"], panel
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references), panel["title"]
        for target in panel["targets"]:
            used = {name for name in re.findall(r"\$\{?(\w+)", target["expr"])}
            assert used <= variables | {"__rate_interval"}, target


def test_no_panel_lies_on_another():
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    for place in places:
        assert 0 <= place["x"] and place["x"] + place["w"] <= 24 and place["h"] > 0
    for a, b in itertools.combinations(places, 2):
        apart = (a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
                 or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"])
        assert apart, (a, b)
