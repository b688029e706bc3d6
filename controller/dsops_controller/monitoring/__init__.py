"""The figures of the fleet for monitoring systems: Prometheus asks for them, an OpenTelemetry receiver is sent them."""
