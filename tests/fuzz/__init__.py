"""A fuzzer for the clients' door: bytes on the wire, the façade's paths, the pure functions behind."""
