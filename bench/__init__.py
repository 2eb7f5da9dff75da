"""The benchmark, `python -m bench`: the gateway and its peers in front of one upstream, in interleaved rounds."""
