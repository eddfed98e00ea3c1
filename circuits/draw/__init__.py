"""Pictures of circuits and of tables of their marginals."""
