"""The findings of the Autobahn test suite, by section: read from its index.json; fails if a case failed. Runs on Python 2.7."""

from __future__ import print_function

import collections
import json
import sys
import time

TITLES = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "closing",
    9: "limits and performance",
    10: "miscellaneous",
    12: "compression",
    13: "parameters of it",
}

# From the best to the worst: a case has a verdict on its behaviour and one on how it closed.
VERDICTS = ["OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED", "WRONG CODE", "UNCLEAN",
            "FAILED BY CLIENT", "FAILED"]


def key(case):
    return [int(part) for part in case.split(".")]


def main(path, suite):
    with open(path) as report:
        cases = json.load(report)["oneloop"]
    sections = collections.defaultdict(collections.Counter)
    notable = []
    for case in sorted(cases, key=key):
        verdicts = [cases[case]["behavior"], cases[case]["behaviorClose"]]
        worst = max(verdicts, key=VERDICTS.index)
        for section in (key(case)[0], "all"):
            sections[section][verdicts[0]] += 1
        if worst not in ("OK", "INFORMATIONAL") or verdicts[0] == "INFORMATIONAL":
            notable.append((case, worst))
    columns = [name for name in VERDICTS if sections["all"][name] > 0]
    line = "{:<30}{:>7}" + "{:>15}" * len(columns)
    print(line.format("section", "cases", *columns))
    for section in sorted(set(sections) - {"all"}) + ["all"]:
        counts = sections[section]
        title = "{} {}".format(section, TITLES.get(section, "")).strip()
        print(line.format(title, sum(counts.values()), *[counts[name] for name in columns]))
    for case, verdict in notable:
        print("{}: {}".format(case, verdict))
    print("autobahntestsuite {}, {}".format(suite, time.strftime("%Y-%m-%d")))
    return 1 if not cases or any(verdict.startswith("FAILED") for _, verdict in notable) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
