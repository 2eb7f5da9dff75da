"""The uvicorn face: the protocol class of `gateway serve`."""
