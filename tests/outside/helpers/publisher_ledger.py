"""A publisher that keeps books: messages, answers of Redis, and deliveries to each subscriber."""

import itertools
import threading

# Between two messages.
PAUSE = 0.004


class PublisherLedger:
    """A publisher that goes on through every fault, and what Redis answered it.

    `answers[number]` says how many subscribers that message went to; None: it was not said."""

    def __init__(self, proxy, subs):
        self.proxy, self.subs = proxy, subs
        self.topics, self.answers = [], []
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.publish)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()

    def publish(self):
        """Messages say their number. Each goes to the server that is the right one by then."""
        topics = itertools.cycle(["news", *[f"user.{sub}" for sub in self.subs]])
        target = publisher = None
        while not self.ends.wait(PAUSE):
            number = len(self.topics)
            self.topics.append(next(topics))
            self.answers.append(None)
            try:
                if publisher is None or target is not self.proxy.target:
                    close(publisher)
                    target = self.proxy.target
                    publisher = target.publisher()
                answer = publisher.command("PUBLISH", f"pub.{self.topics[number]}", number)
                self.answers[number] = answer if isinstance(answer, int) else None
            except OSError:
                close(publisher)
                publisher = None
        close(publisher)

    def check(self, heard):
        """Accounts for each message that was due, by the messages of each `sub`: numbers and gaps.

        Returns how many messages were lost, to one client each."""
        outages = windows(heard.values())
        lost = 0
        for sub, ones in heard.items():
            topics = ("news", f"user.{sub}")
            numbers = [one for one in ones if one != "gap"]
            assert numbers == sorted(set(numbers)), f"{sub} heard something twice, or out of order"
            for number in numbers:
                assert self.topics[number] in topics, f"{number} was not for {sub}"
                assert self.answers[number] != 0, f"{number} was passed on to nobody"
            owed = {number for number, topic in enumerate(self.topics)
                    if topic in topics and self.answers[number]}
            for number in owed.difference(numbers):
                is_in_gap = any(last < number < first for last, first in outages)
                assert is_in_gap, f"{number} is lost to {sub}, outside of {outages}"
                lost += 1
        return lost


def windows(heard):
    """For each gap the last number that any client received before it, and the first behind it.

    All hear what comes over one link, so what one heard the others cannot have lost in that gap."""
    parts = [split(ones) for ones in heard]
    assert len({len(part) for part in parts}) == 1, f"not as many gaps for each: {parts}"
    together = [[number for part in parts for number in part[at]] for at in range(len(parts[0]))]
    found = []
    for at in range(1, len(together)):
        last = max(itertools.chain([-1], *together[:at]))
        first = min(itertools.chain([float("inf")], *together[at:]))
        assert last < first, f"{first} came after a gap, {last} before it"
        found.append((last, first))
    return found


def split(ones):
    """The messages before, between and after the gaps."""
    parts = [[]]
    for one in ones:
        if one == "gap":
            parts.append([])
        else:
            parts[-1].append(one)
    return parts


def close(publisher):
    if publisher:
        publisher.close()
