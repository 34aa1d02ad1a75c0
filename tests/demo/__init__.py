"""Tests of the emulated workspace."""
