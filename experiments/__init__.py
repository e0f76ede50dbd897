"""Reproducible comparisons; each module is a command."""
