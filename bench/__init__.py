"""The benchmark, `python -m bench`: the gateway and its peers over one upstream, in interleaved rounds."""
