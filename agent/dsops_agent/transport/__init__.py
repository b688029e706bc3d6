"""Connections to the outside: MQTT to the broker, gRPC to the controller, behind small ports."""
