"""Networks: layers, encoders, agents, mixers, policies."""
