"""The scenarios, in the order in which they run and are shown."""

from __future__ import annotations

from lab.scenario import Scenario

from . import (
    bucket,
    carry,
    cold,
    cores,
    dashboard,
    derived,
    discovery,
    durability,
    memory,
    nightly,
    profile,
    push,
    quay,
    registry,
    scale,
    serve,
    wan,
)

ALL: dict[str, Scenario] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (
        cold,
        cores,
        wan,
        discovery,
        nightly,
        registry,
        quay,
        bucket,
        push,
        serve,
        carry,
        derived,
        memory,
        scale,
        dashboard,
        durability,
        profile,
    )
}
