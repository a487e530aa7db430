"""The client's decisions, on a scripted clock: the cases stand in policy.cjs."""

import re

from support import OUTSIDE, node


def test_each_case_holds():
    cases = re.findall(r'^  async "(.*)"\(\)', (OUTSIDE / "policy.cjs").read_text(), re.MULTILINE)
    assert len(cases) > 10 and node("policy.cjs") == cases
