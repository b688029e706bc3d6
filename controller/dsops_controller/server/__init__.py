"""The controller as a service: configuration, MQTT, REST and the composition root that starts them."""
