"""The progress of runs: one reducer of events, byte counters, rates and forecasts. Pure, with injected clocks."""
