"""One language model in several roles: tokens, backbone, adapters, heads."""
