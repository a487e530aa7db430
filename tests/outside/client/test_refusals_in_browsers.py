"""Refusals as pages see them: a close with its reason, since no browser shows the answer to a handshake."""

import contextlib
import json

import pytest
from helpers.js_runtimes import BROWSERS, Page
from helpers.server import counter
from helpers.tokens import token

ENDED = """new Promise((done) => {
  const live = oneloop(url, { token });
  live.onState((state, why) => {
    if (state !== "connecting") done([state, why.code, why.reason, why.detail]);
    if (state === "open") live.close();
  });
})"""

EVENTS = """new Promise((done) => {
  const events = [];
  const socket = new WebSocket(url, ["oneloop.v1", "bearer." + token]);
  socket.onopen = () => events.push("open");
  socket.onerror = () => events.push("error");
  socket.onclose = ({ code, reason, wasClean }) => done({ events, code, reason, wasClean });
})"""


@pytest.fixture(params=BROWSERS)
def page(request, server, tmp_path):
    """A page of `server`, in each browser."""
    with Page(tmp_path, server.host, request.param) as page:
        yield page


async def test_a_page_of_another_origin_is_told_the_setting_that_lets_it_in(start, server, page):
    origin = f"http://{server.host}"
    other = start()
    async with other.client("43") as bystander:
        *told, detail = page.run(ENDED, url=f"{other.url}/ws", token=token())
        assert told == ["closed", 4505, "origin"]
        assert detail == f"not allowed; if it is yours: --origins {origin}"
        assert (counter(other, 'closes_total{code="4505"}'), counter(other, "opened_total")) == (1, 1)
        assert await bystander.heard() == []
    willing = start(*detail.split("yours: ")[1].split())
    assert page.run(ENDED, url=f"{willing.url}/ws", token=token())[0] == "open"


async def test_a_sandboxed_frame_is_told_what_listing_it_would_mean(start, page):
    inside = EVENTS.replace("new Promise((done) => {", "(() => { const done = (seen) => parent.postMessage(seen, '*');") \
        .rstrip(")") + ")()"
    code = """new Promise((done) => {
      addEventListener("message", ({ data }) => done(data), { once: true });
      const frame = document.createElement("iframe");
      frame.setAttribute("sandbox", "allow-scripts");
      frame.srcdoc = `<script>((url, token) => ${inside})(${JSON.stringify(url)}, ${JSON.stringify(token)})</script>`;
      document.body.append(frame);
    })"""
    server, willing = start(), start("--origins", "null")
    async with server.client("43") as bystander:
        seen = page.run(code, url=f"{server.url}/ws", token=token(), inside=inside)
        assert (seen["events"], seen["code"]) == (["open"], 4505)
        assert "--origins null (any page from disk or sandboxed frame)" in json.loads(seen["reason"])["detail"]
        assert await bystander.heard() == []
    # Let in, it is refused for its token alone.
    seen = page.run(code, url=f"{willing.url}/ws", token=token(seconds=-60), inside=inside)
    assert (seen["events"], seen["code"]) == (["open"], 4500)


async def test_the_token_alone_is_a_subprotocol(server, page):
    code = """new Promise((done) => {
      const socket = new WebSocket(url, ["bearer." + token]);
      socket.onmessage = ({ data }) => done([socket.protocol === "bearer." + token, JSON.parse(data)]);
      socket.onclose = ({ code, reason }) => done([false, { code, reason }]);
    })"""
    async with server.client("43") as bystander:
        is_chosen, welcome = page.run(code, url=f"{server.url}/ws", token=token("42"))
        assert is_chosen and (welcome["op"], welcome["sub"]) == ("welcome", "42"), welcome
        assert await bystander.heard() == []


async def test_an_expired_token_is_told_and_the_close_is_clean(server, page):
    url, expired = f"{server.url}/ws", token(seconds=-60)
    async with server.client("43") as bystander:
        state, code, reason, detail = page.run(ENDED, url=url, token=expired)
        assert (state, code, reason) == ("closed", 4500, "expired") and detail
        for _ in range(10):
            seen = page.run(EVENTS, url=url, token=expired)
            assert json.loads(seen.pop("reason")) == {"reason": reason, "detail": detail}
            assert seen == {"events": ["open"], "code": 4500, "wasClean": True}
        assert await bystander.heard() == []


def test_each_browser_hears_its_own_user_alone(server, tmp_path):
    users = dict(zip(BROWSERS, ["42", "43"], strict=True))
    with contextlib.ExitStack() as ends:
        pages = [ends.enter_context(Page(tmp_path / name, server.host, name)) for name in users]
        for page, user in zip(pages, users.values(), strict=True):
            page.open("live", f"{server.url}/ws", token(user))
            page.wait_open("live")
        for number in range(3):
            for user in users.values():
                server.publish(f"user.{user}", {"for": user, "number": number})
        for page, user in zip(pages, users.values(), strict=True):
            own = [(f"user.{user}", {"for": user, "number": number}) for number in range(3)]
            server.publish(f"user.{user}", "marker")
            assert page.heard("live", "marker") == [*own, (f"user.{user}", "marker")]
