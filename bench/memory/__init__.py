"""The memory of a gateway under hostile traffic: `python -m bench.memory`."""
