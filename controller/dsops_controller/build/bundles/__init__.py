"""From a build to bundles, and from bundles to what they hold."""
