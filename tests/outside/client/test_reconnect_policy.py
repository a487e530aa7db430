"""The client's decisions, on a scripted clock: the cases stand in reconnect_policy.cjs."""

import re

from helpers.process import HELPERS, node


def test_each_case_holds():
    cases = re.findall(r'^  async "(.*)"\(\)', (HELPERS / "reconnect_policy.cjs").read_text(), re.MULTILINE)
    assert len(cases) > 10 and node("reconnect_policy.cjs") == cases
