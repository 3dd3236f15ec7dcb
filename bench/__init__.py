"""The benchmark: what one request costs through Waypost, beside nginx and Envoy in the same run."""
