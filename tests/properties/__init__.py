"""Random policies and requests, on which independent procedures must decide alike."""
