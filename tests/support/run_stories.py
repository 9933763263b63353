"""Events of whole runs, in any order that an engine could tell them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import strategies as st
from scene import image, run_started

from quaymirror import events
from quaymirror.errors import Failure, NotFound, Phase
from quaymirror.oci import Digest

HOSTILE = "\x1b[2J[/x]\n\r\u202e\ud800大\u200b" * 3

Fates = st.sampled_from(["skipped", "check fails", "mirrored", "unchanged", "failed", "left in the queue", "in work"])


@dataclass(frozen=True)
class Run:
    """All events of a run in one order, and what was to become of its candidates."""

    fates: list[str]
    events: list[events.Event]

    def count(self, *fates: str) -> int:
        return sum(fate in fates for fate in self.fates)


@st.composite
def runs(draw: st.DrawFn, *, hostile: bool = False) -> Run:
    """Return a run whose candidates go their ways independently: only the order within each is kept."""
    fates = draw(st.lists(Fates, max_size=40))
    told = _interleaved([_story(number, fate) for number, fate in enumerate(fates)], draw(st.integers(0, 2**32)))
    listing: list[events.Event] = [
        events.PageListed(1, len(fates) + 3, len(fates)),
        events.ListingFinished(1, complete=draw(st.booleans())),
    ]
    extra = HOSTILE if hostile else ""
    noise = draw(st.lists(st.sampled_from(_noise(extra)), max_size=10))
    run = run_started(glob="*" + extra, target="/srv/mirror" + extra, dry_run=draw(st.booleans()))
    return Run(fates, [run, *listing, *_interleaved([told, noise], 0)])


def _noise(extra: str) -> list[events.Event]:
    return [
        events.HostPaused("cdn" + extra, 30.0, "429" + extra),
        events.HostResumed("cdn" + extra),
        events.HostPaced("cdn" + extra, "api" + extra, 4, 4.8, 12),
        events.HostPaced("quay.io", "manifests", 64, None, 0),
        events.Notice("look" + extra),
        events.RetryScheduled("blob" + extra, 1, 2.0, "reset" + extra),
        events.StopRequested("Ctrl-C" + extra),
        events.BlobFinished(Digest.of(b""), 5),
        events.WorkerReported("tcp://10.0.0.1:40001" + extra, 5, brought=True),
        events.ImageDerived(image("derived"), ("found" + extra,), ("warning" + extra,)),
        events.ImageFinished(
            events.Outcome(image("lost"), events.Status.SKIPPED, reason="stopped" + extra),
        ),
    ]


def _story(number: int, fate: str) -> list[events.Event]:
    reference = image(f"image-{number}")
    error = Failure.of(NotFound(f"gone {number}", phase=Phase.RESOLVE))
    if fate == "skipped":
        return [events.CandidateSkipped(f"kolla/image-{number}", f"reason {number % 30}")]

    if fate == "check fails":
        return [events.CheckFailed(f"quay.io/kolla/image-{number}", "2025.1-*", error)]

    story: list[events.Event] = [events.CandidateChecked(reference.repository.name, 1)]
    story += [events.TagChecked(reference), events.ImageQueued(reference)]
    if fate == "left in the queue":
        return story

    story += [events.ImageStarted(reference), events.ImagePlanned(reference, 3, 100, 10 + number)]
    if fate == "in work":
        return story

    # A worker may know a digest that the queue did not.
    pinned = reference.pinned(Digest.of(b"other"))
    failure = error if fate == "failed" else None
    outcome = events.Outcome(pinned, events.Status(fate), 10 + number, 90 - number, 1.0, None, failure)
    return [*story, events.ImageFinished(outcome)]


def _interleaved(stories: list[list[events.Event]], seed: int) -> list[events.Event]:
    turns = [index for index, story in enumerate(stories) for _ in story]
    random.Random(seed).shuffle(turns)
    iterators = [iter(story) for story in stories]
    return [next(iterators[index]) for index in turns]
