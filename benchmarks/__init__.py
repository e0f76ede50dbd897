"""Ratios of times, measured side by side; each module is a command."""
