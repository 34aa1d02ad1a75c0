"""A fuzzer for the clients' door: bytes on the wire, paths of the façade, and the pure functions behind them."""
