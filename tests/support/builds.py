"""Marks of tests that run on one build only."""

import pytest

import gateway

patches_a_compiled_constant = pytest.mark.skipif(
    gateway.build() == "native", reason="the test patches a constant, whose value is part of the compiled code"
)
extends_a_compiled_class = pytest.mark.skipif(
    gateway.build() == "native", reason="the test extends a class of the gateway; compiled classes allow no subclass"
)
passes_values_to_compiled_code = pytest.mark.skipif(
    gateway.build() == "native", reason="the test stands in for an exchange; compiled code takes its own classes only"
)
