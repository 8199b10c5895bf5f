"""Processes with exact values, for tests of this and other projects."""
