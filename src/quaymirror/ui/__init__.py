"""Displays and documents of runs, for people and programs. They read events and `RunProgress` only."""
