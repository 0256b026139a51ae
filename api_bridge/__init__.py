"""The JSON bridge: HTTP in, gRPC out. No state and no rules here: shapes, errors, encodings. Start with README.md."""
